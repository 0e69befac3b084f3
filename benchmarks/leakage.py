"""Does calibration see through itself? Random labels, the queries are the indexed items: f1 must be that of chance, not 1.0.

    python -m benchmarks.leakage [--n 20000] [--classes 10]

Three data sets of clustered vectors whose labels are drawn by chance: as they are; with 1 % of the items a second time, the
same vector under another id with a label of its own; and the same with the label of the original. Each is imported, built and
calibrated with `calibrate.queries: items`, by `match_nearest` and by a vote of five. JSON lines: f1 at the cutpoint `optimal`
beside what chance gives, and beside what a calibration that does not leave own items out would say.

Chance: p = 1 / classes of the nearest neighbors have the right label whatever the distance, so the best f1 is 2p / (1 + p), at
the largest threshold (recall, among the right matches, is 1 there). Twins that share a label are right answers: they may lift it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import vectors
from simpipe import files
from simpipe.calibration import PairCounts, calibrate
from simpipe.config import Config, parse_config
from simpipe.index.searcher import open_release

_TWINS = 0.01


def data_set(folder: Path, n: int, classes: int, *, twins: bool, same_label: bool) -> None:
    """`x.npy`, `ids.npy` and `labels.npy` of items with random labels."""
    rng = np.random.default_rng(7)
    items, _ = vectors.load("medium", n, 1)
    labels = rng.integers(classes, size=n)
    ids = np.array([f"item-{row:06d}" for row in range(n)])
    if twins:
        chosen = rng.choice(n, int(_TWINS * n), replace=False)
        again = labels[chosen] if same_label else rng.integers(classes, size=len(chosen))
        items, labels = np.concatenate([items, items[chosen]]), np.concatenate([labels, again])
        ids = np.concatenate([ids, np.char.add("twin-of-", ids[chosen])])
    for name, values in (("x", items), ("ids", ids), ("labels", np.char.add("class-", labels.astype(str)))):
        np.save(folder / f"{name}.npy", values)


def config_of(folder: Path) -> Config:
    source = {"kind": "vectors", "path": str(folder / "x.npy"), "ids": str(folder / "ids.npy")}
    return parse_config(
        {
            "name": "leakage",
            "root": str(folder / "run"),
            "source": {**source, "labels": str(folder / "labels.npy")},
            "queries": {"fraction": 0.0},
            "build": {"router": {"kind": "kmeans", "partitions": 4}, "backend": {"kind": "scann"}},
            "calibrate": {"queries": "items", "matchers": [{"matcher": "match_majority_vote", "k": 5}]},
        }
    )


def with_itself(folder: Path) -> float:
    """F1 of a calibration in which an item may answer for itself."""
    searcher = open_release(folder)
    parts = []
    for number, rows in enumerate(searcher.partition_rows):
        part = searcher.partition(number)
        for first in range(0, rows, 4096):
            own = part.live[first : min(first + 4096, rows)]
            found = searcher.lookup(np.asarray(part.vectors[own]), 1)
            parts.append(PairCounts.of(found.distances[:, 0], found.labels[:, 0] == part.rows.take_labels(own)))
    return calibrate(PairCounts.merge(parts)).cutpoints["optimal"]["f1"]


def measure(name: str, n: int, classes: int, *, twins: bool, same_label: bool) -> dict[str, object]:
    from pipelines.line import Line

    with tempfile.TemporaryDirectory(prefix="leakage-") as scratch:
        folder = Path(scratch)
        data_set(folder, n, classes, twins=twins, same_label=same_label)
        line = Line(config_of(folder), say=lambda text: print(text, file=sys.stderr))
        with contextlib.redirect_stdout(sys.stderr):
            line.embed()
            line.build()
            line.calibrate()
        release, _ = line.release()
        record = files.read_json(release / "cutpoints.json")
        vote = record["matchers"]["match_majority_vote@5"]["cutpoints"]["optimal"]
        return {
            "data": name,
            "items": n + int(_TWINS * n) * twins,
            "queries": record["labelled"],
            "f1": round(record["cutpoints"]["optimal"]["f1"], 4),
            "f1_vote_of_5": round(vote["f1"], 4),
            "chance": round(2 / classes / (1 + 1 / classes), 4),
            "f1_if_items_answer_for_themselves": round(with_itself(release), 4),
        }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=20_000)
    options.add_argument("--classes", type=int, default=10)
    chosen = options.parse_args()
    for name, twins, same in (("random labels", False, False), ("1 % twins", True, False), ("1 % twins, same label", True, True)):
        print(json.dumps(measure(name, chosen.n, chosen.classes, twins=twins, same_label=same)), flush=True)


if __name__ == "__main__":
    main()
