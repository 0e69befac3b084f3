"""The report's sections about calibration: cutpoints, distances, probability, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from simpipe.report import formats
from simpipe.report.model import ReportData
from simpipe.report.parts import EXTREMES, CalibrationPart, GroupsPart, ScoreHistogram
from simpipe.visualization.reliability import reliability
from simpipe.visualization.score_distribution import score_distribution
from simpipe.visualization.threshold_curves import CURVES, interval_of

_TITLES = {
    "distance": "distance",
    "precision": "precision",
    "recall": "recall",
    "recall_all": "recall of all",
    "f1": "F1",
    "f1_all": "F1 of all",
    "binary_accuracy": "binary accuracy",
    "fpr": "FPR",
    "open_set_fpr": "open-set FPR",
    "npv": "NPV",
}
_ALWAYS = ("distance", "precision", "recall", "f1", "binary_accuracy")
_MEANT = {
    "fpr": "FPR: share of wrong matches that are accepted.",
    "open_set_fpr": "Open-set FPR: share of open-set queries that get a match.",
    "npv": "NPV: share of refused matches that are wrong.",
}
_OF_GROUPS = ("precision", "recall", "recall_all", "f1")


@dataclass(frozen=True)
class Cell:
    """A value, and its interval as text; "" for none."""

    value: Any
    interval: str = ""

    def __str__(self) -> str:
        return f"{formats.number(self.value)} {self.interval}".rstrip()


@dataclass(frozen=True)
class PointTable:
    """Cutpoints as rows: (name, cells)."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    wide: bool  # with intervals it needs the page's width


@dataclass(frozen=True)
class BandTable:
    """Intervals as text at some distances: (distance, one text a column)."""

    columns: list[str]
    rows: list[tuple[float, list[str]]]


@dataclass(frozen=True)
class ScoreRow:
    """A kind's queries, the median of their distances, and about how many lie within the cutpoint; to a bin's width."""

    kind: str
    queries: int
    median: float
    within: float


def sections(data: ReportData, optimal: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates of these sections need."""
    part, distance = data.calibration, formats.distance_name(data.distance)
    limit = optimal.get("distance")
    scores = part.scores if part else None
    fit = part.probability if part else None
    named = (str(optimal["name"]), float(limit)) if limit is not None else None
    return {
        "calibration": part,
        "points": point_table(data.cutpoints),
        "matcher_tables": [(each, point_table(each.cutpoints)) for each in part.matchers] if part else [],
        "count_notes": notes(part, data.cutpoints),
        "score_plot": Markup(score_distribution(scores.low, scores.high, scores.counts, named, distance) if scores else ""),
        "score_rows": score_rows(scores, limit) if scores else [],
        "score_bins": score_bins(scores) if scores else [],
        "band_table": band_table(part.curves if part else {}),
        "probability": fit,
        "reliability_plot": Markup(
            reliability(*([getattr(each, name) for each in fit.bins] for name in ("mean", "share", "queries", "low", "high")))
            if fit
            else ""
        ),
        "groups": part.groups if part else None,
        "group_tables": group_tables(part.groups) if part and part.groups else [],
        "group_columns": _group_columns(part.groups) if part and part.groups else [],
        "title_of": title_of,
    }


def title_of(metric: str) -> str:
    return _TITLES.get(metric, formats.words(metric))


def point_table(cutpoints: Sequence[Mapping[str, Any]]) -> PointTable:
    """Cutpoints with the metrics that are always shown, those that they were chosen by, and those about open sets."""
    keys = _columns(cutpoints)
    rows = [(str(point.get("name")), [_cell(point, key) for key in keys]) for point in cutpoints]
    return PointTable([title_of(key) for key in keys], rows, any(cell.interval for _, cells in rows for cell in cells))


def _columns(cutpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    chosen = {point.get("metric") for point in cutpoints}
    open_set = any(point.get("open_set_fpr") is not None and not _is_nan(point["open_set_fpr"]) for point in cutpoints)
    apart = any(not _same(point.get("recall_all"), point.get("recall")) for point in cutpoints)
    return [
        key
        for key in _TITLES
        if key in _ALWAYS or key in chosen or (key == "recall_all" and apart) or (key == "open_set_fpr" and open_set)
    ]


def _cell(point: Mapping[str, Any], key: str) -> Cell:
    span = interval_of(point, key)
    return Cell(point.get(key), formats.interval(*span) if span else "")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


def _same(value: Any, other: Any) -> bool:
    return value is None or other is None or value == other or (_is_nan(value) and _is_nan(other))


def notes(part: CalibrationPart | None, cutpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """How it was counted, in sentences."""
    if part is None:
        return []
    said = [
        f"Matcher {part.matcher}, k {part.k}: {formats.labelled(part.queries, part.labelled)}"
        + (
            ""
            if part.open_set is None or not part.labelled
            else "; each label is in the index."
            if not part.open_set
            else f"; {part.open_set:,} queries are open-set: no indexed item has their label, so any match is wrong."
        )
    ]
    said[0] += "" if said[0].endswith(".") else "."
    if part.replicates and any(point.get("interval") for point in cutpoints):
        said.append(
            f"Brackets, strips, bars: {part.confidence:.0%} intervals by Poisson bootstrap, {part.replicates:,} replicates: "
            "how far other queries of the same kind would move a value. A cutpoint's distance is chosen anew in each replicate."
        )
    if any(point.get("recall_all") is not None for point in cutpoints):
        said.append(
            "Recall is among queries whose match has the right label; recall of all is among all queries whose label is in the "
            "index."
        )
    keys = _columns(cutpoints)
    said += [text for key, text in _MEANT.items() if key in keys]
    if part.unreached:
        said.append(f"Reached at no distance, so without a cutpoint: {', '.join(part.unreached)}.")
    if part.dropped_bits:
        said.append(
            f"Thresholds are rounded up: so many distances occurred that their last {part.dropped_bits} bits were dropped. A "
            f"threshold is off by at most {formats.number(part.threshold_error)}; the counts at it are exact."
        )
    return said


def score_rows(scores: ScoreHistogram, limit: float | None) -> list[ScoreRow]:
    """One row a kind with queries. A bin that holds the median or the cutpoint counts in proportion."""
    return [
        ScoreRow(
            kind,
            int(counts.sum()),
            _quantile(scores, counts, 0.5),
            float("nan") if limit is None else _share_within(scores, counts, limit),
        )
        for kind, counts in scores.counts.items()
        if counts.sum()
    ]


def score_bins(scores: ScoreHistogram) -> list[tuple[float, float, list[int]]]:
    """(low, high, queries of each kind of `score_rows`) of the bins that have queries."""
    kinds = [counts for counts in scores.counts.values() if counts.sum()]
    some = np.flatnonzero(np.sum(kinds, axis=0)) if kinds else np.empty(0, np.int64)
    return [(float(scores.low[i]), float(scores.high[i]), [int(counts[i]) for counts in kinds]) for i in some]


def band_table(curves: Mapping[str, np.ndarray], rows: int = 24) -> BandTable:
    """The intervals that are drawn as strips, and recall of all, at about `rows` distances that cover the curves evenly."""
    n = len(curves.get("distance", ()))
    banded = [key for key in CURVES if f"{key}_low" in curves and np.isfinite(curves[f"{key}_low"]).any()]
    single = [key for key in ("recall_all",) if key in curves]
    chosen = np.unique(np.linspace(0, n - 1, min(n, rows)).round().astype(int)) if n and banded else ()

    def text(key: str, row: int) -> str:
        if key in single:
            return formats.number(float(curves[key][row]))
        low, high = float(curves[f"{key}_low"][row]), float(curves[f"{key}_high"][row])
        return formats.interval(low, high) if np.isfinite([low, high]).all() else formats.MISSING

    keys = [*banded, *single]
    return BandTable(
        [title_of(key) for key in keys],
        [(float(curves["distance"][row]), [text(key, row) for key in keys]) for row in chosen],
    )


def _quantile(scores: ScoreHistogram, counts: np.ndarray, share: float) -> float:
    wanted, total = share * counts.sum(), np.cumsum(counts)
    row = int(np.searchsorted(total, wanted))
    inside = (wanted - (total[row] - counts[row])) / counts[row]
    return float(scores.low[row] + inside * (scores.high[row] - scores.low[row]))


def _share_within(scores: ScoreHistogram, counts: np.ndarray, limit: float) -> float:
    width = scores.high - scores.low
    part = np.where(width > 0, (limit - scores.low) / np.where(width > 0, width, 1), scores.low <= limit)
    return float((np.clip(part, 0, 1) * counts).sum() / counts.sum())


def _group_columns(groups: GroupsPart) -> list[str]:
    return [key for key in _OF_GROUPS if any(key in row for row in groups.rows)]


def group_tables(groups: GroupsPart) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows): all groups where they are few, else those with the lowest and with the highest cutpoints."""
    if groups.total <= 2 * EXTREMES:
        return [("All of them, by distance", groups.rows)] if groups.rows else []
    return [
        ("Lowest cutpoints: matches must be very near", groups.rows[:EXTREMES]),
        ("Highest cutpoints: far matches are right too", groups.rows[: -EXTREMES - 1 : -1]),
    ]
