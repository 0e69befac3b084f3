"""The threshold sweep: every metric at every distance that occurred, and the cutpoints.

A sort and two cumulative sums give the numbers that TensorFlow Similarity computes from a queries x thresholds matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.calibration.bootstrap import Bootstrap
from simpipe.calibration.pairs import PairCounts
from simpipe.calibration.rules import Rule, Target
from simpipe.classification_metrics import METRICS, ClassificationMetric, MatchCounts, make_classification_metric
from simpipe.errors import SimpipeError


@dataclass(frozen=True)
class Calibration:
    """Thresholds with their metrics, and the cutpoints.

    Attributes:
      thresholds: "distance" float32[t] and one float64[t] a metric.
      cutpoints: by name: name, metric, value, distance, every metric there, and with replicates `interval`: the lower and upper
        end of the distance and of each metric.
      queries: with a label. open_set: those among them whose label no indexed item carries.
      threshold_error: see `PairCounts.threshold_error`. dropped_bits: of the counts.
      bootstrap: of the intervals; None without.
    """

    thresholds: dict[str, np.ndarray]
    cutpoints: dict[str, dict[str, Any]]
    queries: int
    open_set: int = 0
    threshold_error: float = 0.0
    dropped_bits: int = 0
    bootstrap: Bootstrap | None = None


def sweep(pairs: PairCounts) -> MatchCounts:
    """Counts at every distinct distance, taken as a threshold: near means distance <= threshold."""
    tp = np.cumsum(pairs.hits)
    fp = np.cumsum(pairs.total - pairs.hits)
    hits, wrong = int(pairs.hits.sum()), int((pairs.total - pairs.hits).sum())
    return MatchCounts(tp, fp, hits - tp, wrong - fp, pairs.queries, np.cumsum(pairs.open), pairs.open_set)


def default_metrics(pairs: PairCounts) -> tuple[str, ...]:
    """What is computed where nothing is asked for: `METRICS`, and `open_set_fpr` where there are open-set queries."""
    return (*METRICS, "open_set_fpr") if pairs.open_set else tuple(METRICS)


def calibrate(
    pairs: PairCounts,
    *,
    metric: str | ClassificationMetric = "f1",
    optimal: Sequence[str | ClassificationMetric] = (),
    targets: Sequence[Target] = (),
    metrics: Sequence[str | ClassificationMetric] | None = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Sweeps the thresholds and picks cutpoints.

    Args:
      pairs: counts over the calibration queries.
      metric: `optimal` is the last threshold at which it is best (TensorFlow Similarity's rule).
      optimal: further metrics; each gives a cutpoint `optimal_METRIC` by the same rule.
      targets: of any metric. Where larger is better and the metric grows with the threshold, the smallest threshold that
        reaches the target; for precision the largest that does; where smaller is better, the largest threshold up to which the
        target is kept. A target that is never reached gives no cutpoint.
      metrics: what else is computed at each threshold; None: `default_metrics`.
      bootstrap: replicates for intervals; 0: none. confidence: of the intervals. seed: of the replicates.

    Raises:
      ConfigError: a metric is unknown. SimpipeError: no query has a neighbor.
    """
    if not len(pairs.distances):
        raise SimpipeError("calibration: no query has a neighbor", "hold out queries (queries.fraction) and index some items")
    chosen = make_classification_metric(metric)
    best = [make_classification_metric(each) for each in optimal]
    asked = {made.name: made for made in map(make_classification_metric, default_metrics(pairs) if metrics is None else metrics)}
    asked |= {made.name: made for made in (chosen, *best)}
    for target in targets:
        asked.setdefault(target.metric, make_classification_metric(target.metric))
    counts = sweep(pairs)
    values = {name: each.at(counts) for name, each in asked.items()}
    rules = [Rule("optimal", chosen), *(Rule(f"optimal_{each.name}", each) for each in best)]
    rules += [Rule(target.name, asked[target.metric], target.value) for target in targets]
    picked = {}
    for rule in rules:
        row, reached = rule.pick(values[rule.metric.name])
        if reached:
            picked[rule.name] = rule, int(row)
    cutpoints = {}
    for name, (rule, row) in picked.items():
        at = {each: float(series[row]) for each, series in values.items()}
        of = rule.metric.name
        cutpoints[name] = {"name": name, "metric": of, "value": at[of], "distance": float(pairs.distances[row]), **at}
    drawn = Bootstrap(bootstrap, confidence, seed) if bootstrap else None
    if drawn:
        chosen_again = drawn.distance_intervals(pairs, *zip(*picked.values(), strict=True))
        for (name, (_, row)), ends in zip(picked.items(), chosen_again, strict=True):
            here = cutpoints[name]["distance"]
            distance, reached = ends if ends else ([here, here], 0.0)
            cutpoints[name]["interval"] = {"distance": distance, **drawn.metric_intervals(pairs, row, asked, name)}
            if reached < 1:
                cutpoints[name]["reached"] = reached  # in which share of the replicates there is such a cutpoint
    thresholds = {"distance": pairs.distances, **values}
    return Calibration(thresholds, cutpoints, pairs.queries, pairs.open_set, pairs.threshold_error, pairs.dropped_bits, drawn)
