"""What a re-index costs beside a full build, when 1 % of the items changed, and when none did.

    python -m benchmarks.reindex [--n 200000] [--dim 64] [--partitions 64] [--backend scann]

One catalogue of labelled vectors, 1 % of them held out as queries. A full line is run; then the items of one label in a
hundred get new vectors, and four commands are measured as whole processes: `simpipe reindex`, `simpipe reindex` again (nothing
changed), again after the source was written anew with the same content, and with the items of another label as a folder of
changes (`--deltas`); and a full line of all items in an empty root. Prints JSON lines.

`ratio_build`: CPU of finding changes, embedding and rebuilding (as the summary has it) over CPU of the verbs import and build.
`ratio_line`: of the whole commands, with calibration, evaluation and gates on both sides (and the report on the side of the
full line).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import Catalogue, configure
from benchmarks.child import Usage, run_child
from benchmarks.releases import workplace
from simpipe import files, releases

_BUILT = ("compare", "changes", "rebuild", "export", "build", "embed")


def simpipe(verb: str, config: Path, *options: str) -> tuple[Usage, str]:
    """Runs a verb in a process of its own."""
    return run_child([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config), *options], echo=False)


def reindex(config: Path, *options: str) -> tuple[Usage, dict[str, Any]]:
    """Runs `simpipe reindex`, and reads its summary."""
    usage, said = simpipe("reindex", config, "--json", *options)
    return usage, json.loads(next(line for line in said.splitlines() if line.startswith("{")))


def ann_recall(root: Path) -> float:
    """`ann_recall_at_10` of the live release."""
    folder, manifest = releases.open_live(root)
    metrics = files.read_json(releases.resolve(folder, manifest.file("metrics.json")))["metrics"]
    return metrics["ann_recall_at_10"]


def full(config: Path) -> dict[str, Usage]:
    """A full line, each verb in a process of its own, so that what building takes is known."""
    return {verb: simpipe(verb, config)[0] for verb in ("import", "build", "run")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--partitions", type=int, default=64)
    parser.add_argument("--backend", default="scann")
    parser.add_argument("--scratch")
    options = parser.parse_args()
    with workplace(options.scratch) as folder:
        catalogue = Catalogue.draw(options.n, options.dim, labels=100)
        router = {"kind": "kmeans", "partitions": options.partitions}
        parts = {
            "queries": {"fraction": 0.01},
            "build": {"router": router, "backend": {"kind": options.backend}},
            "evaluate": {"exact_queries": 1000, "latency_queries": 0},
        }
        source = folder / "source"
        catalogue.write(source)
        live = configure(folder / "live.yaml", source=source, root=folder / "live", **parts)
        full(live)
        rows = np.flatnonzero(catalogue.labels == 0)
        catalogue.change(rows)
        catalogue.write(source)
        changed, about = reindex(live)
        unchanged, nothing = reindex(live)
        catalogue.write(source)  # other times, same content
        touched, compared = reindex(live)
        rows = np.flatnonzero(catalogue.labels == 1)
        catalogue.change(rows)
        catalogue.write(folder / "deltas" / "upsert", rows, parts=1)
        given, from_deltas = reindex(live, "--deltas", str(folder / "deltas"))
        catalogue.write(source)
        anew = configure(folder / "anew.yaml", source=source, root=folder / "anew", **parts)
        took = full(anew)
        build = took["import"].cpu_s + took["build"].cpu_s
        line = build + took["run"].cpu_s
        for name, usage, summary in (("whole", changed, about), ("deltas", given, from_deltas)):
            seconds = summary["cpu_seconds"]
            part = sum(seconds.get(stage, 0.0) for stage in _BUILT)
            print(json.dumps({
                "items": options.n, "dim": options.dim, "partitions": options.partitions, "backend": options.backend,
                "source": name, "changed": summary["items"]["changed"], "outcome": summary["outcome"],
                "rebuilt": summary["partitions"]["rebuilt"], "untouched": round(summary["untouched"], 4), "cpu_s": seconds,
                "reindex_cpu_s": round(usage.cpu_s, 2), "build_cpu_s": round(build, 2), "line_cpu_s": round(line, 2),
                "ratio_build": round(part / build, 4), "ratio_line": round(usage.cpu_s / line, 4),
            }), flush=True)  # fmt: skip
        for name, usage, summary in (("as it was", unchanged, nothing), ("same content", touched, compared)):
            print(json.dumps({
                "source": name, "outcome": summary["outcome"], "cpu_s": round(usage.cpu_s, 2),
                "ratio_build": round(usage.cpu_s / build, 4), "ratio_line": round(usage.cpu_s / line, 4),
                "releases": len(releases.finished(folder / "live")),
            }), flush=True)  # fmt: skip
        recalls = {"reindexed": ann_recall(folder / "live"), "full": ann_recall(folder / "anew")}
        print(json.dumps({"ann_recall_at_10": recalls, "difference": abs(recalls["reindexed"] - recalls["full"])}))


if __name__ == "__main__":
    main()
