"""Merging of partial results: the k nearest of several blocks of candidates, without loops over queries.

A candidate is a distance, a hash of its id and a place; ids and labels are taken at the end, for those that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simpipe.types import Neighbors, keep_where

Same = Callable[[np.ndarray, np.ndarray], np.ndarray]
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@dataclass(frozen=True)
class TopK:
    """Candidates of a block of queries, nearest first.

    Attributes:
      distances: float32[n, k]; +inf where there is none.
      tie: uint64[n, k], hash of the id: decides between equal distances, whatever the partition.
      place: int64[n, k], see `rows.place_of`; -1 where there is none.
    """

    distances: np.ndarray
    tie: np.ndarray
    place: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int) -> TopK:
        return cls(np.full((n, k), np.inf, np.float32), np.zeros((n, k), np.uint64), np.full((n, k), -1, np.int64))


def order_bits(distances: np.ndarray) -> np.ndarray:
    """uint32 whose order is that of float32, without NaN; -0.0 counts as 0.0."""
    bits = (distances + np.float32(0)).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000))


def nearest_rows(distances: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each line, equal distances by row.

    Args:
      distances: float32[n, w]. rows: int64[n, w], below 2^32; -1 where there is none.

    Returns:
      float32[n, k'] and int64[n, k'] with k' = min(k, w); +inf and -1 where there is none.
    """
    # Distance and row in one number: sorting these is several times cheaper than sorting places of them.
    keys = (order_bits(distances).astype(np.uint64) << _32) | rows.astype(np.uint64)
    missing = (rows < 0) | ~np.isfinite(distances)
    if missing.any():
        keys[missing] = _NONE
    keys.sort(axis=1)
    keys = keys[:, :k]
    bits, rows = (keys >> _32).astype(np.uint32), (keys & _LOW).astype(np.int64)
    bits = np.where(bits >> np.uint32(31), bits & np.uint32(0x7FFFFFFF), ~bits)
    distances = bits.view(np.float32)
    if missing.any():
        none = keys == _NONE
        distances, rows = np.where(none, np.float32(np.inf), distances), np.where(none, -1, rows)
    return distances, rows


def merge_topk(parts: Sequence[TopK], k: int, *, same: Same | None = None) -> TopK:
    """The k nearest over all parts, by (distance, hash of the id); an item that comes several times is kept once.

    Args:
      parts: blocks over the same n queries; at least one.
      k: how many to keep; the result has min(k, sum of widths) columns.
      same: whether places int64[m] and int64[m] hold the same id (their hashes are equal); None: they do.
    """
    distances = np.concatenate([part.distances for part in parts], axis=1)
    tie, place = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("tie", "place"))
    return TopK(*_nearest(distances, tie, place, k, same=same))


def merge_lines(
    queries: np.ndarray,
    distances: np.ndarray,
    place: np.ndarray,
    n: int,
    k: int,
    *,
    tie: Callable[[np.ndarray], np.ndarray],
    same: Same | None = None,
    copies: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each of n queries over the partitions that they asked; see `merge_topk`.

    Args:
      queries: int64[m], the query of each line; a line is what one partition found.
      distances: float32[m, w], nearest first, +inf where there is none. place: int64[m, w], -1 there.
      tie: hashes uint64[r, w] of lines int64[r]; only those of queries with several lines are asked for.
      copies: an item may come several times; False spares the search for such.

    Returns:
      distances float32[n, k] and places int64[n, k].
    """
    width = min(k, distances.shape[1])
    if len(queries) == n and width == k and (queries[1:] > queries[:-1]).all():
        return distances[:, :k], place[:, :k]
    out = np.full((n, k), np.inf, np.float32), np.full((n, k), -1, np.int64)
    times = np.bincount(queries, minlength=n)
    several = times[queries] > 1
    alone = np.flatnonzero(~several)
    out[0][queries[alone], :width], out[1][queries[alone], :width] = distances[alone, :width], place[alone, :width]
    if len(alone) == len(queries):
        return out
    lines = np.flatnonzero(several)
    hashes = tie(lines)
    # Lines of a query side by side; then queries with about as many lines at once.
    order = np.argsort(queries[lines], kind="stable")
    asked = np.flatnonzero(times > 1)
    count = times[asked]
    start = np.cumsum(count) - count
    size = 1
    while size < count.max():
        size *= 2
        members = np.flatnonzero((count > size // 2) & (count <= size))
        if not len(members):
            continue
        there = np.arange(size) < count[members, None]
        chosen = order[np.where(there, start[members, None] + np.arange(size), 0)]
        found = distances[lines[chosen]], hashes[chosen], place[lines[chosen]]
        found[0][~there], found[2][~there] = np.inf, -1
        flat = [values.reshape(len(members), -1) for values in found]
        near, _, where = _nearest(flat[0], flat[1], flat[2], k, same=same, copies=copies)
        out[0][asked[members], : near.shape[1]], out[1][asked[members], : near.shape[1]] = near, where
    return out


def stack_lines(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Lines of several blocks [m, w] below each other, padded to the widest with +inf or -1."""
    width = max((part.shape[1] for part in parts), default=0)
    if all(part.shape[1] == width for part in parts):
        return np.concatenate(parts)
    out = np.full((sum(map(len, parts)), width), np.inf if parts[0].dtype.kind == "f" else -1, parts[0].dtype)
    first = 0
    for part in parts:
        out[first : first + len(part), : part.shape[1]] = part
        first += len(part)
    return out


def _nearest(
    distances: np.ndarray, tie: np.ndarray, place: np.ndarray, k: int, *, same: Same | None, copies: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = _order(distances, tie)
    distances, tie, place = (np.take_along_axis(values, order, axis=1) for values in (distances, tie, place))
    twice = _twice(tie, place, same) if copies else None
    if twice is not None:
        again = np.argsort(twice, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(np.where(twice, np.float32(np.inf), distances), again, axis=1)
        place = np.take_along_axis(np.where(twice, -1, place), again, axis=1)
        tie = np.take_along_axis(tie, again, axis=1)
    return distances[:, :k], tie[:, :k], place[:, :k]


def _order(distances: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """The order of each line by (distance, tie)."""
    keys = (order_bits(distances).astype(np.uint64) << _32) | (tie >> _32)
    order = np.argsort(keys, axis=1, kind="stable")
    keys, tie = np.take_along_axis(keys, order, axis=1), np.take_along_axis(tie, order, axis=1)
    # Half of the hash decides; where it does not, the other half.
    undecided = ((keys[:, 1:] == keys[:, :-1]) & (tie[:, 1:] < tie[:, :-1])).any(axis=1)
    if undecided.any():
        lines = np.flatnonzero(undecided)
        at = order[lines]
        again = np.lexsort((tie[lines], np.take_along_axis(distances[lines], at, axis=1)), axis=1)
        order[lines] = np.take_along_axis(at, again, axis=1)
    return order


def _twice(tie: np.ndarray, place: np.ndarray, same: Same | None) -> np.ndarray | None:
    """bool[n, w]: an item that stands further ahead in its line already; None where none does."""
    order = np.argsort(tie, axis=1, kind="stable")
    sorted_tie, sorted_place = np.take_along_axis(tie, order, axis=1), np.take_along_axis(place, order, axis=1)
    equal = (sorted_tie[:, 1:] == sorted_tie[:, :-1]) & (sorted_place[:, 1:] >= 0) & (sorted_place[:, :-1] >= 0)
    if not equal.any():
        return None
    if same is not None:
        line, column = np.nonzero(equal)
        equal[line, column] = same(sorted_place[line, column + 1], sorted_place[line, column])
    twice = np.zeros(tie.shape, bool)
    np.put_along_axis(twice, order[:, 1:], equal, axis=1)
    return twice


def without_self(neighbors: Neighbors, query_ids: np.ndarray, k: int) -> Neighbors:
    """Drops each query's own item, by id and not by position; keeps k columns.

    Args:
      neighbors: at least k + 1 columns where that many items exist.
      query_ids: object[n].
    """
    own = neighbors.ids == query_ids[:, None]
    if own.any():
        order = np.argsort(own, axis=1, kind="stable")
        distances = np.take_along_axis(np.where(own, np.float32(np.inf), neighbors.distances), order, axis=1)
        ids = np.take_along_axis(keep_where(neighbors.ids, ~own), order, axis=1)
        labels = np.take_along_axis(keep_where(neighbors.labels, ~own), order, axis=1)
        neighbors = Neighbors(ids, labels, distances)
    return Neighbors(neighbors.ids[:, :k], neighbors.labels[:, :k], neighbors.distances[:, :k])
