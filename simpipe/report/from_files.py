"""The report's parts from the files of a release: records of JSON and tables of Parquet. What is missing stays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.probability import Bin
from simpipe.report.parts import (
    EXTREMES,
    CalibrationPart,
    ClassRow,
    EvaluationPart,
    GroupsPart,
    Latency,
    MatcherPart,
    PartitionRow,
    ProbabilityPart,
    ScoreHistogram,
)

KINDS = {"right": "hits", "wrong": "wrong", "open set": "open"}  # in words: the column of `distributions.parquet`
_GROUPED_AT = "optimal"
_OF_CLASS = ("label", "queries", "items", "most_confused_with")


def calibration_part(
    record: Mapping[str, Any],
    *,
    curves: pa.Table | None = None,
    distributions: pa.Table | None = None,
    groups: pa.Table | None = None,
) -> CalibrationPart:
    """What `cutpoints.json` and the tables beside it say.

    Args:
      record: `cutpoints.json`. curves: `curves.parquet`. distributions: `distributions.parquet`.
      groups: `cutpoints_by.parquet`.
    """
    bootstrap = record.get("bootstrap") or {}
    name = f"{record['matcher']}@{record['k']}"
    return CalibrationPart(
        matcher=record["matcher"],
        k=record["k"],
        queries=record.get("queries", 0),
        labelled=record.get("labelled", 0),
        open_set=record.get("open_set"),
        dropped_bits=record.get("dropped_bits", 0),
        threshold_error=record.get("threshold_error", 0.0),
        replicates=bootstrap.get("replicates", 0),
        confidence=bootstrap.get("confidence", 0.0),
        curves=_curves(_of_matcher(curves, name)),
        scores=_scores(_of_matcher(distributions, name)),
        probability=_probability(record.get("probability")),
        matchers=[
            MatcherPart(each["matcher"], each["k"], list(each["cutpoints"].values()))
            for each in (record.get("matchers") or {}).values()
        ],
        groups=_groups(record.get("by"), groups),
        unreached=tuple(record.get("unreached") or ()),
    )


def _of_matcher(table: pa.Table | None, name: str) -> pa.Table | None:
    if table is None:
        return None
    own = table.filter(pc.field("matcher") == name)
    return own.drop_columns(["matcher"]) if len(own) else None


def _curves(table: pa.Table | None) -> dict[str, np.ndarray]:
    return {} if table is None else {name: np.asarray(table.column(name), np.float64) for name in table.column_names}


def _scores(table: pa.Table | None) -> ScoreHistogram | None:
    if table is None:
        return None
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    counts = {kind: np.asarray(columns[column], np.int64) for kind, column in KINDS.items()}
    if not sum(int(each.sum()) for each in counts.values()):
        return None
    return ScoreHistogram(np.asarray(columns["low"], np.float64), np.asarray(columns["high"], np.float64), counts)


def _probability(record: Mapping[str, Any] | None) -> ProbabilityPart | None:
    if not record:
        return None
    bins = [Bin(**each) for each in record["bins"]]
    return ProbabilityPart(record["method"], record.get("ece"), sorted(bins, key=lambda each: each.mean))


def _groups(about: Mapping[str, Any] | None, table: pa.Table | None) -> GroupsPart | None:
    if not about or table is None:
        return None
    names = set(table.column("cutpoint").unique().to_pylist())
    shown = _GROUPED_AT if _GROUPED_AT in names or not names else min(names)
    ordered = table.filter(pc.field("cutpoint") == shown).sort_by([("distance", "ascending"), ("value", "ascending")])
    n = len(ordered)
    ends = ordered if n <= 2 * EXTREMES else pa.concat_tables([ordered.slice(0, EXTREMES), ordered.slice(n - EXTREMES)])
    return GroupsPart(about["column"], about["groups"], about.get("min_queries"), shown, n, ends.to_pylist())


def evaluation_part(record: Mapping[str, Any]) -> EvaluationPart:
    """What `metrics.json` says beyond its overall metrics."""
    latency = record.get("latency") or {}
    return EvaluationPart(
        queries=record.get("queries", 0),
        labelled=record.get("labelled", 0),
        open_set=record.get("open_set"),
        asked=record.get("asked", "held_out"),
        exact_queries=record.get("exact_queries"),
        ann_recall_error=record.get("ann_recall_error"),
        macro=dict(record.get("macro") or {}),
        worst=[_class_row(each) for each in record.get("worst_classes") or []],
        partitions=[
            PartitionRow(each["partition"], each["rows"], each["neighbors"], each["found"], each["recall"])
            for each in record.get("partitions") or []
        ],
        slices={column: list(rows) for column, rows in (record.get("slices") or {}).items() if rows},
        latency=Latency(latency["queries"], dict(latency["single_ms"]), latency.get("block"), latency.get("block_us"))
        if latency.get("single_ms")
        else None,
    )


def _class_row(record: Mapping[str, Any]) -> ClassRow:
    confused = [(label, count) for label, count in record.get("most_confused_with") or []]
    metrics = {name: value for name, value in record.items() if name not in _OF_CLASS}
    return ClassRow(record["label"], record["queries"], record["items"], metrics, confused)


def listed_first(labels: Sequence[str], worst: Sequence[ClassRow], limit: int) -> list[str]:
    """At most `limit` of the labels, in their order; those of the worst classes and what they are confused with never go."""
    wanted = {row.label for row in worst} | {label for row in worst for label, _ in row.confused if label is not None}
    spare = max(limit - sum(label in wanted for label in labels), 0)
    kept = set([label for label in labels if label not in wanted][:spare]) | wanted
    return [label for label in labels if label in kept][:limit]
