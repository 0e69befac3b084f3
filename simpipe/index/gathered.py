"""The rows that fit a narrow filter, gathered from all partitions: queries after the first find them side by side in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simpipe.index.exact import ExactIndex
from simpipe.index.fan_out import Answered
from simpipe.index.merge import nearest_rows
from simpipe.index.rows import Rows, place_of, same_ids
from simpipe.index.selection import Selection
from simpipe.index.stored import measure

if TYPE_CHECKING:
    from simpipe.index.base_searcher import BaseSearcher

MOST = 1 << 22  # floats of vectors that are gathered


@dataclass(frozen=True)
class Gathered:
    """Items that fit, each once, in the order of the hashes of their ids.

    Attributes:
      vectors: float32[m, dim]. place: int64[m], see `rows.place_of`. tables: that name them.
    """

    vectors: np.ndarray
    place: np.ndarray
    tables: Mapping[int, Rows]
    index: ExactIndex

    @property
    def bytes(self) -> int:
        return self.vectors.nbytes + self.place.nbytes

    @classmethod
    def of(cls, searcher: BaseSearcher, selection: Selection) -> Gathered:
        """Gathers `selection`, which is small enough (`MOST`) and not empty."""
        tables, places, ties, vectors = {}, [], [], []
        for number in np.flatnonzero(selection.counts).tolist():
            part, rows = searcher.partition(number), selection.rows(number)
            tables[number] = part.rows
            places.append(place_of(number, rows))
            ties.append(part.rows.tie[rows])
            vectors.append(part.vectors[rows])
        place, tie = np.concatenate(places), np.concatenate(ties)
        order = np.argsort(tie, kind="stable")
        place, tie = place[order], tie[order]
        again = np.flatnonzero(tie[1:] == tie[:-1]) + 1
        if len(again):  # copies of an item
            again = again[same_ids(tables, place[again], place[again - 1])]
            place, order = np.delete(place, again), np.delete(order, again)
        held = np.ascontiguousarray(np.concatenate(vectors)[order], np.float32)
        return cls(held, place, tables, ExactIndex(held, searcher.distance))

    def search(self, queries: np.ndarray, k: int, *, distance: str, threads: int = 1) -> Answered:
        """The k nearest of them, equal distances by the hash of the id."""
        found = self.index.search(queries, k, threads=threads)
        near = measure(queries, self.vectors, np.maximum(found, 0), distance)
        near, rows = nearest_rows(near, found, k)
        return Answered(near, np.where(rows < 0, -1, self.place[np.maximum(rows, 0)]), self.tables)
