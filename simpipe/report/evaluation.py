"""The report's sections about evaluation: metrics, latency, worst classes, slices, partitions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from simpipe.report import formats
from simpipe.report.model import ReportData
from simpipe.report.parts import EvaluationPart, PartitionRow
from simpipe.visualization.confusion_svg import MAX_CLASSES
from simpipe.visualization.partition_recall import partition_recall

LISTED_PARTITIONS = 8
MAX_PARTITION_ROWS = 256
MAX_SLICE_ROWS = 50
WORST_ROWS = 12  # of the confusion that shows the worst classes only
_SLICE_METRICS = ("label_precision_at_1", "label_precision", "map_at_r", "map", "ndcg", "recall_at", "match_right", "match_none")
_NOT_METRICS = ("value", "queries", "items", "label")


@dataclass(frozen=True)
class MetricRow:
    """A metric overall and as mean over classes; error: standard error, or None."""

    name: str
    value: float | None
    macro: float | None
    meaning: str
    error: float | None = None


def sections(data: ReportData) -> dict[str, Any]:
    """What the templates of these sections need."""
    part = data.evaluation
    recall = next((value for name, value in data.metrics.items() if name.startswith("ann_recall")), None)
    rows = part.partitions if part else []
    return {
        "evaluation": part,
        "asked_notes": asked_notes(part),
        "worst_columns": columns_of([row.metrics for row in part.worst], limit=3) if part else [],
        "mistakes": part.mistakes if part else [],
        "slice_tables": [
            (column, columns_of(values, limit=4), values[:MAX_SLICE_ROWS], len(values))
            for column, values in (part.slices.items() if part else ())
        ],
        "partition_plot": Markup(
            partition_recall([row.partition for row in rows], [row.recall for row in rows], recall) if rows else ""
        ),
        "lowest_partitions": lowest(rows)[:LISTED_PARTITIONS],
        "more_partitions": len(rows) > len(lowest(rows)[:LISTED_PARTITIONS]),
        "partition_rows": rows if len(rows) <= MAX_PARTITION_ROWS else lowest(rows)[:MAX_PARTITION_ROWS],
    }


def metric_rows(data: ReportData, meaning: Any) -> list[MetricRow]:
    """Overall metrics in their order, then those that only the mean over classes has."""
    macro = data.evaluation.macro if data.evaluation else {}
    error = data.evaluation.ann_recall_error if data.evaluation else None
    return [
        MetricRow(
            formats.words(name),
            data.metrics.get(name),
            macro.get(name),
            meaning(name),
            error if name.startswith("ann_recall") else None,
        )
        for name in (*data.metrics, *(name for name in macro if name not in data.metrics))
    ]


def asked_notes(part: EvaluationPart | None) -> list[str]:
    """Which queries were asked, in sentences."""
    if part is None:
        return []
    said = [formats.labelled(part.queries, part.labelled) + "."]
    if part.open_set:
        share = part.open_set / max(part.labelled, 1)
        said.append(f"{part.open_set:,} ({share:.1%} of the labelled) are open-set: no indexed item has their label.")
    elif part.open_set == 0:
        said.append("None is open-set: each label is in the index.")
    if part.exact_queries is not None:
        some = "All" if part.exact_queries == part.queries else f"{part.exact_queries:,}"
        said.append(f"{some} were searched exactly too, for ANN recall.")
    return said


def columns_of(rows: Sequence[dict[str, Any]], *, limit: int) -> list[str]:
    """The names of at most `limit` metrics that rows have, precision@1 first."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if _is_metric(name, value)))
    order = {name: i for i, name in enumerate(names)}

    def rank(name: str) -> tuple[int, int]:
        found = [i for i, start in enumerate(_SLICE_METRICS) if re.match(rf"{start}(_|$)", name) or name.startswith(start + "_")]
        return (found[0] if found else len(_SLICE_METRICS), order[name])

    return sorted(names, key=rank)[:limit]


def _is_metric(name: str, value: Any) -> bool:
    return name not in _NOT_METRICS and not isinstance(value, bool) and (value is None or isinstance(value, float))


def lowest(rows: Sequence[PartitionRow]) -> list[PartitionRow]:
    """Partitions with a recall, the lowest first."""
    known = [(row.recall, row.partition, row) for row in rows if row.recall is not None]
    return [row for _, _, row in sorted(known, key=lambda each: each[:2])]


def worst_confusion(data: ReportData, worst: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The confusion of the worst classes and of what they are confused with.

    Args:
      worst: labels, the worst first.

    Returns:
      n labels, at most `MAX_CLASSES`: first the worst, at most `WORST_ROWS`, then the others in the order of `data`;
      int64[n, n + 1] counts, the last column "no match"; int64[n] queries that got a label of other classes.
    """
    labels, counts = data.confusion_labels, data.confusion
    place = {label: i for i, label in enumerate(labels)}
    rows = [place[label] for label in worst if label in place][:WORST_ROWS]
    wrong = counts[:, : len(labels)].copy()
    np.fill_diagonal(wrong, 0)
    weight = wrong[rows].sum(0) if rows else np.zeros(len(labels), np.int64)
    weight[rows] = 0
    others = [i for i in np.argsort(-weight, kind="stable")[: MAX_CLASSES - len(rows)].tolist() if weight[i]]
    chosen = [*rows, *sorted(others)]
    inner = counts[np.ix_(chosen, chosen)]
    outside = counts[chosen][:, : len(labels)].sum(1) - inner.sum(1)
    return [labels[i] for i in chosen], np.column_stack([inner, counts[chosen][:, -1]]).reshape(-1, len(chosen) + 1), outside
