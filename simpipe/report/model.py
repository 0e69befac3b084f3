"""What the report of a release shows. Plain data; `render` turns it into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from simpipe.report.parts import CalibrationPart, EvaluationPart

THRESHOLD_KEYS = ("distance", "precision", "recall", "f1", "binary_accuracy")


@dataclass(frozen=True)
class NeighborCard:
    """A neighbor of a query.

    Attributes:
      label: None where the item has none.
      distance: smaller is nearer.
      rank: 1 for the nearest.
      correct: whether its label is the query's.
      passes_cutpoint: whether its distance is at or below the cutpoint's.
      image: uint8[H, W, C], or None where items are no pictures.
    """

    id: str
    label: str | None
    distance: float
    rank: int
    correct: bool
    passes_cutpoint: bool
    image: np.ndarray | None = None


@dataclass(frozen=True)
class QueryCard:
    """A query and its nearest neighbors.

    Attributes:
      label: the true label; None where unknown.
      matched_label: what the matcher said at the cutpoint; None for no match.
      cutpoint: the cutpoint's name.
      neighbors: nearest first.
      image: uint8[H, W, C] or None.
      in_index: False where the index holds no item of the query's class, so that "no match" is right.
    """

    id: str
    label: str | None
    matched_label: str | None
    cutpoint: str
    neighbors: list[NeighborCard]
    image: np.ndarray | None = None
    in_index: bool = True

    @property
    def correct(self) -> bool | None:
        """Whether the matcher was right; None where the true label is unknown."""
        if self.label is None:
            return None
        return self.matched_label == (self.label if self.in_index else None)


@dataclass(frozen=True)
class Projection:
    """Embeddings in two dimensions, as `visualization.embed2d.project` makes them.

    Attributes:
      points: float32[n, 2].
      labels: n class names.
      held_out: n times whether training never saw the class.
      method: "t-SNE" or "PCA".
      explained: a sentence on how to read it.
    """

    points: np.ndarray
    labels: list[str]
    held_out: list[bool]
    method: str
    explained: str

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.points.shape != (n, 2) or len(self.held_out) != n:
            raise ValueError(f"projection: {self.points.shape} points, {n} labels, {len(self.held_out)} held_out flags")


@dataclass(frozen=True)
class SearchRow:
    """A target recall of the search profile, and what it takes.

    Attributes:
      target: recall@k that is promised. recall: measured. low: one standard error less.
      probes: partitions asked, mean a query. microseconds: CPU time a query.
      how: the rule and the backend's settings in words.
    """

    target: float
    recall: float
    low: float
    probes: float
    microseconds: float
    how: str


@dataclass(frozen=True)
class RouterRow:
    """A router that the planner measured; see `index.planner.Candidate`."""

    router: str
    partitions: int
    rows: float
    probes: float
    microseconds: float
    chosen: bool


@dataclass(frozen=True)
class ReportData:
    """Everything in `report.html`.

    Attributes:
      title: such as the configuration's name.
      release: the release's name.
      created: UTC time as text.
      facts: (name, value) pairs: items, partitions, backend, encoder fingerprint, …; the fact "items" is a headline.
      splits: split -> number of examples.
      class_counts: split -> class -> number of examples.
      history: training curve, name -> value per epoch; empty for ready-made vectors.
      thresholds: "distance", "precision", "recall", "f1", "binary_accuracy" -> n values; empty before calibration.
      cutpoints: each with "name", the keys of `thresholds`, further metrics, and maybe "interval", key -> [low, high]; the one
        named "optimal" is a headline.
      calibration, evaluation: what newer releases know beyond that.
      metrics: name -> value; `label_precision_at_1` and `ann_recall_at_10` are headlines.
      search: the search profile, one row a target. search_about: on what it was measured. routers: what the planner measured.
      confusion_labels: n class names.
      confusion: int64[n, n + 1]; rows true labels, columns matched labels, the last one "no match".
      confusion_cutpoint: the name of the cutpoint it was counted at.
      queries: some queries with their neighbors.
      projection: embeddings in two dimensions.
      distance: the index's distance: "cosine", "euclidean" or "inner_product".
      unseen_classes: classes that training never saw.
      not_in_index_classes: classes with queries but without items in the index: "no match" is right for them.
    """

    title: str
    release: str
    created: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    class_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    thresholds: Mapping[str, Sequence[float] | np.ndarray] = field(default_factory=dict)
    cutpoints: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    calibration: CalibrationPart | None = None
    evaluation: EvaluationPart | None = None
    search: list[SearchRow] = field(default_factory=list)
    search_about: str = ""
    routers: list[RouterRow] = field(default_factory=list)
    confusion_labels: list[str] = field(default_factory=list)
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    confusion_cutpoint: str = ""
    queries: list[QueryCard] = field(default_factory=list)
    projection: Projection | None = None
    distance: str = "cosine"
    unseen_classes: list[str] = field(default_factory=list)
    not_in_index_classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.confusion_labels)
        if self.confusion.shape != (n, n + 1):
            raise ValueError(f"confusion has shape {self.confusion.shape}, expected ({n}, {n + 1}) for {n} labels")
        unknown = set(self.thresholds) - set(THRESHOLD_KEYS)
        if unknown or len({len(values) for values in self.thresholds.values()}) > 1:
            raise ValueError(f"thresholds need lists of one length for {THRESHOLD_KEYS}, got also {sorted(unknown)}")
        if self.thresholds and "distance" not in self.thresholds:
            raise ValueError("thresholds need a list for 'distance'")
