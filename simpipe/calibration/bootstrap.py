"""Confidence intervals by Poisson bootstrap, drawn from merged counts.

In a Poisson bootstrap each query counts Poisson(1) times in each replicate, in place of a multinomial draw (Hanley and MacGibbon,
"Creating non-parametric bootstrap samples using Poisson frequencies", 2006; Chamandy, Muralidharan, Najmi and Naidu, "Estimating
uncertainty for massive data streams", 2012). The sum of n independent Poisson(1) numbers is Poisson(n), so the weight of all
queries of one kind is drawn at once: no second pass, no random number a query, and the order of queries has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simpipe.calibration.pairs import PairCounts
from simpipe.calibration.rules import Rule
from simpipe.classification_metrics import ClassificationMetric, MatchCounts

BINS = 4096  # thresholds among which a cutpoint is picked again


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles of `confidence` over `replicates`; 0 replicates: none."""

    replicates: int = 200
    confidence: float = 0.95
    seed: int = 0

    def generator(self, name: str) -> np.random.Generator:
        """Random numbers of their own for each name."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed & 0xFFFFFFFFFFFFFFFF, *name.encode()])))

    def interval(self, values: np.ndarray, method: str = "linear") -> np.ndarray:
        """Percentiles over the last axis: float64[2, ...]."""
        tail = (1 - self.confidence) / 2
        return np.quantile(values, [tail, 1 - tail], axis=-1, method=method)  # pyright: ignore[reportCallIssue, reportArgumentType]  # NumPy types `method` as literals

    def ends(self, metric: ClassificationMetric, counts: MatchCounts) -> np.ndarray:
        """Percentiles of a metric over replicates: float64[2, m]; NaN where none tells anything."""
        values = metric.at(counts)
        nothing = counts.tp + counts.fp == 0
        if metric.increasing or not nothing.any():
            return self.interval(values)
        # Precision of nothing is no precision: such a replicate is left out.
        values = np.where(nothing, np.nan, values)
        out = np.full((2, len(values)), np.nan)
        some = np.flatnonzero(~nothing.all(axis=1))
        tail = (1 - self.confidence) / 2
        out[:, some] = np.nanquantile(values[some], [tail, 1 - tail], axis=-1)
        return out

    def replicate(self, pairs: PairCounts, rows: np.ndarray, name: str) -> MatchCounts:
        """Counts at some thresholds in each replicate.

        Args:
          pairs: of all queries. rows: int64[m], ascending rows of thresholds. name: of the random numbers.

        Returns:
          int64[m, replicates] each.
        """
        rng = self.generator(name)
        shape = (len(rows) + 1, self.replicates)
        edges = np.concatenate([[-1], rows, [len(pairs.distances) - 1]])

        def draw(counts: np.ndarray) -> np.ndarray:
            """Sums up to each of the thresholds, and over all: int64[m + 1, replicates]."""
            sums = np.append(np.cumsum(counts), 0)[edges]  # the row -1 is the appended 0
            return np.cumsum(rng.poisson(np.diff(sums)[:, None], shape), axis=0)

        tp, wrong, opened = draw(pairs.hits), draw(pairs.total - pairs.hits - pairs.open), draw(pairs.open)
        alone = pairs.unmatched - pairs.unmatched_open
        unmatched, unmatched_open = (rng.poisson(count, self.replicates) for count in (alone, pairs.unmatched_open))
        fp = wrong + opened
        open_set = opened[-1] + unmatched_open
        queries = tp[-1] + wrong[-1] + unmatched + open_set
        return MatchCounts(tp[:-1], fp[:-1], tp[-1] - tp[:-1], fp[-1] - fp[:-1], queries, opened[:-1], open_set)

    def metric_intervals(
        self, pairs: PairCounts, row: int, metrics: Mapping[str, ClassificationMetric], name: str
    ) -> dict[str, list[float]]:
        """Lower and upper ends of each metric at one threshold."""
        counts = self.replicate(pairs, np.array([row]), f"metrics {name}")
        ends = {key: self.ends(metric, counts)[:, 0] for key, metric in metrics.items()}
        return {key: [float(low), float(high)] for key, (low, high) in ends.items() if np.isfinite(low)}

    def distance_intervals(
        self, pairs: PairCounts, rules: Sequence[Rule], rows: Sequence[int]
    ) -> list[tuple[list[float], float] | None]:
        """Lower and upper ends of cutpoints' distances: each is picked again in each replicate.

        Args:
          pairs: of all queries. rules: of the cutpoints. rows: where they are.

        Returns:
          For each cutpoint the two ends and the share of replicates in which its target is reached; None where it never is.
        """
        grid = spread_rows(pairs, BINS, rows)
        counts = self.replicate(pairs, grid, "distances")
        distances = pairs.distances[grid]
        # A replicate has only the distances of the queries that it drew: a threshold is the last such distance up to it.
        near = counts.tp + counts.fp
        drawn = np.diff(near, axis=0, prepend=0) > 0
        occurred = np.maximum.accumulate(np.where(drawn, np.arange(len(grid))[:, None], 0), axis=0)
        each = np.arange(self.replicates)
        values: dict[str, np.ndarray] = {}
        ends: list[tuple[list[float], float] | None] = []
        for rule in rules:
            if rule.metric.name not in values:
                values[rule.metric.name] = rule.metric.at(counts)
            picked, reached = rule.pick(values[rule.metric.name])
            reached = reached & (near[picked, each] > 0)
            if reached.any():
                low, high = self.interval(distances[occurred[picked, each][reached]], "inverted_cdf")
                ends.append(([float(low), float(high)], float(reached.mean())))
            else:
                ends.append(None)
        return ends


def spread_rows(pairs: PairCounts, most: int, also: Sequence[int] = ()) -> np.ndarray:
    """About `most` rows of thresholds at most, with equal numbers of queries between them; the first, the last, and `also`."""
    count = len(pairs.distances)
    if count <= most:
        return np.arange(count)
    sums = np.cumsum(pairs.total)
    ranks = (np.arange(1, most + 1) * int(sums[-1])) // most
    return np.unique(np.concatenate([[0], np.searchsorted(sums, ranks), np.asarray(also, np.int64)]))
