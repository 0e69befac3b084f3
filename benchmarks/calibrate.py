"""Calibration: time of its evaluation part, and its numbers against the rule written out threshold by threshold.

python benchmarks/calibrate.py

Prints one JSON line for 10,000 queries of an index of 10,000 items (`evaluation_ms`: everything but the neighbor search)
and one for 1,000,000 (distance, hit) pairs, each with the ratio to one sort of the same distances.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from simpipe.calibration import PairCounts, Target, calibrate
from simpipe.indexer import Indexer

METRICS = ("precision", "recall", "f1", "binary_accuracy")
TARGETS = {"half": 0.5, "most": 0.8, "nearly": 0.95}


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Median wall seconds."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def by_the_rule(distances: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
    """TensorFlow Similarity's rule: every query compared with every distinct distance."""
    grid = np.unique(distances)
    near = np.empty((2, len(grid)), np.int64)
    for begin in range(0, len(grid), 500):
        part = distances[None, :] <= grid[begin : begin + 500, None]
        near[0, begin : begin + 500], near[1, begin : begin + 500] = part.sum(1), (part & hits).sum(1)
    accepted, tp = near
    precision, recall = tp / accepted, tp / max(hits.sum(), 1)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(len(grid)), where=both > 0)
    return {"distance": grid, "precision": precision, "recall": recall, "f1": f1, "binary_accuracy": tp / len(hits)}


def of_an_index(queries: int, repeat: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, 64))
    labels, asked = rng.integers(500, size=10_000), rng.integers(500, size=queries)
    items = (centres[labels] + rng.normal(size=(10_000, 64))).astype(np.float32)
    vectors = (centres[asked] + 1.3 * rng.normal(size=(queries, 64))).astype(np.float32)
    indexer = Indexer(64)
    indexer.batch_add(items, labels)
    began = time.perf_counter()
    found = indexer.neighbors(vectors, 1)
    search = time.perf_counter() - began
    indexer.neighbors = lambda *_, **__: found  # the search is done: what is left is the evaluation
    result = indexer.calibrate(vectors, asked, TARGETS, extra_metrics=METRICS, verbose=0)

    def evaluation() -> None:
        indexer.calibrate(vectors, asked, TARGETS, extra_metrics=METRICS, verbose=0)

    taken = seconds(evaluation, repeat)
    sort = seconds(lambda: np.sort(found.distances[:, 0]), repeat)
    expected = by_the_rule(found.distances[:, 0], found.labels[:, 0] == asked.astype(str).astype(object))
    wrong = max(float(np.abs(result.thresholds[name] - values).max()) for name, values in expected.items())
    best = expected["distance"][np.flatnonzero(expected["f1"] == expected["f1"].max())[-1]]
    firsts = {name: expected["distance"][np.flatnonzero(expected["f1"] >= value)[:1]] for name, value in TARGETS.items()}
    same = result.cutpoints["optimal"]["distance"] == best and all(
        (result.cutpoints[name]["distance"] == at[0]) if len(at) else name not in result.cutpoints for name, at in firsts.items()
    )
    return {
        "queries": queries,
        "search_ms": round(search * 1e3, 1),
        "evaluation_ms": round(taken * 1e3, 1),
        "to_one_sort": round(taken / sort, 1),
        "largest_difference_to_the_rule": wrong,
        "same_cutpoints": bool(same),
    }


def of_pairs(pairs: int, repeat: int) -> dict[str, object]:
    rng = np.random.default_rng(1)
    distances = rng.random(pairs, np.float32)
    hits = rng.random(pairs) > distances
    targets = [Target(name, "f1", value) for name, value in TARGETS.items()]
    taken = seconds(lambda: calibrate(PairCounts.of(distances, hits), targets=targets), repeat)
    sort = seconds(lambda: np.sort(distances), repeat)
    return {
        "pairs": pairs,
        "distinct": len(np.unique(distances)),
        "seconds": round(taken, 3),
        "to_one_sort": round(taken / sort, 1),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--queries", type=int, default=10_000)
    options.add_argument("--pairs", type=int, default=1_000_000)
    options.add_argument("--repeat", type=int, default=5)
    chosen = options.parse_args()
    print(json.dumps(of_an_index(chosen.queries, chosen.repeat)), flush=True)
    print(json.dumps(of_pairs(chosen.pairs, chosen.repeat)), flush=True)


if __name__ == "__main__":
    main()
