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
# What `metrics.json` lists at most; all of them are in Parquet files beside it.
_SLICES, _PAIRS = 100, 10_000


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


def slice_table(sums: EvaluationSums) -> pa.Table:
    """All values of all columns: column, value (null: queries without one), queries, and a column float64 a metric."""
    about = {name: sums.slices.column(name) for name in ("column", "value", "queries")}
    return pa.table({**about, **{name: _nullable(values) for name, values in means_of(sums.slices, ["column", "value"]).items()}})


def slice_records(slices: pa.Table, most: int = _SLICES) -> dict[str, list[dict[str, Any]]]:
    """Of each column of a `slice_table` its values with most queries, at most so many; by value, those without one last."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in pc.unique(slices.column("column")).to_pylist():
        rows = slices.filter(pc.equal(slices.column("column"), name)).drop_columns(["column"])
        rows = rows.sort_by([("queries", "descending"), ("value", "ascending")]).slice(0, most)
        found[name] = [_defined(row) for row in rows.sort_by("value").to_pylist()]
    return found


def partition_records(sums: EvaluationSums, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Of each partition: rows, true neighbors that lie there, how many of these were found, and the share (None: of none)."""
    return [
        {"partition": number, "rows": size, "neighbors": near, "found": found, "recall": found / near if near else None}
        for number, (size, near, found) in enumerate(zip(rows, sums.neighbors.tolist(), sums.found.tolist(), strict=True))
    ]


def confusion_records(confusion: pa.Table, most: int = _PAIRS) -> list[list[Any]]:
    """[true, matched or None, queries], the most frequent ones, at most so many; by label, those without a match last."""
    order = [("count", "descending"), ("true", "ascending"), ("matched", "ascending")]
    rows = confusion.sort_by(order).slice(0, most).sort_by(order[1:])
    return [list(row) for row in zip(*(rows.column(name).to_pylist() for name in ("true", "matched", "count")), strict=True)]


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _defined(row: dict[str, Any]) -> dict[str, Any]:
    """Without metrics that are not defined."""
    return {name: value for name, value in row.items() if value is not None or name == "value"}
