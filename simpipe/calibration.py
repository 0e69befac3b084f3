"""Calibration: mergeable counts of (distance, hit) pairs, the threshold sweep, and cutpoints.

A sort and two cumulative sums give the numbers that TensorFlow Similarity computes from a queries x thresholds matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.classification_metrics import METRICS, ClassificationMetric, MatchCounts, make_classification_metric
from simpipe.errors import SimpipeError


@dataclass(frozen=True)
class PairCounts:
    """How many queries were derived at each distinct distance, and how many of them have the right label.

    Merging is exact and does not depend on order.

    Attributes:
      distances: float32[t], ascending and distinct. hits, total: int64[t].
      unmatched: queries without any neighbor.
    """

    distances: np.ndarray
    hits: np.ndarray
    total: np.ndarray
    unmatched: int = 0

    @classmethod
    def of(cls, distances: np.ndarray, hits: np.ndarray) -> PairCounts:
        """From float32[n] derived distances (+inf: no neighbor) and bool[n] hits."""
        there = np.isfinite(distances)
        distinct, inverse = np.unique(np.asarray(distances, np.float32)[there], return_inverse=True)
        hit_counts = np.bincount(inverse, weights=hits[there], minlength=len(distinct)).astype(np.int64)
        total = np.bincount(inverse, minlength=len(distinct)).astype(np.int64)
        return cls(distinct, hit_counts, total, int((~there).sum()))

    @classmethod
    def merge(cls, parts: Sequence[PairCounts]) -> PairCounts:
        """The counts of all parts together."""
        distances = np.concatenate([np.empty(0, np.float32), *(part.distances for part in parts)])
        distinct, inverse = np.unique(distances, return_inverse=True)
        merged = []
        for name in ("hits", "total"):
            values = np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
            sums = np.zeros(len(distinct), np.int64)
            np.add.at(sums, inverse, values)
            merged.append(sums)
        return cls(distinct, merged[0], merged[1], sum(part.unmatched for part in parts))

    @property
    def queries(self) -> int:
        return int(self.total.sum()) + self.unmatched


@dataclass(frozen=True)
class Calibration:
    """Thresholds with their metrics, and the cutpoints.

    Attributes:
      thresholds: "distance" float32[t] and one float64[t] a metric.
      cutpoints: by name: name, metric, value, distance, and every metric there.
    """

    thresholds: dict[str, np.ndarray]
    cutpoints: dict[str, dict[str, Any]]
    queries: int


def sweep(pairs: PairCounts) -> MatchCounts:
    """Counts at every distinct distance, taken as a threshold: near means distance <= threshold."""
    tp = np.cumsum(pairs.hits)
    fp = np.cumsum(pairs.total - pairs.hits)
    hits, wrong = int(pairs.hits.sum()), int((pairs.total - pairs.hits).sum())
    return MatchCounts(tp, fp, hits - tp, wrong - fp, pairs.queries)


@dataclass(frozen=True)
class Target:
    """A wanted value of a metric; the cutpoint that reaches it is called `name`."""

    name: str
    metric: str
    value: float


def targets_of(wanted: Mapping[Any, Sequence[float]]) -> list[Target]:
    """Targets from metric -> values; they are called `precision>=0.99`, or `fpr<=0.01` where smaller is better."""
    signs = {metric: ">=" if make_classification_metric(metric).maximize else "<=" for metric in wanted}
    return [Target(f"{metric}{signs[metric]}{value:g}", metric, value) for metric in wanted for value in wanted[metric]]


def calibrate(
    pairs: PairCounts,
    *,
    metric: str | ClassificationMetric = "f1",
    targets: Sequence[Target] = (),
    metrics: Sequence[str | ClassificationMetric] = tuple(METRICS),
) -> Calibration:
    """Sweeps the thresholds and picks cutpoints.

    Args:
      pairs: counts over the calibration queries.
      metric: `optimal` is the last threshold at which it is best (TensorFlow Similarity's rule).
      targets: of `metric` or one of `metrics`. Where larger is better and the metric grows with the threshold, the
        smallest threshold that reaches the target; for precision the largest that does; where smaller is better, the
        largest threshold up to which the target is kept. A target that is never reached gives no cutpoint.
      metrics: what else is computed at each threshold.

    Raises:
      ConfigError: a metric is unknown. SimpipeError: no query has a neighbor.
    """
    if not len(pairs.distances):
        raise SimpipeError("calibration: no query has a neighbor", "hold out queries (queries.fraction) and index some items")
    chosen = make_classification_metric(metric)
    asked = {made.name: made for made in (*map(make_classification_metric, metrics), chosen)}
    counts = sweep(pairs)
    values = {name: each.at(counts) for name, each in asked.items()}
    quality = values[chosen.name] if chosen.maximize else -values[chosen.name]
    best = len(quality) - 1 - int(np.argmax(quality[::-1]))

    def cutpoint(name: str, of: str, row: int) -> dict[str, Any]:
        at = {each: float(series[row]) for each, series in values.items()}
        return {"name": name, "metric": of, "value": at[of], "distance": float(pairs.distances[row]), **at}

    cutpoints = {"optimal": cutpoint("optimal", chosen.name, best)}
    for target in targets:
        rows = _reaching(asked[target.metric], values[target.metric], target.value)
        if rows is not None:
            cutpoints[target.name] = cutpoint(target.name, target.metric, rows)
    return Calibration({"distance": pairs.distances, **values}, cutpoints, pairs.queries)


def _reaching(metric: ClassificationMetric, values: np.ndarray, wanted: float) -> int | None:
    """The row of the threshold that a target asks for; see `calibrate`."""
    reached = values >= wanted if metric.maximize else values <= wanted
    if not reached.any():
        return None
    first_counts = metric.maximize and metric.increasing
    return int(np.argmax(reached)) if first_counts else len(reached) - 1 - int(np.argmax(reached[::-1]))
