"""Evaluation as mergeable sums of integers: whatever the blocks and their order, the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.evaluators.partitions import partition_counts
from simpipe.evaluators.per_query import ann_recall, label_metrics
from simpipe.evaluators.rules import NO_MATCH_RIGHT, EvaluationRules, LabelItems, in_order
from simpipe.evaluators.tallies import ONE, fixed, merge_tallies, numbers, tally
from simpipe.index.answers import Answer

_KEYS = {"classes": ["label"], "slices": ["column", "value"], "confusion": ["true", "matched"]}
_COUNTS = ("queries", "labelled", "open_set", "exact_queries", "recall", "recall_squares")
_PLACES = ("neighbors", "found")


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over queries; merging gives the sums over all. Metrics are summed in fixed point, see `tallies`.

    Attributes:
      k: depth of ANN recall. queries: all; labelled: those with a label; open_set: of these, those whose label no other
        indexed item has; exact_queries: those searched exactly as well.
      recall, recall_squares: sums of ANN recall and of its square.
      classes: label, queries, open_set, and a column a metric. slices: the same by column and value (null: without one).
      confusion: true, matched (null: no match), count, at cutpoint `optimal`.
      neighbors, found: int64[partitions], true neighbors that lie there, and how many of these were found.
    """

    k: int
    queries: int
    labelled: int
    open_set: int
    exact_queries: int
    recall: int
    recall_squares: int
    classes: pa.Table
    slices: pa.Table
    confusion: pa.Table
    neighbors: np.ndarray
    found: np.ndarray

    @classmethod
    def empty(cls, rules: EvaluationRules) -> EvaluationSums:
        """Of no query."""
        none = np.zeros(rules.partitions, np.int64)
        return cls(rules.k, 0, 0, 0, 0, 0, 0, *_tables(rules), none, none)

    @classmethod
    def merge(cls, parts: Iterable[EvaluationSums]) -> EvaluationSums:
        """The sums over all of what several (at least one) tell of; all by the same rules."""
        several = list(parts)
        if len(several) == 1:
            return several[0]
        counts: dict[str, Any] = {name: sum(getattr(part, name) for part in several) for name in _COUNTS}
        tables = {name: merge_tallies([getattr(part, name) for part in several], keys) for name, keys in _KEYS.items()}
        places: dict[str, Any] = {
            name: np.sum([getattr(part, name) for part in several], axis=0, dtype=np.int64) for name in _PLACES
        }
        return cls(k=several[0].k, **counts, **tables, **places)

    @property
    def rows(self) -> int:
        """Of all tables: what merging costs."""
        return len(self.classes) + len(self.slices) + len(self.confusion)

    def metrics(self) -> dict[str, float]:
        """Means over labelled queries; of ANN recall over those searched exactly. What has no query is left out."""
        means = {name: value for name, value in means_of(self.classes, []).items() if value is not None}
        if self.exact_queries:
            means[f"ann_recall_at_{self.k}"] = self.recall / ONE / self.exact_queries
        return {name: means[name] for name in in_order(means)}

    def ann_recall_error(self) -> float | None:
        """Standard error of the mean ANN recall; None below two queries."""
        n = self.exact_queries
        if n < 2:
            return None
        spread = max(self.recall_squares * n * ONE - self.recall**2, 0)  # in integers: no cancellation
        return math.sqrt(spread / (n * n * (n - 1))) / ONE

    def save(self, folder: Path) -> None:
        """Writes `sums.json` and a Parquet file a table; see `load`."""
        counts = {name: getattr(self, name) for name in ("k", *_COUNTS)}
        for name in _KEYS:
            with files.replacing(folder / f"{name}.parquet", flush=False) as temporary:
                pq.write_table(getattr(self, name), temporary)
        files.write_json(folder / "sums.json", {**counts, **{name: getattr(self, name).tolist() for name in _PLACES}})

    @classmethod
    def load(cls, folder: Path) -> EvaluationSums:
        data = files.read_json(folder / "sums.json")
        arrays = {name: np.array(data[name], np.int64) for name in _PLACES}
        return cls(**{**data, **arrays}, **{name: pq.read_table(folder / f"{name}.parquet") for name in _KEYS})


def means_of(table: pa.Table, keys: list[str]) -> dict[str, Any]:
    """Means over all rows of classes or slices (no keys), else of each row: float64[n], NaN where there is no query.

    Returns:
      metric -> mean, in the table's order. Over all rows: None where there is no query.
    """
    counts = {name: numbers(table, name) for name in ("queries", "open_set")}
    found: dict[str, Any] = {}
    for name in table.column_names:
        if name in ("label", "column", "value", *counts):
            continue
        total, count = numbers(table, name), counts["open_set" if name == NO_MATCH_RIGHT else "queries"]
        if keys:
            found[name] = np.divide(total / ONE, count, out=np.full(len(table), np.nan), where=count > 0)
        else:
            found[name] = int(total.sum()) / ONE / int(count.sum()) if count.any() else None
    return found


def evaluate_block(answer: Answer, items: LabelItems, rules: EvaluationRules) -> EvaluationSums:
    """Evaluates one block of queries.

    Args:
      answer: own items left out; searched deeply enough for the rules.
      items: indexed items a label. rules: what is measured.

    Raises:
      ContractError: the answer lacks the labels of neighbors.
    """
    recall = ann_recall(answer, rules.k)
    exact = (len(recall), int(fixed(recall).sum()), int(fixed(recall * recall).sum()))
    labels = answer.queries.column("label").combine_chunks().cast(pa.large_string())
    known = np.flatnonzero(labels.is_valid().to_numpy(zero_copy_only=False))
    labels = labels.take(pa.array(known))
    others = items.count(labels)
    if rules.queries_are_items:
        others = np.maximum(others - 1, 0)
    opened = others == 0
    metrics = label_metrics(answer, known, others, rules)
    values = {
        "queries": np.ones(len(known), np.int64),
        "open_set": opened.astype(np.int64),
        **{name: fixed(metrics.values[name]) for name in rules.metrics},
    }
    classes, slices, confusion = _tables(rules)
    if len(known):
        classes = tally({"label": labels}, values)
        parts = [_slice(answer, name, known, values) for name in rules.slices]
        slices = merge_tallies(parts, _KEYS["slices"]) if parts else slices
        if metrics.matches is not None:
            pairs = {"true": labels, "matched": pa.array(metrics.matches, pa.large_string())}
            confusion = tally(pairs, {"count": np.ones(len(known), np.int64)})
    counts = (len(answer), len(known), int(opened.sum()), *exact)
    return EvaluationSums(rules.k, *counts, classes, slices, confusion, *partition_counts(answer, rules.k, rules.partitions))


def _slice(answer: Answer, name: str, known: np.ndarray, values: dict[str, np.ndarray]) -> pa.Table:
    given = answer.queries.column(name).combine_chunks().take(pa.array(known))
    column = pa.repeat(pa.scalar(name, pa.large_string()), len(known))
    return tally({"column": column, "value": pc.cast(given, pa.large_string())}, values)


def _tables(rules: EvaluationRules) -> tuple[pa.Table, pa.Table, pa.Table]:
    none = np.zeros(0, np.int64)
    values = dict.fromkeys(("queries", "open_set", *rules.metrics), none)
    text = pa.array([], pa.large_string())
    return (
        tally({"label": text}, values),
        tally({"column": text, "value": text}, values),
        tally({"true": text, "matched": text}, {"count": none}),
    )
