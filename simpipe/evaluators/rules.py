"""What is measured, and how many indexed items each label has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.ids import hash_ids

CUTPOINT = "optimal"  # the one that matches are judged at
MATCH_RIGHT, MATCH_NONE = "match_right_at_optimal", "match_none_at_optimal"
NO_MATCH_RIGHT = "no_match_right_at_optimal"


@dataclass(frozen=True)
class EvaluationRules:
    """What is measured of each answer.

    Attributes:
      k: depth of ANN recall, precision, MAP and NDCG. recall_at: depths of label recall.
      max_r: MAP@R looks at no more than so many neighbors; None: it is not measured.
      matcher, match_k: how neighbors become a match. optimal: the cutpoint, a distance; None: matches are not judged.
      slices: metadata columns whose values get metrics of their own.
      partitions: of the release. queries_are_items: each query is an indexed item, left out of its own neighbors.
    """

    k: int = 10
    recall_at: tuple[int, ...] = (1, 5, 10)
    max_r: int | None = None
    matcher: str = "match_nearest"
    match_k: int = 1
    optimal: float | None = None
    slices: tuple[str, ...] = ()
    partitions: int = 1
    queries_are_items: bool = False

    @classmethod
    def at(cls, calibration: Mapping[str, Any], **rules: Any) -> EvaluationRules:
        """With the matcher and the cutpoint `optimal` of `cutpoints.json`, where there is one."""
        cutpoint = calibration["cutpoints"].get(CUTPOINT)
        distance = None if cutpoint is None else cutpoint["distance"]
        return cls(matcher=calibration["matcher"], match_k=calibration["k"], optimal=distance, **rules)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of labelled queries, in their order."""
        names = {"label_precision_at_1", f"label_precision_at_{self.k}", f"map_at_{self.k}", f"ndcg_at_{self.k}"}
        names |= {f"recall_at_{depth}" for depth in self.recall_at}
        names |= set() if self.max_r is None else {"map_at_r"}
        names |= set() if self.optimal is None else {MATCH_RIGHT, MATCH_NONE, NO_MATCH_RIGHT}
        return tuple(in_order(names))


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted, `recall_at_5` before `recall_at_10`."""
    return sorted(names, key=lambda name: [part.zfill(9) if part.isdigit() else part for part in re.split("_", name)])


class LabelItems:
    """Indexed items a label, for many labels at a time.

    Args:
      labels: string[c], each once, without null. items: int64[c].
    """

    def __init__(self, labels: pa.Array, items: np.ndarray) -> None:
        hashes = hash_ids(labels)
        order = np.argsort(hashes, kind="stable")
        self._labels, self._items = labels.cast(pa.large_string()).take(pa.array(order)), np.asarray(items, np.int64)[order]
        self._hashes = hashes[order]
        # Labels whose hashes are equal stand side by side: so many are compared at most.
        starts = np.flatnonzero(np.append(True, self._hashes[1:] != self._hashes[:-1])) if len(order) else np.zeros(0, np.int64)
        self._most = int(np.diff(np.append(starts, len(order))).max(initial=0))

    @classmethod
    def load(cls, path: str | Path) -> LabelItems:
        """Reads what `save` wrote."""
        return cls.in_table(pq.read_table(files.located(path)))

    @classmethod
    def in_table(cls, table: pa.Table) -> LabelItems:
        """From columns label and items."""
        return cls(table.column("label").combine_chunks(), table.column("items").to_numpy())

    def save(self, path: Path) -> None:
        """Writes columns label and items as Parquet."""
        with files.replacing(path, flush=False) as temporary:
            pq.write_table(pa.table({"label": self._labels, "items": pa.array(self._items)}), temporary)

    @property
    def largest(self) -> int:
        """Items of the largest class."""
        return int(self._items.max(initial=0))

    def count(self, labels: pa.Array) -> np.ndarray:
        """Indexed items of each label string[n]: int64[n]; 0 for one that is not indexed."""
        counts = np.zeros(len(labels), np.int64)
        if not len(self._items) or not len(labels):
            return counts
        hashes, given = hash_ids(labels), labels.cast(pa.large_string())
        first = np.searchsorted(self._hashes, hashes)
        for step in range(self._most):
            at = np.minimum(first + step, len(self._items) - 1)
            same = pc.equal(self._labels.take(pa.array(at)), given).to_numpy(zero_copy_only=False)
            counts[same] = self._items[at[same]]
        return counts
