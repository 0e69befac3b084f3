"""Classification and retrieval metrics of neighbors that were found already; what models, indexers and callbacks share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simpipe.calibration import PairCounts, sweep
from simpipe.classification_metrics import ClassificationMetric, MatchCounts, make_classification_metric
from simpipe.matchers import ClassificationMatch, match_labels
from simpipe.retrieval_metrics import RetrievalMetric
from simpipe.types import Neighbors


def pairs_of(neighbors: Neighbors, labels: np.ndarray, matcher: str | ClassificationMatch) -> PairCounts:
    """Counts of (derived distance, hit) of the queries that have a label, object[n]."""
    known = np.flatnonzero(labels != None)  # noqa: E711  element by element
    matched, distances = match_labels(neighbors.take(known), matcher)
    return PairCounts.of(distances, np.asarray(matched == labels[known], bool))


def counts_at(pairs: PairCounts, thresholds: np.ndarray) -> MatchCounts:
    """Counts at any thresholds, float32[t], in any order: near means distance <= threshold."""
    swept = sweep(pairs)
    row = np.searchsorted(pairs.distances, np.asarray(thresholds, np.float32), side="right")
    tp, fp = np.append(0, swept.tp)[row], np.append(0, swept.fp)[row]
    hits, wrong = int(pairs.hits.sum()), int((pairs.total - pairs.hits).sum())
    opened = np.append(0, swept.open_fp)[row]
    return MatchCounts(tp, fp, hits - tp, wrong - fp, pairs.queries, opened, pairs.open_set)


def evaluate_classification(
    neighbors: Neighbors,
    labels: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    metrics: Sequence[str | ClassificationMetric],
    matcher: str | ClassificationMatch,
) -> dict[str, np.ndarray]:
    """Metrics at given distance thresholds.

    Args:
      neighbors: of n queries.
      labels: object[n] of str; queries without a label (None) don't count.
      thresholds: float[t].
      metrics, matcher: names or objects.

    Returns:
      name -> float64[t], and "distance" -> float32[t].
    """
    grid = np.asarray(thresholds, np.float32).reshape(-1)
    counts = counts_at(pairs_of(neighbors, labels, matcher), grid)
    made = [make_classification_metric(metric) for metric in metrics]
    return {**{metric.name: np.atleast_1d(metric.at(counts)) for metric in made}, "distance": grid}


def evaluate_retrieval(
    neighbors: Neighbors, own: np.ndarray, labels: np.ndarray, metrics: Sequence[RetrievalMetric]
) -> dict[str, float]:
    """Retrieval metrics; see `RetrievalMetric.compute`.

    Args:
      neighbors: of n queries, one more than the largest k.
      own: bool[n, columns], where a neighbor is the query's own item; metrics with `drop_closest_lookup` leave it out.
      labels: object[n] of str.
      metrics: objects.

    Returns:
      name -> value.
    """
    relevant = np.asarray(neighbors.labels == labels[:, None], bool) & neighbors.valid
    distances = neighbors.distances
    others = np.argsort(own, axis=1, kind="stable")  # own items go last, and no longer count
    dropped = (
        np.take_along_axis(relevant & ~own, others, axis=1),
        np.take_along_axis(np.where(own, np.float32(np.inf), distances), others, axis=1),
    )
    results = {}
    for metric in metrics:
        mask, lengths = dropped if metric.drop_closest_lookup else (relevant, distances)
        results[metric.name] = metric.of(labels, mask, lengths)
    return results
