"""Intervals drawn from merged counts: as if each query were drawn, and right as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from simpipe.calibration import Bootstrap, PairCounts, calibrate, targets_of
from simpipe.calibration.bootstrap import BINS, spread_rows
from simpipe.calibration.curves import curves, distribution
from simpipe.calibration.rules import Rule
from simpipe.calibration.sweep import sweep
from simpipe.classification_metrics import make_classification_metric

METRICS = ("precision", "recall", "f1", "recall_all", "f1_all", "fpr", "open_set_fpr", "binary_accuracy", "npv")


def drawn(n: int, seed: int) -> dict[str, np.ndarray]:
    """Pairs of known probability: distance uniform in [0, 1), a hit with probability 1 - distance; a tenth is open-set."""
    rng = np.random.default_rng(seed)
    distances = rng.random(n, np.float32)
    opened = rng.random(n) < 0.1
    hits = (rng.random(n) < 1 - distances) & ~opened
    distances[rng.random(n) < 0.05] = np.inf
    return {"distances": distances, "hits": hits & np.isfinite(distances), "open_set": opened}


def of(columns) -> PairCounts:
    return PairCounts.of(columns["distances"], columns["hits"], open_set=columns["open_set"])


def test_replicates_are_those_of_a_bootstrap_query_by_query():
    columns = drawn(120, 3)
    columns["distances"] = np.ceil(columns["distances"] * 40) / np.float32(40)  # several queries a distance
    pairs = of(columns)
    replicates, row = 2000, 12
    threshold = pairs.distances[row]
    rng = np.random.default_rng(9)
    metrics = {name: make_classification_metric(name) for name in METRICS}
    rules = [Rule("optimal", metrics["f1"]), *(Rule(name, metrics[name], value) for name, value in TARGETS)]
    ours = Bootstrap(replicates, seed=1).replicate(pairs, np.array([row]), "x")
    one_by_one: dict[str, list[float]] = {name: [] for name in METRICS}
    distances: list[list[float]] = [[] for _ in rules]
    for _ in range(replicates):
        again = rng.poisson(1, 120)
        sample = of({name: np.repeat(values, again) for name, values in columns.items()})
        counts = sweep(sample)
        at = np.flatnonzero(sample.distances <= threshold)[-1]
        for name, metric in metrics.items():
            one_by_one[name].append(metric.at(counts)[at])
        for rule, found in zip(rules, distances, strict=True):
            place, reached = rule.pick(rule.metric.at(counts))
            if reached:
                found.append(float(sample.distances[place]))
    for name, metric in metrics.items():
        assert ks_2samp(metric.at(ours)[0], one_by_one[name]).pvalue > 1e-3, name
    wide = Bootstrap(replicates, confidence=0.8, seed=2)
    for ends, found in zip(wide.distance_intervals(pairs, rules, [0] * len(rules)), distances, strict=True):
        assert ends is not None
        (low, high), reached = ends
        assert reached == pytest.approx(len(found) / replicates, abs=0.04)
        # The ends are where the same shares of the distances are that were found one by one.
        found = np.array(found)
        assert (found < low).mean() - 0.03 <= 0.1 <= (found <= low).mean() + 0.03
        assert (found < high).mean() - 0.03 <= 0.9 <= (found <= high).mean() + 0.03


TARGETS = (("precision", 0.85), ("recall", 0.5), ("fpr", 0.3), ("precision", 0.93))


def test_a_known_value_is_covered_as_often_as_stated():
    """At threshold 0.5 and over everything the true values follow from the integral of 1 - distance."""
    near, right = 0.5, 0.9 * 0.375
    truth = {"precision": right / near, "recall": 0.375 / 0.5, "recall_all": 0.375 * 0.95, "open_set_fpr": 0.5 * 0.95}
    # Half of the right matches are within d - d^2 / 2 = 1 / 4.
    median = 1 - np.sqrt(0.5)
    metrics = {name: make_classification_metric(name) for name in truth}
    rule = Rule("recall>=0.5", make_classification_metric("recall"), 0.5)
    covered, rounds = dict.fromkeys([*truth, "distance"], 0), 400
    for seed in range(rounds):
        pairs = of(drawn(500, seed))
        bootstrap = Bootstrap(200, 0.95, seed)
        row = int(np.searchsorted(pairs.distances, 0.5, side="right")) - 1
        for name, (low, high) in bootstrap.metric_intervals(pairs, row, metrics, "x").items():
            covered[name] += low <= truth[name] <= high
        ends = bootstrap.distance_intervals(pairs, [rule], [0])[0]
        assert ends is not None
        covered["distance"] += ends[0][0] <= median <= ends[0][1]
    for name, times in covered.items():
        assert 0.91 <= times / rounds <= 0.98, (name, times)


def test_intervals_depend_on_counts_seed_and_name_only():
    columns = drawn(700, 1)
    order = np.random.default_rng(0).permutation(700)
    shuffled = {name: values[order] for name, values in columns.items()}
    parts = [of({name: values[first::3] for name, values in shuffled.items()}) for first in range(3)]
    rules = {"targets": targets_of({"precision": (0.9,), "recall_all": (0.3,)}), "bootstrap": 50, "confidence": 0.9}
    one = calibrate(of(columns), seed=4, **rules)
    assert calibrate(PairCounts.merge(parts), seed=4, **rules).cutpoints == one.cutpoints
    other = calibrate(of(columns), seed=5, **rules)
    assert other.cutpoints["optimal"]["interval"] != one.cutpoints["optimal"]["interval"]
    for name, cut in one.cutpoints.items():
        assert cut["distance"] == other.cutpoints[name]["distance"]
        assert cut["interval"].keys() == cut.keys() - {"name", "metric", "value", "interval", "reached"}
        for metric, (low, high) in cut["interval"].items():
            assert low <= high
            assert low <= cut[metric] <= high, "these cutpoints are stable"
    # Which other cutpoints are asked for has no part in it.
    alone = calibrate(of(columns), seed=4, bootstrap=50, confidence=0.9)
    assert alone.cutpoints["optimal"] == one.cutpoints["optimal"]
    assert "interval" not in calibrate(of(columns)).cutpoints["optimal"]


def test_a_target_that_few_replicates_reach_says_so():
    rng = np.random.default_rng(0)
    distances = rng.random(300, np.float32)
    pairs = PairCounts.of(distances, rng.random(300) < 0.5)
    best = float(calibrate(pairs).thresholds["binary_accuracy"].max())
    result = calibrate(pairs, targets=targets_of({"binary_accuracy": (best,)}), bootstrap=200)
    (cut,) = (cut for name, cut in result.cutpoints.items() if name != "optimal")
    assert 0.3 < cut["reached"] < 0.7
    assert "reached" not in result.cutpoints["optimal"]


def test_distances_are_picked_again_among_so_many_thresholds():
    pairs = of(drawn(3 * BINS, 0))
    grid = spread_rows(pairs, BINS, [7, 1234])
    assert BINS * 0.99 < len(grid) <= BINS + 3
    assert {0, 7, 1234, len(pairs.distances) - 1} <= set(grid.tolist())
    assert np.diff(np.cumsum(pairs.total)[grid]).max() <= 3
    assert spread_rows(of(drawn(50, 0)), BINS).tolist() == list(range(len(of(drawn(50, 0)).distances)))


def test_curves_are_those_of_all_thresholds_with_ends_around_them():
    pairs = of(drawn(5000, 2))
    result = calibrate(pairs, targets=targets_of({"precision": (0.9,)}))
    cutpoints = [cut["distance"] for cut in result.cutpoints.values()]
    table = curves(pairs, points=100, also=cutpoints, replicates=100)
    distances = table["distance"].to_numpy()
    assert 80 <= len(distances) <= 104
    assert set(np.float32(cutpoints)) <= set(distances)
    assert (distances[0], distances[-1]) == (pairs.distances[0], pairs.distances[-1])
    rows = np.searchsorted(pairs.distances, distances)
    names = set(result.thresholds) - {"distance"}
    assert {name for name in table.column_names if not name.endswith(("_low", "_high"))} == names | {"distance"}
    for name in names:
        assert np.array_equal(table[name].to_numpy(), result.thresholds[name][rows])
        low, high = table[f"{name}_low"].to_numpy(), table[f"{name}_high"].to_numpy()
        inside = (low <= result.thresholds[name][rows]) & (result.thresholds[name][rows] <= high)
        assert inside.mean() > 0.95
    without = curves(pairs, ["f1"], points=10, replicates=0)
    assert without["f1_low"].null_count == len(without)
    assert len(curves(PairCounts.of(np.array([np.inf], np.float32), np.array([False])))) == 0


@pytest.mark.parametrize("n", [0, 1, 30, 5000])
def test_a_distribution_counts_each_query_once(n):
    columns = drawn(n, 5)
    columns["distances"][: n // 2000] *= 40  # a long tail
    pairs = of(columns)
    table = distribution(pairs, bins=20)
    lengths = columns["distances"][np.isfinite(columns["distances"])].astype(np.float64)
    finite = np.isfinite(columns["distances"])
    kinds = {"hits": columns["hits"], "open": columns["open_set"], "wrong": ~columns["hits"] & ~columns["open_set"]}
    for place, row in enumerate(table.to_pylist()):
        inside = (lengths > row["low"]) & (lengths <= row["high"])
        if place == 0:
            inside |= lengths == row["low"]
        for name, kind in kinds.items():
            assert row[name] == (kind[finite] & inside).sum()
    for name, kind in kinds.items():
        assert sum(table[name].to_pylist()) == (kind & finite).sum()
    if n == 5000:
        assert len(table) == 20
        assert table["high"][-1].as_py() > 2 * table["low"][-1].as_py()


def test_replicates_that_accept_nothing_tell_nothing_of_precision():
    """One right match at the first threshold: a third of the replicates leave it out, and that is no precision of 0."""
    pairs = PairCounts.of(np.array([0.1, *[0.2] * 50], np.float32), np.ones(51, bool))
    table = curves(pairs, ["precision", "recall"], replicates=300, seed=2)
    assert table.column("precision_low").to_pylist() == [1.0, 1.0]
    assert table.column("recall_low")[0].as_py() == 0.0
