"""The command line: one subcommand a verb. Importing this module loads nothing heavy, so that help is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from simpipe import __version__
from simpipe.verbs.options import RUNNERS, add_run_id, add_verbs

_STEPS = {
    "shard": "source -> TFRecord shards with dataset.json (Beam)",
    "train": "shards -> encoder (class-balanced sampler, MirroredStrategy)",
    "embed": "shards + encoder -> embeddings in Parquet (Beam)",
    "import": "ready-made vectors (npy, npz, Parquet) -> embeddings; no TensorFlow (Beam)",
    "build": "embeddings -> release: partitions with ANN indexes, store, manifest (Beam)",
    "calibrate": "held-out queries -> distance cutpoints (Beam)",
    "evaluate": "held-out queries -> metrics.json and report.html (Beam)",
    "publish": "move the pointer live.json to a release",
    "dedupe": "groups of near-duplicate items of the release, as Parquet (id, group, representative) (Beam)",
    "run": "the whole line, gate and publish at its end; steps whose inputs, code and configuration are unchanged are skipped",
}


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    top = argparse.ArgumentParser(
        prog="simpipe",
        description="From a data set to a published, calibrated similarity index.",
        epilog="Options after a bare -- go to Beam untouched: simpipe run --config FILE -- --runner=DirectRunner",
    )
    top.add_argument("--version", action="version", version=f"simpipe {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", default="configs/digits.yaml", metavar="FILE", help="YAML configuration (default: %(default)s)"
    )
    common.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE", help="change one value; may be repeated"
    )
    text = "where Beam jobs run, instead of the configuration's runner.kind"
    common.add_argument("--runner", choices=RUNNERS, metavar="KIND", help=f"{text}: {', '.join(RUNNERS)}")
    for name, text in _STEPS.items():
        verb = verbs.add_parser(name, parents=[common], help=text, description=text)
        if name == "publish":
            verb.add_argument("--release", metavar="ID", help="a release or tag (default: the release of this configuration)")
            verb.add_argument("--force", action="store_true", help="although a gate failed; it is recorded in the release")
        if name == "dedupe":
            how = verb.add_mutually_exclusive_group()
            how.add_argument("--distance", type=float, metavar="D", help="near: within this distance (default: dedupe.distance)")
            how.add_argument("--cutpoint", metavar="NAME", help="near: within this cutpoint (default: dedupe.cutpoint)")
        if name == "run":
            text = "run nothing: translate every job as a submission would, without a network, and check it"
            verb.add_argument("--dry-run", action="store_true", help=text)
            text = "with --dry-run: how many items jobs are made up for (default: %(default)s)"
            verb.add_argument("--items", type=_positive, default=10_000_000, metavar="N", help=text)
        if name == "shard":
            verb.add_argument("--verify", action="store_true", help="write nothing: read back every record of the data set")
            verb.add_argument("--folder", metavar="PATH", help="with --verify: another data set, local or gs://")
    text = "show a data set of examples: splits, classes, sizes, pictures"
    verb = verbs.add_parser("inspect", parents=[common], help=text, description=text)
    verb.add_argument("--folder", metavar="PATH", help="a data set, local or gs://, instead of the configuration's")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument(
        "--grid", nargs="?", const="examples-grid.png", metavar="FILE.png", help="draw examples (default file: %(const)s)"
    )
    verb.add_argument("--classes", type=_positive, default=12, metavar="N", help="rows of the grid (default: %(default)s)")
    verb.add_argument("--examples", type=_positive, default=10, metavar="M", help="columns of the grid (default: %(default)s)")
    verb.add_argument("--seed", type=int, metavar="N", help="other classes and examples in the grid (default: the data set's)")
    text = "versions of the libraries, and whether NMSLIB's fast build is installed"
    verb = verbs.add_parser("doctor", help=text, description=text)
    verb.add_argument("--json", action="store_true", help="print JSON")
    add_verbs(verbs, common)
    for name, text in (
        ("lookup", "nearest items of a query"),
        ("match", "label of a query, or no match beyond the cutpoint"),
    ):
        verb = verbs.add_parser(name, parents=[common], help=text, description=text)
        query = verb.add_mutually_exclusive_group(required=True)
        query.add_argument(
            "--id", dest="ids", action="append", metavar="ID", help="an item or query of the data set; may be repeated"
        )
        query.add_argument(
            "--image", dest="images", action="append", metavar="FILE", help="an image file, through the encoder; may be repeated"
        )
        query.add_argument("--vectors", metavar="FILE.npy", help="float32[n, dim] query vectors")
        text = "a file, folder or pattern of Parquet with columns embedding and/or id (Beam); the answers go to --out"
        query.add_argument("--queries", metavar="FILE.parquet", help=text)
        verb.add_argument("--out", metavar="FILE.parquet", help="with --queries: where the answers go")
        text = "with --queries: largest share of queries that may be rejected (default: all; they are listed beside --out)"
        verb.add_argument("--max-rejected", type=float, default=1.0, metavar="SHARE", help=text)
        verb.add_argument("-k", type=int, default=5, help="neighbors to show (default: %(default)s)")
        verb.add_argument("--root", metavar="PATH", help="a root or a release's folder, instead of the configuration's root")
        verb.add_argument("--release", help="a release id (default: the live one)")
        text = "ask a server of `simpipe serve` instead of opening the release here"
        verb.add_argument("--server", metavar="URL", help=text)
        text = """only items whose metadata fit, as JSON: '{"country": "de", "price": {"gte": 10, "lt": 20}}'"""
        verb.add_argument("--filter", metavar="JSON", help=text)
        verb.add_argument("--encoder", metavar="FOLDER", help="encoder for --image (default: the release's own)")
        verb.add_argument("--json", action="store_true", help="print JSON")
        if name == "lookup":
            how = verb.add_mutually_exclusive_group()
            how.add_argument(
                "--target-recall", type=float, metavar="R", help="cheapest search measured to reach it (default: the release's)"
            )
            how.add_argument("--exact", action="store_true", help="scan everything instead of using the indexes")
            verb.add_argument("--where", metavar="VALUE", help="only items with this value of the column that routes")
        if name == "match":
            verb.add_argument("--cutpoint", default="optimal", help="name of a cutpoint (default: %(default)s)")
            verb.add_argument("--matcher", metavar="NAME@K", help="another calibrated matcher, such as match_majority_vote@5")
            of = verb.add_mutually_exclusive_group()
            of.add_argument("--group", metavar="VALUE", help="use the cutpoint of this value of the column calibrate.by")
            of.add_argument("--by-label", action="store_true", help="use the cutpoint of the match's label (calibrate.by: label)")
    add_run_id(verbs)
    return top


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. Errors of simpipe are printed without a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    beam_args: list[str] = []
    if "--" in args:
        cut = args.index("--")
        args, beam_args = args[:cut], args[cut + 1 :]
    options = parser().parse_args(args)
    # Before TensorFlow is loaded: its start-up chatter says nothing to a user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from simpipe.errors import SimpipeError

    try:
        from simpipe import commands

        return commands.execute(options, beam_args)
    except SimpipeError as error:
        print(f"simpipe {options.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f"{error.filename}: " if error.filename else ""
        cure = "check the path, its rights and free space"
        print(f"simpipe {options.verb}: {where}{error.strerror or error}\n  cure: {cure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"simpipe {options.verb}: stopped; run it again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
