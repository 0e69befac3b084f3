"""Options of the verbs that work on releases."""

from __future__ import annotations

import argparse
import re
from typing import Any

VERBS = ("plan", "reindex", "gate", "releases", "diff", "tag", "rollback", "prune", "fsck", "runs", "serve", "export")
RECORDED = (  # verbs that leave a summary, `ROOT/runs/ID.json`
    *("shard", "train", "embed", "import", "build", "calibrate", "evaluate", "publish", "dedupe", "run"),
    *("reindex", "gate", "tag", "rollback", "prune", "fsck", "lookup", "match", "export"),
)
RUNNERS = ("local", "prism", "flink", "spark", "dataflow")  # `runner.kind`
EXPORTS = ("faiss", "vertex", "milvus", "numpy")
_JSON = "print JSON"


def add_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Adds a subcommand a verb.

    Args:
      verbs: what `add_subparsers` returned. common: options that every verb has.
    """

    def add(name: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = verbs.add_parser(name, parents=[common], help=text, description=text)
        if json:
            verb.add_argument("--json", action="store_true", help=_JSON)
        return verb

    verb = add("plan", "what a line will take: shards, partitions, memory, bytes, CPU hours, wall time and price of each verb")
    verb.add_argument("--items", type=int, metavar="N", help="items (default: as many as the source has, where it says so)")
    verb.add_argument("--dim", type=int, metavar="D", help="dim of ready-made vectors (default: that of the source)")
    verb.add_argument("--example-bytes", type=int, metavar="B", help="bytes of an example (default: by the source's shape)")
    verb.add_argument("--workers", type=int, metavar="W", help="machines a verb at most (default: the configuration's)")
    verb.add_argument("--calibration", metavar="FILE", help="measured costs (default: plan.calibration, or simpipe's own)")
    verb = add("reindex", "bring the live release up to date: only what changed is embedded and rebuilt; gate; publish (Beam)")
    text = (
        "only what was added or changed, in FOLDER/upsert, and ids to drop, in FOLDER/delete; else the whole source is compared"
    )
    verb.add_argument("--deltas", metavar="FOLDER", help=text)
    verb.add_argument("--no-publish", action="store_true", help="build, measure and judge only")
    verb.add_argument("--force", action="store_true", help="publish although a gate failed; it is recorded in the release")
    verb = add("gate", "judge a release against the limits of `gates` and against the live release; exit code 4 where it fails")
    verb.add_argument("--release", metavar="ID", help="a release or tag (default: the release of this configuration)")
    add("releases", "list releases: which is live, who made what from what, items, metrics, verdict")
    verb = add("diff", "what differs between two releases: items, metrics, cutpoints, configuration")
    verb.add_argument("one", metavar="A", help="a release id, a tag, `live` or `previous`")
    verb.add_argument("other", metavar="B", nargs="?", default="live", help="another one (default: %(default)s)")
    verb.add_argument(
        "--ids", type=int, default=10, metavar="N", help="ids of each kind of change to show (default: %(default)s)"
    )
    verb = add("tag", "name a release; a tagged release is never pruned", json=False)
    verb.add_argument("name", metavar="NAME", help="letters, digits, `.`, `_` and `-`")
    verb.add_argument("--release", metavar="ID", help="a release id (default: the live one)")
    verb.add_argument("--remove", action="store_true", help="remove the tag instead")
    add("rollback", "make the previous release live again", json=False)
    verb = add("prune", "remove releases that are neither live, previous, tagged, among the newest, nor read by anybody")
    verb.add_argument("--keep", type=int, default=3, metavar="N", help="newest releases to keep (default: %(default)s)")
    verb.add_argument(
        "--older-than", type=float, default=0.0, metavar="DAYS", help="remove only what is older (default: %(default)s)"
    )
    verb.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    verb = add(
        "fsck", "verify checksums, counts and references of all releases, and find orphans; exit code 1 where something is wrong"
    )
    verb.add_argument("--fast", action="store_true", help="compare sizes only; no file is read")
    verb = add("runs", "list the last runs of verbs on this root: how they ended, release, items, seconds")
    verb.add_argument("--last", type=int, default=20, metavar="N", help="how many, newest first (default: %(default)s)")
    verb = add("serve", "answer over HTTP from the live release, and show it on a web page; follows the pointer", json=False)
    verb.add_argument("root", nargs="?", metavar="ROOT", help="of the releases, local or gs:// (default: the configuration's)")
    verb.add_argument("--host", metavar="HOST", help="address to listen on (default: serve.host, 127.0.0.1)")
    verb.add_argument("--port", type=int, metavar="PORT", help="port; 0: any free one (default: serve.port, 8080)")
    verb.add_argument("--workers", type=int, metavar="N", help="server processes (default: serve.workers, 1)")
    verb = add("export", "a release's items for other software: a FAISS index, Vertex AI Vector Search, Milvus, NumPy (Beam)")
    verb.add_argument("--to", required=True, choices=EXPORTS, metavar="KIND", help=f"one of {', '.join(EXPORTS)}")
    verb.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, local or gs://")
    verb.add_argument("--root", metavar="PATH", help="a root or a release's folder, instead of the configuration's root")
    verb.add_argument("--release", metavar="ID", help="a release id or tag (default: the live one)")


def add_run_id(verbs: Any) -> None:
    """Adds `--run-id` to every verb that leaves a summary."""
    for name in RECORDED:
        verbs.choices[name].add_argument(
            "--run-id", type=_run_id, metavar="ID", help="names the run's summary, ROOT/runs/ID.json (default: time and verb)"
        )


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of 1 to 63 letters, digits and hyphens, a hyphen not first")
    return text
