"""Calibration: mergeable counts of (distance, hit) pairs, the threshold sweep, and cutpoints.

A sort and two cumulative sums give the numbers that TensorFlow Similarity computes from a queries x thresholds matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.classification_metrics import INCREASING, METRICS, MatchCounts
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


def calibrate(pairs: PairCounts, *, metric: str = "f1", targets: Mapping[Any, Sequence[float]] | None = None) -> Calibration:
    """Sweeps the thresholds and picks cutpoints.

    Args:
      pairs: counts over the calibration queries.
      metric: `optimal` is the last threshold at which it is largest (TensorFlow Similarity's rule).
      targets: wanted values a metric. Metrics that grow with the threshold give the smallest threshold that reaches
        the target, precision the largest. A target that is never reached gives no cutpoint.

    Raises:
      SimpipeError: no query has a neighbor.
    """
    if not len(pairs.distances):
        raise SimpipeError("calibration: no query has a neighbor", "hold out queries (queries.fraction) and index some items")
    counts = sweep(pairs)
    values = {name: function(counts) for name, function in METRICS.items()}
    best = len(values[metric]) - 1 - int(np.argmax(values[metric][::-1]))

    def cutpoint(name: str, of: str, row: int) -> dict[str, Any]:
        at = {each: float(series[row]) for each, series in values.items()}
        return {"name": name, "metric": of, "value": at[of], "distance": float(pairs.distances[row]), **at}

    cutpoints = {"optimal": cutpoint("optimal", metric, best)}
    for of, wanted in (targets or {}).items():
        for target in wanted:
            reached = np.flatnonzero(values[of] >= target)
            if len(reached):
                name = f"{of}>={target:g}"
                cutpoints[name] = cutpoint(name, of, int(reached[0] if INCREASING[of] else reached[-1]))
    return Calibration({"distance": pairs.distances, **values}, cutpoints, pairs.queries)
