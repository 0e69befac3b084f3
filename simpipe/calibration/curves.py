"""What the report draws of a calibration: curves of the metrics with their intervals, and histograms of distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from simpipe.calibration.bootstrap import Bootstrap, spread_rows
from simpipe.calibration.pairs import PairCounts
from simpipe.calibration.sweep import default_metrics, sweep
from simpipe.classification_metrics import ClassificationMetric, MatchCounts, make_classification_metric

_SHOWN = 0.999  # share of the queries within the bins of equal width; the last bin takes the rest


def curves(
    pairs: PairCounts,
    metrics: Sequence[str | ClassificationMetric] | None = None,
    *,
    points: int = 200,
    also: Sequence[float] = (),
    replicates: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """Metrics at some of the thresholds.

    Args:
      pairs: counts over the calibration queries.
      metrics: None: `default_metrics`.
      points: thresholds, half of them with equal numbers of queries between, half about equally far from each other.
      also: thresholds that must be among them, such as cutpoints.
      replicates, confidence, seed: of the Poisson bootstrap; where it tells nothing both ends are null.

    Returns:
      Columns distance float32, and NAME, NAME_low, NAME_high float64 of each metric, by distance.
    """
    asked = [make_classification_metric(metric) for metric in (default_metrics(pairs) if metrics is None else metrics)]
    rows = _rows(pairs, points, also)
    counts = sweep(pairs)
    # Computed at all thresholds: the first one of all may have a rule of its own.
    columns: dict[str, pa.Array] = {"distance": pa.array(pairs.distances[rows], pa.float32())}
    bootstrap = Bootstrap(replicates, confidence, seed)
    drawn = bootstrap.replicate(pairs, rows, "curves") if replicates and len(rows) else None
    for metric in asked:
        columns[metric.name] = pa.array(metric.at(counts)[rows] if len(rows) else np.zeros(0), pa.float64())
        low, high = _ends(metric, drawn, bootstrap, len(rows))
        columns[f"{metric.name}_low"], columns[f"{metric.name}_high"] = low, high
    return pa.table(columns)


def _ends(metric: ClassificationMetric, drawn: MatchCounts | None, bootstrap: Bootstrap, rows: int) -> tuple[pa.Array, pa.Array]:
    if drawn is None:
        return pa.nulls(rows, pa.float64()), pa.nulls(rows, pa.float64())
    low, high = bootstrap.ends(metric, drawn)
    return pa.array(low, pa.float64(), from_pandas=True), pa.array(high, pa.float64(), from_pandas=True)  # NaN as null


def _rows(pairs: PairCounts, points: int, also: Sequence[float]) -> np.ndarray:
    """Rows of the thresholds that are drawn, ascending."""
    distances = pairs.distances
    if not len(distances):
        return np.zeros(0, np.int64)
    wanted = np.searchsorted(distances, np.asarray(also, np.float32), side="right") - 1
    by_count = spread_rows(pairs, max(points // 2, 1) if len(distances) > points else points)
    at = np.linspace(float(distances[0]), float(distances[-1]), max(points // 2, 2))
    by_distance = np.searchsorted(distances, at.astype(np.float32), side="right") - 1
    return np.unique(np.concatenate([by_count, by_distance, wanted, [len(distances) - 1]]).clip(0))


def distribution(pairs: PairCounts, *, bins: int = 60) -> pa.Table:
    """A histogram of derived distances.

    Args:
      pairs: counts over the calibration queries.
      bins: of equal width from the smallest distance to the one that 99.9 % of the queries are within; the last bin goes on to
        the largest distance.

    Returns:
      Columns low, high float64 (a bin holds low < distance <= high, the first one its low too) and hits, wrong, open int64;
      `wrong` without open-set queries.
    """
    kinds = {"hits": pairs.hits, "wrong": pairs.total - pairs.hits - pairs.open, "open": pairs.open}
    if not len(pairs.distances):
        empty = {"low": pa.array([], pa.float64()), "high": pa.array([], pa.float64())}
        return pa.table({**empty, **{name: pa.array([], pa.int64()) for name in kinds}})
    sums = np.cumsum(pairs.total)
    first, last = float(pairs.distances[0]), float(pairs.distances[-1])
    end = float(pairs.distances[np.searchsorted(sums, _SHOWN * sums[-1])])
    edges = np.linspace(first, end, bins + 1) if end > first else np.array([first, first])
    place = np.searchsorted(edges[1:-1], pairs.distances.astype(np.float64), side="left")
    edges[-1] = last
    counts = {}
    for name, values in kinds.items():
        below = np.append(0, np.cumsum(values))
        ends = np.searchsorted(place, np.arange(len(edges)))  # places ascend as distances do
        counts[name] = pa.array(below[ends[1:]] - below[ends[:-1]], pa.int64())
    return pa.table({"low": edges[:-1], "high": edges[1:], **counts})
