"""Calibration: time of its evaluation part, and its numbers against the rule written out threshold by threshold.

    python -m benchmarks.calibrate [--sizes 10000 100000 1000000 10000000] [--block 16384]

JSON lines. One for 10,000 queries of an index of 10,000 items (`evaluation_ms`: everything but the neighbor search), and one for
1,000,000 (distance, hit) pairs counted at once, each with the ratio to one sort of the same distances. Then one for each of
`--sizes`, in a process of its own: pairs come in blocks as answers do, each block is counted, accumulators of `--bundle` blocks
are combined as the job's CombineFn combines them (`combine_s`), all cutpoints are picked (`cutpoints_s`); then intervals of 200
replicates (`intervals_s`, the same whatever the number of pairs) and the probability (`probability_s`). `seconds` is all of it.
`ns_a_pair` is combining and cutpoints over the number of pairs, `cpu_ns_a_pair` the same in CPU time; `to_one_sort` is the ratio
to one sort of all distances; `peak_mib` of the whole process, `base_mib` before the pairs. The last line tells how flat it is.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.child import run_child
from simpipe.calibration import MAX_DISTINCT, PairCounts, Target, calibrate, targets_of
from simpipe.calibration.counts import Accumulator, CalibrationCounts
from simpipe.indexer import Indexer
from simpipe.probability import fit_probability

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


def blocks_of(pairs: int, block: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Distances of exponential spread (nearly all differ), hits that grow rarer with them, a hundredth open-set."""
    for number, first in enumerate(range(0, pairs, block)):
        rng = np.random.default_rng([2, number])
        rows = min(block, pairs - first)
        distances = rng.exponential(0.3, rows).astype(np.float32)
        yield distances, rng.random(rows) > distances, rng.random(rows) < 0.01


def clocks() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def combined(pairs: int, block: int, bundle: int, max_distinct: int) -> tuple[PairCounts, np.ndarray]:
    """The merged counts and the wall and CPU seconds they took, without those of drawing the pairs."""
    bundles: list[Accumulator] = []
    total, taken = Accumulator(max_distinct), np.zeros(2)
    accumulator = Accumulator(max_distinct)
    for number, (distances, hits, opened) in enumerate(blocks_of(pairs, block), 1):
        began = clocks()
        counted = PairCounts.of(distances, hits, open_set=opened, max_distinct=max_distinct)
        accumulator.add([CalibrationCounts({"match_nearest@1": counted}, None, len(hits), len(hits), int(opened.sum()))])
        if number % bundle == 0:
            bundles.append(accumulator)
            accumulator = Accumulator(max_distinct)
        if len(bundles) == 8:  # as a runner merges what bundles hand on
            total.add([each.result() for each in bundles])
            bundles = []
        taken += clocks() - began
    began = clocks()
    merged = total.add([each.result() for each in (*bundles, accumulator)]).result()
    return merged.pairs["match_nearest@1"], taken + clocks() - began


def job(pairs: int, block: int, bundle: int, max_distinct: int) -> dict[str, object]:
    """One size, in this process."""
    targets = targets_of({"precision": (0.9, 0.99), "recall_all": (0.5, 0.9), "fpr": (0.01,)})
    few, _ = combined(1000, block, bundle, max_distinct)
    calibrate(few, bootstrap=2)
    fit_probability(few, method="isotonic")  # what is imported when first needed is not what is measured
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def once() -> tuple[PairCounts, np.ndarray, np.ndarray]:
        counts, combine = combined(pairs, block, bundle, max_distinct)
        began = clocks()
        calibrate(counts, optimal=("f1_all",), targets=targets)
        return counts, combine, clocks() - began

    counts, *first = once()
    combine, cutpoints = np.median([first, *(once()[1:] for _ in range(4 if pairs <= 100_000 else 0))], axis=0)
    began = time.perf_counter()
    result = calibrate(counts, optimal=("f1_all",), targets=targets, bootstrap=200)
    intervals = max(time.perf_counter() - began - cutpoints[0], 0.0)
    found = len(result.cutpoints)
    del result
    began = time.perf_counter()
    fit_probability(counts, method="isotonic")
    probability = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    distances = np.concatenate([distances for distances, _, _ in blocks_of(pairs, block)])
    sort = seconds(lambda: np.sort(distances), 3)
    wall, cpu = combine + cutpoints
    return {
        "pairs": pairs,
        "distinct": len(counts.distances),
        "dropped_bits": counts.dropped_bits,
        "threshold_error": counts.threshold_error,
        "cutpoints": found,
        "combine_s": round(combine[0], 4),
        "cutpoints_s": round(cutpoints[0], 4),
        "intervals_s": round(intervals, 3),
        "probability_s": round(probability, 3),
        "seconds": round(wall + intervals + probability, 3),
        "ns_a_pair": round(wall / pairs * 1e9),
        "cpu_ns_a_pair": round(cpu / pairs * 1e9),
        "to_one_sort": round(wall / sort, 1),
        "peak_mib": round(peak),
        "base_mib": round(base),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--queries", type=int, default=10_000)
    options.add_argument("--pairs", type=int, default=1_000_000)
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 10_000_000])
    options.add_argument("--block", type=int, default=1 << 14)
    options.add_argument("--bundle", type=int, default=16, help="blocks that one accumulator takes")
    options.add_argument("--max-distinct", type=int, default=MAX_DISTINCT)
    options.add_argument("--job", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    rules = chosen.block, chosen.bundle, chosen.max_distinct
    if chosen.job is not None:
        print(json.dumps(job(chosen.job, *rules)))
        return
    print(json.dumps(of_an_index(chosen.queries, chosen.repeat)), flush=True)
    print(json.dumps(of_pairs(chosen.pairs, chosen.repeat)), flush=True)
    costs = {}
    for size in chosen.sizes:
        options_of = [f"--{name}={value}" for name, value in zip(("block", "bundle", "max-distinct"), rules, strict=True)]
        _, said = run_child([sys.executable, "-m", "benchmarks.calibrate", f"--job={size}", *options_of])
        print(said.strip(), flush=True)
        costs[size] = json.loads(said)["cpu_ns_a_pair"]
    if costs:
        print(json.dumps({"cpu_ns_a_pair": costs}), flush=True)


if __name__ == "__main__":
    main()
