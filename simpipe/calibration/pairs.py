"""Counts of (distance, hit) pairs that merge exactly, in any order, and stay within a size.

Float32 distances are sorted as the unsigned integers that have their order. Where more than `max_distinct` of them differ, the
lowest bits of these integers are dropped, as few as make them fit: s of a union is never below s of a part, so any way of
splitting and merging the same pairs ends with the same bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from simpipe.index.merge import order_bits

MAX_DISTINCT = 1 << 22
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_LARGEST = np.uint32(0xFF7FFFFF)  # of float32 max
_SMALLEST = np.uint32(0x00800000)  # of -float32 max


@dataclass(frozen=True)
class PairCounts:
    """How many queries were derived at each distance, how many of them have the right label, and how many are open-set.

    Attributes:
      distances: float32[t], ascending and distinct; each occurred. With dropped bits the largest of its bin.
      hits, total, open: int64[t]. `open` are queries whose label no indexed item carries; they are never hits.
      unmatched, unmatched_open: queries without any neighbor, and the open-set ones among them.
      dropped_bits: lowest bits that were dropped; 0: every distinct distance is there.
    """

    distances: np.ndarray
    hits: np.ndarray
    total: np.ndarray
    open: np.ndarray
    unmatched: int = 0
    unmatched_open: int = 0
    dropped_bits: int = 0

    @classmethod
    def of(
        cls,
        distances: np.ndarray,
        hits: np.ndarray,
        *,
        open_set: np.ndarray | None = None,
        max_distinct: int = MAX_DISTINCT,
    ) -> PairCounts:
        """Counts of n queries.

        Args:
          distances: float32[n], derived; +inf (or NaN): no neighbor.
          hits: bool[n]. open_set: bool[n], None: none is; such a query is no hit, whatever `hits` says.
          max_distinct: distances that are kept apart.
        """
        distances, hits = np.asarray(distances, np.float32), np.asarray(hits, bool)
        opened = np.zeros(len(distances), bool) if open_set is None else np.asarray(open_set, bool)
        there = np.isfinite(distances)
        missing = int(len(there) - np.count_nonzero(there))
        missing_open = int(np.count_nonzero(opened & ~there)) if missing else 0
        if missing:
            distances, hits, opened = distances[there], hits[there], opened[there]
        # Everything in one number: one sort, no gather.
        keys = order_bits(distances).astype(np.uint64)
        keys <<= np.uint64(2)
        keys |= ((hits & ~opened).astype(np.uint8) << 1 | opened.view(np.uint8)).astype(np.uint64)
        keys.sort()
        marks = (keys & np.uint64(3)).astype(np.uint8)
        bits = (keys >> np.uint64(2)).astype(np.uint32)
        starts = run_starts(bits)
        total = np.diff(np.append(starts, len(bits)))
        counts = [_sums(marks >> 1, starts), total, _sums(marks & 1, starts)]
        return cls._fit(bits[starts], counts, missing, missing_open, 0, max_distinct)

    @classmethod
    def merge(cls, parts: Iterable[PairCounts], *, max_distinct: int = MAX_DISTINCT) -> PairCounts:
        """The counts of all parts together; see the module on why order doesn't matter."""
        parts = list(parts)
        unmatched, unmatched_open = sum(part.unmatched for part in parts), sum(part.unmatched_open for part in parts)
        dropped = max((part.dropped_bits for part in parts), default=0)
        filled = [part for part in parts if len(part.distances)]
        bits = order_bits(np.concatenate([np.empty(0, np.float32), *(part.distances for part in filled)]))
        counts = [
            np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in filled)])
            for name in ("hits", "total", "open")
        ]
        if len(filled) > 1:
            keys = bits.astype(np.uint64)
            keys <<= _32
            keys |= np.arange(len(keys), dtype=np.uint64)
            keys.sort(kind="stable")  # runs that are sorted already merge fast
            order = (keys & _LOW).astype(np.int64)
            bits = (keys >> _32).astype(np.uint32)
            del keys
            # Bins as wide as the widest of a part at once, so that sums are made once.
            starts = run_starts(bits >> np.uint32(dropped))
            counts = [np.add.reduceat(values[order], starts) for values in counts]
            bits = bits[np.append(starts[1:], len(bits)) - 1]
        return cls._fit(bits, counts, unmatched, unmatched_open, dropped, max_distinct)

    @classmethod
    def _fit(
        cls, bits: np.ndarray, counts: Sequence[np.ndarray], unmatched: int, unmatched_open: int, dropped: int, limit: int
    ) -> PairCounts:
        """From sorted keys, uint32[t], in different bins of `dropped` bits less: as many bits less as leave `limit` bins."""
        if len(bits) > limit:
            apart = bit_lengths(bits)
            dropped = fewest_bits(apart, limit, dropped)
            starts = np.flatnonzero(np.concatenate([[True], apart > dropped]))
            counts = [np.add.reduceat(values, starts) for values in counts]
            bits = bits[np.append(starts[1:], len(bits)) - 1]
        hits, total, opened = counts
        return cls(distances_of(bits), hits, total, opened, unmatched, unmatched_open, dropped)

    @property
    def queries(self) -> int:
        return int(self.total.sum()) + self.unmatched

    @property
    def open_set(self) -> int:
        """Queries whose label no indexed item carries."""
        return int(self.open.sum()) + self.unmatched_open

    @property
    def known(self) -> int:
        """Queries whose label is in the index."""
        return self.queries - self.open_set

    @property
    def threshold_error(self) -> float:
        """How far a distance that occurred can lie below the listed threshold that stands for it: the widest occupied bin."""
        return widest_bin(self.distances, self.dropped_bits)


def distances_of(bits: np.ndarray) -> np.ndarray:
    """The inverse of `order_bits`: float32[n]."""
    return np.where(bits >> np.uint32(31), bits & np.uint32(0x7FFFFFFF), ~bits).view(np.float32)


def run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin: int64[r]."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))


def bit_lengths(bits: np.ndarray) -> np.ndarray:
    """int32[t - 1]: neighbors of sorted keys fall into one bin once so many low bits are dropped."""
    return np.frexp((bits[1:] ^ bits[:-1]).astype(np.float64))[1]


def fewest_bits(apart: np.ndarray, limit: int, at_least: int = 0) -> int:
    """The fewest dropped bits that leave at most `limit` bins; 32 where none do.

    Args:
      apart: see `bit_lengths`; 33 where two must stay apart.
      limit: bins. at_least: bits that are dropped already.
    """
    left = 1 + len(apart) - np.cumsum(np.bincount(apart, minlength=34))  # by bits dropped
    fits = np.flatnonzero(left[at_least:33] <= limit)
    return at_least + int(fits[0]) if len(fits) else 32


def widest_bin(distances: np.ndarray, dropped: int) -> float:
    """The width of the widest bin that holds one of these distances, float32[t]."""
    if not dropped or not len(distances):
        return 0.0
    mask = np.uint32((1 << dropped) - 1)
    low = np.maximum(order_bits(distances) & ~mask, _SMALLEST)
    high = np.minimum(low | mask, _LARGEST)
    return float((distances_of(high).astype(np.float64) - distances_of(low)).max())


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, starts, dtype=np.int64) if len(starts) else np.zeros(0, np.int64)
