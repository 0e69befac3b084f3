"""The tables of the report, computed from its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simpipe.data.examples import sort_classes
from simpipe.report.model import THRESHOLD_KEYS, Projection, ReportData
from simpipe.visualization.threshold_curves import thin

LONGEST = 20  # rows of a ranked table
MAX_EPOCHS = 100


@dataclass(frozen=True)
class ConfusedPair:
    """`count` queries of `true` (`share` of its queries) were matched to `matched`."""

    true: str
    matched: str
    count: int
    share: float


@dataclass(frozen=True)
class ClassResult:
    """Of a class's `queries`, so many were matched to it (`right`), to another (`wrong`), or to none (`no_match`)."""

    label: str
    queries: int
    right: int
    wrong: int
    no_match: int

    @property
    def recall(self) -> float:
        return self.right / self.queries if self.queries else float("nan")


@dataclass(frozen=True)
class SplitCounts:
    """Classes of a split: how many have examples, the spread of their sizes, and the extremes where there are many."""

    split: str
    classes: int
    smallest: int
    median: float
    largest: int
    lowest: list[tuple[str, int]]
    highest: list[tuple[str, int]]


@dataclass(frozen=True)
class ConfusionTable:
    """A confusion matrix: the names of its columns, and (true label, numbers of queries) a row."""

    columns: list[str]
    rows: list[tuple[str, list[int]]]


@dataclass(frozen=True)
class ProjectedClass:
    """A class in the projection: its number of points and their median. held_out: whether training never saw it."""

    label: str
    points: int
    x: float
    y: float
    held_out: bool


def confused_pairs(labels: Sequence[str], confusion: np.ndarray, limit: int = LONGEST) -> list[ConfusedPair]:
    """The pairs of different classes with the most queries, most first; among equals by share of the true class.

    Args:
      labels: n class names.
      confusion: int64[n, n + 1], the last column "no match".
      limit: how many.
    """
    n = len(labels)
    wrong = np.array(confusion[:, :n])
    np.fill_diagonal(wrong, 0)
    totals = np.maximum(confusion.sum(1), 1)
    order = np.lexsort([-(wrong / totals[:, None]).ravel(), -wrong.ravel()])[:limit]
    return [
        ConfusedPair(labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i]))
        for i, j in (divmod(int(cell), n) for cell in order)
        if wrong[i, j] > 0
    ]


def class_results(labels: Sequence[str], confusion: np.ndarray) -> list[ClassResult]:
    """Results of the classes that have queries, worst recall first (among equals: more queries first)."""
    queries, none = confusion.sum(1), confusion[:, -1]
    results = [
        ClassResult(label, int(queries[i]), int(confusion[i, i]), int(queries[i] - confusion[i, i] - none[i]), int(none[i]))
        for i, label in enumerate(labels)
        if queries[i]
    ]
    return sorted(results, key=lambda result: (result.recall, -result.queries))


def classes_of(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """All classes of all splits, in order."""
    return sort_classes({name for by_class in counts.values() for name in by_class})


def split_counts(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str], limit: int = 5) -> list[SplitCounts]:
    """For each split the number of its classes and the spread of their sizes; classes without examples do not count."""
    found = []
    for split, by_class in counts.items():
        sizes = sorted(((name, by_class.get(name, 0)) for name in classes if by_class.get(name, 0)), key=lambda pair: pair[1])
        values = [value for _, value in sizes] or [0]
        highest = sorted(sizes, key=lambda pair: -pair[1])[:limit]
        found.append(SplitCounts(split, len(sizes), values[0], float(np.median(values)), values[-1], sizes[:limit], highest))
    return found


def rank_rows(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str], points: int = 24) -> list[tuple[int, list[int]]]:
    """(rank, examples of the class of this rank in each split), at about `points` ranks, the largest class first."""
    ranks = np.unique(np.geomspace(1, len(classes), min(len(classes), points)).round().astype(int)) if classes else ()
    sizes = [np.sort([by_class.get(name, 0) for name in classes])[::-1] for by_class in counts.values()]
    return [(int(rank), [int(values[rank - 1]) for values in sizes]) for rank in ranks]


def confusion_table(labels: Sequence[str], confusion: np.ndarray, others: np.ndarray | None = None) -> ConfusionTable:
    """The cells of `confusion_svg`, whose arguments these are."""
    ends = ["other class"] * (others is not None) + ["no match"]
    counts = confusion if others is None else np.insert(confusion, len(labels), others, axis=1)
    return ConfusionTable([*labels, *ends], list(zip(labels, counts.tolist(), strict=True)))


def projection_rows(projection: Projection, classes: Sequence[str], limit: int = MAX_EPOCHS) -> list[ProjectedClass]:
    """Where the points of each class lie, in the order of `classes`; of more than `limit` those with the most points."""
    labels, held_out = np.asarray(projection.labels, object), np.asarray(projection.held_out, bool)
    names, codes, sizes = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    members = dict(zip(names.tolist(), np.split(order, np.cumsum(sizes)[:-1]), strict=True))
    largest = set(sorted(members, key=lambda name: -len(members[name]))[:limit])
    rows = [(name, members[name]) for name in classes if name in largest]
    middles = [np.median(projection.points[among], axis=0).tolist() for _, among in rows]
    return [
        ProjectedClass(name, len(among), x, y, bool(held_out[among].all()))
        for (name, among), (x, y) in zip(rows, middles, strict=True)
    ]


def threshold_rows(data: ReportData, points: int = 24) -> list[list[float]]:
    """About `points` thresholds, by distance: the values of `THRESHOLD_KEYS`, NaN where a curve is missing."""
    keep = [point["distance"] for point in data.cutpoints if point.get("distance") is not None]
    columns = thin(data.thresholds, keep, points)
    n = len(columns.get("distance", ()))
    blank = np.full(n, np.nan)
    return [[float(columns.get(key, blank)[row]) for key in THRESHOLD_KEYS] for row in range(n)]


def epoch_rows(history: Mapping[str, Sequence[float]]) -> list[tuple[int, list[float | None]]]:
    """(epoch, the values of each curve), at most about `MAX_EPOCHS` of them, the last one always there."""
    epochs = max((len(values) for values in history.values()), default=0)
    shown = np.unique(np.linspace(1, epochs, min(epochs, MAX_EPOCHS)).round().astype(int)) if epochs else ()
    return [(int(epoch), [values[epoch - 1] if epoch <= len(values) else None for values in history.values()]) for epoch in shown]


def last_values(history: Mapping[str, Sequence[float]]) -> list[tuple[str, float, float]]:
    """(name, first value, last value) of each curve that has values."""
    return [(name, values[0], values[-1]) for name, values in history.items() if len(values)]
