"""The rows that fit a filter, from all partitions, as one exact index. Of a narrow filter their vectors are gathered in memory,
for the queries that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simpipe.index.exact import ExactIndex
from simpipe.index.fan_out import Answered
from simpipe.index.merge import nearest_rows
from simpipe.index.rows import ROW_MASK, Rows, place_of, same_ids
from simpipe.index.selection import Selection
from simpipe.index.stored import Vectors, measure

if TYPE_CHECKING:
    from simpipe.index.base_searcher import BaseSearcher

MOST = 1 << 22  # floats of vectors that are gathered in memory


class PlacedVectors:
    """Vectors at places of several partitions, gathered when they are read.

    Args:
      vectors: float32[n, dim] of each partition, or such as decode to that. place: int64[m], see `rows.place_of`.
      dim: of the vectors.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, vectors: Mapping[int, Vectors], place: np.ndarray, dim: int) -> None:
        self._vectors, self._place = vectors, place
        self.shape = (len(place), dim)

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, key: Any) -> np.ndarray:
        place = self._place[key]
        flat = place.ravel()
        out = np.empty((len(flat), self.shape[1]), np.float32)
        numbers = flat >> 32
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            out[mine] = self._vectors[number][flat[mine] & ROW_MASK]
        return out.reshape(*place.shape, -1)


@dataclass(frozen=True)
class Gathered:
    """Items that fit, each once, partition by partition.

    Attributes:
      vectors: float32[m, dim], or such as decode to that. place: int64[m], see `rows.place_of`. tables: that name them.
      rank, at_rank: int64[m], where each stands in the order of the hashes of the ids, and which stands there.
    """

    vectors: Any
    place: np.ndarray
    tables: Mapping[int, Rows]
    rank: np.ndarray
    at_rank: np.ndarray
    index: ExactIndex

    @property
    def bytes(self) -> int:
        held = self.vectors.nbytes if isinstance(self.vectors, np.ndarray) else 0
        return held + self.place.nbytes + self.rank.nbytes + self.at_rank.nbytes

    @classmethod
    def of(cls, searcher: BaseSearcher, selection: Selection) -> Gathered:
        """Gathers a selection, which is not empty."""
        tables: dict[int, Rows] = {}
        vectors: dict[int, Vectors] = {}
        places, ties = [], []
        for number in np.flatnonzero(selection.counts).tolist():
            tables[number], vectors[number] = searcher.rows_and_vectors(number)
            rows = selection.rows(number)
            places.append(place_of(number, rows))
            ties.append(tables[number].tie[rows])
        place, tie = np.concatenate(places), np.concatenate(ties)
        order = np.argsort(tie, kind="stable")
        if selection.items < len(place):  # copies: of equal ids the first stays
            again = np.flatnonzero(tie[order[1:]] == tie[order[:-1]]) + 1
            again = order[again[same_ids(tables, place[order[again]], place[order[again - 1]])]]
            place, tie = np.delete(place, again), np.delete(tie, again)
            order = np.argsort(tie, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        held: Any = PlacedVectors(vectors, place, searcher.dim)
        if len(place) * searcher.dim <= MOST:
            held = held[:]
        return cls(held, place, tables, rank, order, ExactIndex(held, searcher.distance))

    def search(self, queries: np.ndarray, k: int, *, distance: str, threads: int = 1) -> Answered:
        """The k nearest of them, equal distances by the hash of the id."""
        found = self.index.search(queries, k, threads=threads)
        safe = np.maximum(found, 0)
        near, ranks = nearest_rows(measure(queries, self.vectors, safe, distance), np.where(found < 0, -1, self.rank[safe]), k)
        rows = self.at_rank[np.maximum(ranks, 0)]
        return Answered(near, np.where(ranks < 0, -1, self.place[rows]), self.tables)
