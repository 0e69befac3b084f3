"""What the sums say of classes, of slices and of each partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.evaluators.rules import LabelItems
from simpipe.evaluators.sums import EvaluationSums, means_of
from simpipe.evaluators.tallies import numbers

_CONFUSED = 5  # listed of what a class is taken for


def class_table(sums: EvaluationSums, items: LabelItems) -> pa.Table:
    """All classes with queries, by label: label, queries, items, and a column float64 a metric (null where not defined)."""
    labels = sums.classes.column("label").combine_chunks()
    about = {
        "label": labels.cast(pa.string()),
        "queries": numbers(sums.classes, "queries"),
        "items": items.count(labels),
    }
    return pa.table({**about, **{name: _nullable(means) for name, means in means_of(sums.classes, ["label"]).items()}})


def macro_metrics(classes: pa.Table) -> dict[str, float]:
    """Means over classes of a `class_table`; a class counts where the metric is defined."""
    found = {}
    for name in classes.column_names[3:]:
        values = classes.column(name).drop_null().to_numpy()
        if len(values):
            found[name] = float(values.mean())
    return found


def worst_classes(classes: pa.Table, confusion: pa.Table, worst: int) -> list[dict[str, Any]]:
    """The classes with the lowest `label_precision_at_1`, the one with more queries first among equal ones, then by label.

    Classes of which nothing is indexed are left out: for them no neighbor is right.

    Args:
      classes: see `class_table`. confusion: see `EvaluationSums`. worst: how many, at most.

    Returns:
      Records: label, queries, items, metrics, and `most_confused_with`: [label or None, queries], most first.
    """
    indexed = classes.filter(pc.greater(classes.column("items"), 0))
    order = [("label_precision_at_1", "ascending"), ("queries", "descending"), ("label", "ascending")]
    chosen = indexed.sort_by(order).slice(0, worst)
    wrong = confusion.filter(pc.is_in(confusion.column("true").cast(pa.string()), value_set=chosen.column("label")))
    wrong = wrong.filter(pc.fill_null(pc.not_equal(wrong.column("true"), wrong.column("matched")), True))
    wrong = wrong.sort_by([("count", "descending"), ("matched", "ascending")])
    taken_for: dict[str, list[list[Any]]] = {}
    for row in wrong.to_pylist():
        taken_for.setdefault(row["true"], []).append([row["matched"], row["count"]])
    return [{**_defined(row), "most_confused_with": taken_for.get(row["label"], [])[:_CONFUSED]} for row in chosen.to_pylist()]


def slice_records(sums: EvaluationSums) -> dict[str, list[dict[str, Any]]]:
    """Of each column its values (None: queries without one), with queries and metrics, by value."""
    means = {name: _nullable(values) for name, values in means_of(sums.slices, ["column", "value"]).items()}
    table = pa.table({**{name: sums.slices.column(name) for name in ("column", "value", "queries")}, **means})
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row.pop("column"), []).append(_defined(row))
    return found


def partition_records(sums: EvaluationSums, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Of each partition: rows, true neighbors that lie there, how many of these were found, and the share (None: of none)."""
    return [
        {"partition": number, "rows": size, "neighbors": near, "found": found, "recall": found / near if near else None}
        for number, (size, near, found) in enumerate(zip(rows, sums.neighbors.tolist(), sums.found.tolist(), strict=True))
    ]


def confusion_records(sums: EvaluationSums) -> list[list[Any]]:
    """[true, matched or None, queries], by label, those without a match last."""
    columns = [sums.confusion.column(name).to_pylist() for name in ("true", "matched", "count")]
    return [list(row) for row in zip(*columns, strict=True)]


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _defined(row: dict[str, Any]) -> dict[str, Any]:
    """Without metrics that are not defined."""
    return {name: value for name, value in row.items() if value is not None or name == "value"}
