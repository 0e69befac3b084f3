"""Counts of (distance, hit) pairs for each value of a column: labels, or a metadata column of the query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.calibration.pairs import MAX_DISTINCT, PairCounts, bit_lengths, distances_of, fewest_bits, run_starts, widest_bin
from simpipe.index.merge import order_bits

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_APART = 33  # more bits than a distance has: rows of different values


@dataclass(frozen=True)
class GroupCounts:
    """What `PairCounts` is, value by value; it merges in the same way, and `max_distinct` bounds the rows of all values.

    Where there are more values than that, each keeps one row.

    Attributes:
      values: string[v], sorted and distinct.
      code: int64[t], the value of each row, ascending; distances ascend within a value.
      distances: float32[t]. hits, total, open: int64[t].
      unmatched, unmatched_open: int64[v], queries without any neighbor.
      dropped_bits: see `PairCounts`.
    """

    values: pa.Array
    code: np.ndarray
    distances: np.ndarray
    hits: np.ndarray
    total: np.ndarray
    open: np.ndarray
    unmatched: np.ndarray
    unmatched_open: np.ndarray
    dropped_bits: int = 0

    @classmethod
    def of(
        cls,
        values: Any,
        distances: np.ndarray,
        hits: np.ndarray,
        *,
        open_set: np.ndarray | None = None,
        max_distinct: int = MAX_DISTINCT,
    ) -> GroupCounts:
        """Counts of n queries; see `PairCounts.of`.

        Args:
          values: n of any type that Arrow casts to strings; queries without a value (null) count nowhere.
        """
        array = _strings(values)
        here = np.asarray(array.is_valid())
        distances, hits = np.asarray(distances, np.float32)[here], np.asarray(hits, bool)[here]
        opened = np.zeros(len(distances), bool) if open_set is None else np.asarray(open_set, bool)[here]
        array = array.drop_null()
        names, code = _coded(array, array.unique())
        there = np.isfinite(distances)
        rows = [(hits & ~opened)[there].astype(np.int64), np.ones(int(there.sum()), np.int64), opened[there].astype(np.int64)]
        missing = np.bincount(code[~there], minlength=len(names))
        missing_open = np.bincount(code[opened & ~there], minlength=len(names))
        return cls._fit(names, code[there], order_bits(distances[there]), rows, (missing, missing_open), 0, max_distinct)

    @classmethod
    def merge(cls, parts: Iterable[GroupCounts], *, max_distinct: int = MAX_DISTINCT) -> GroupCounts:
        """The counts of all parts together, in any order."""
        parts = list(parts)
        every = pa.concat_arrays([pa.array([], pa.large_string()), *(part.values for part in parts)])
        names, code = _coded(every, every.unique())
        unmatched, unmatched_open = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
        codes, first = [np.empty(0, np.int64)], 0
        for part in parts:
            place = code[first : first + len(part.values)]  # distinct within a part
            unmatched[place] += part.unmatched
            unmatched_open[place] += part.unmatched_open
            codes.append(place[part.code])
            first += len(part.values)
        bits = order_bits(np.concatenate([np.empty(0, np.float32), *(part.distances for part in parts)]))
        rows = [
            np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in ("hits", "total", "open")
        ]
        dropped = max((part.dropped_bits for part in parts), default=0)
        return cls._fit(names, np.concatenate(codes), bits, rows, (unmatched, unmatched_open), dropped, max_distinct)

    @classmethod
    def _fit(
        cls,
        names: pa.Array,
        code: np.ndarray,
        bits: np.ndarray,
        rows: list[np.ndarray],
        unmatched: tuple[np.ndarray, np.ndarray],
        dropped: int,
        limit: int,
    ) -> GroupCounts:
        """From rows in any order, several of the same value and distance."""
        keys = code.astype(np.uint64) << _32 | bits
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = run_starts(keys)
        keys, rows = keys[starts], [_reduced(values[order], starts) for values in rows]
        if dropped or len(keys) > limit:
            high, low = keys >> _32, (keys & _LOW).astype(np.uint32)
            apart = np.where(high[1:] == high[:-1], bit_lengths(low), _APART)
            dropped = fewest_bits(apart, limit, dropped)
            starts = np.flatnonzero(np.concatenate([[True], apart > dropped])) if len(keys) else np.zeros(0, np.int64)
            rows = [_reduced(values, starts) for values in rows]
            keys = keys[np.append(starts[1:], len(keys)) - 1] if len(starts) else keys
        code, distances = (keys >> _32).astype(np.int64), distances_of((keys & _LOW).astype(np.uint32))
        hits, total, opened = rows
        return cls(names, code, distances, hits, total, opened, *unmatched, dropped)

    @property
    def queries(self) -> np.ndarray:
        """int64[v]: queries of each value."""
        sums = np.zeros(len(self.values), np.int64)
        starts = run_starts(self.code)
        sums[self.code[starts]] = _reduced(self.total, starts)
        return sums + self.unmatched

    @property
    def threshold_error(self) -> float:
        """See `PairCounts.threshold_error`."""
        return widest_bin(self.distances, self.dropped_bits)

    def pairs(self, at_least: int = 0) -> Iterator[tuple[str, PairCounts]]:
        """The counts of each value that has so many queries, by value."""
        edges = np.searchsorted(self.code, np.arange(len(self.values) + 1))
        for place in np.flatnonzero(self.queries >= at_least):
            rows = slice(edges[place], edges[place + 1])
            counts = (self.distances[rows], self.hits[rows], self.total[rows], self.open[rows])
            missing = int(self.unmatched[place]), int(self.unmatched_open[place])
            yield self.values[place].as_py(), PairCounts(*counts, *missing, self.dropped_bits)


def _strings(values: Any) -> pa.Array:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.large_string())
    array = array.cast(pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _coded(array: pa.Array, distinct: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Distinct values in order, and the place of each among them: int64[n]."""
    names = distinct.take(pc.sort_indices(distinct))
    return names, pc.index_in(array, value_set=names).to_numpy(zero_copy_only=False).astype(np.int64)


def _reduced(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0, np.int64)
