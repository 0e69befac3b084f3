"""What the report shows of a calibration and of an evaluation. Plain data, read by `from_files`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simpipe.probability import Bin
from simpipe.report.model import QueryCard

EXTREMES = 8  # groups at either end


@dataclass(frozen=True)
class ScoreHistogram:
    """Distances of matches in n bins: right ones, wrong ones, and those of open-set queries.

    Attributes:
      low, high: float64[n] edges.
      counts: kind ("right", "wrong", "open set") -> int64[n].
    """

    low: np.ndarray
    high: np.ndarray
    counts: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ProbabilityPart:
    """How distances become probabilities, and how far that can be trusted.

    Attributes:
      method: "isotonic" or "logistic". ece: expected calibration error.
    """

    method: str
    ece: float | None
    bins: list[Bin]


@dataclass(frozen=True)
class MatcherPart:
    """A further matcher that was calibrated in the same pass.

    Attributes:
      cutpoints: as `ReportData.cutpoints`.
    """

    matcher: str
    k: int
    cutpoints: list[dict[str, Any]]


@dataclass(frozen=True)
class GroupsPart:
    """Cutpoints of each value of a column.

    Attributes:
      column: "label" (of the match) or a metadata column (of the query).
      groups: values that have cutpoints. min_queries: what a value needs to have some.
      cutpoint: the name of the cutpoint that `rows` are about.
      total: values that have this cutpoint.
      rows: one a value, by distance, with "value", "distance", "queries", "hits" and metrics; of more than 2 * `EXTREMES` those
        at either end.
    """

    column: str
    groups: int
    min_queries: int | None
    cutpoint: str
    total: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class CalibrationPart:
    """A calibration beyond its cutpoints.

    Attributes:
      matcher, k: of the first matcher.
      queries: asked. labelled: with a label. open_set: with a label that no item carries; None where not counted.
      dropped_bits: of distances, so that their counts fit; 0: exact. threshold_error: how far a threshold may be off for it.
      replicates: of the bootstrap; 0: no intervals. confidence: of the intervals.
      curves: "distance", and for a metric M: M, M_low, M_high; float64[n]; {} without a file of curves.
      unreached: targets that no distance reaches.
    """

    matcher: str
    k: int
    queries: int
    labelled: int
    open_set: int | None = None
    dropped_bits: int = 0
    threshold_error: float = 0.0
    replicates: int = 0
    confidence: float = 0.0
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    scores: ScoreHistogram | None = None
    probability: ProbabilityPart | None = None
    matchers: list[MatcherPart] = field(default_factory=list)
    groups: GroupsPart | None = None
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassRow:
    """A class with bad results.

    Attributes:
      confused: (label, or None for no match; number of queries), most first.
    """

    label: str
    queries: int
    items: int
    metrics: dict[str, float | None]
    confused: list[tuple[str | None, int]]


@dataclass(frozen=True)
class PartitionRow:
    """Of the true neighbors that lie in a partition, how many were found. recall: None where there are none."""

    partition: int
    rows: int
    neighbors: int
    found: int
    recall: float | None


@dataclass(frozen=True)
class Latency:
    """Time of a search: alone (milliseconds at quantiles) and in a block (microseconds a query)."""

    queries: int
    single_ms: dict[str, float]
    block: int | None
    block_us: float | None


@dataclass(frozen=True)
class Mistakes:
    """Queries of a class that were matched to another, each with its nearest wrong item."""

    label: str
    cards: list[QueryCard]


@dataclass(frozen=True)
class EvaluationPart:
    """An evaluation beyond its overall metrics.

    Attributes:
      macro: metric -> mean over classes.
      queries, labelled, open_set: as in `CalibrationPart`.
      asked: "held_out", or "items": the indexed ones.
      exact_queries: searched exactly as well. ann_recall_error: standard error of ANN recall.
      worst: the worst classes. partitions: recall of each. slices: column -> rows with "value", "queries" and metrics.
      mistakes: of the first of `worst`.
    """

    queries: int
    labelled: int
    open_set: int | None = None
    asked: str = "held_out"
    exact_queries: int | None = None
    ann_recall_error: float | None = None
    macro: dict[str, float | None] = field(default_factory=dict)
    worst: list[ClassRow] = field(default_factory=list)
    partitions: list[PartitionRow] = field(default_factory=list)
    slices: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    latency: Latency | None = None
    mistakes: list[Mistakes] = field(default_factory=list)
