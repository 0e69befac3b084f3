"""An exact scan of some rows of a partition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simpipe.index.exact import ExactIndex
from simpipe.index.merge import nearest_rows
from simpipe.index.partitions import Partition
from simpipe.index.rows import Rows
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.stored import Vectors, measure


class PickedVectors:
    """Rows of vectors that are gathered when a slice of them is read.

    Args:
      vectors: float32[n, dim], or such as decode to that. rows: int64[m], ascending.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, vectors: Vectors, rows: np.ndarray) -> None:
        self._vectors, self._rows = vectors, rows
        self.shape = (len(rows), vectors.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._vectors[self._rows[part]]


@dataclass(frozen=True)
class PickedPartition:
    """A partition of which only some rows answer, and by an exact scan: right by construction. Takes a `Partition`'s place in
    `fan_out`.

    Attributes:
      part: whose rows they are. picked: int64[m], ascending.
    """

    part: Partition
    picked: np.ndarray

    @property
    def rows(self) -> Rows:
        return self.part.rows

    @property
    def takes_several(self) -> bool:
        return True

    def candidates(
        self, queries: np.ndarray, k: int, *, exact: bool = True, setting: SearchSetting = ALL, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of the picked rows, equal distances by row; see `Partition.candidates`."""
        del exact, setting
        k = min(k, len(self.picked))
        if k < 1 or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        index = ExactIndex(PickedVectors(self.part.vectors, self.picked), self.part.distance)  # type: ignore[arg-type]  # slices
        found = index.search(queries, k, threads=threads)
        safe = self.picked[np.maximum(found, 0)]
        distances = measure(queries, self.part.vectors, safe, self.part.distance)
        return nearest_rows(distances, np.where(found < 0, -1, safe), k)
