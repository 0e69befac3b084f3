"""Exact search by matrix products, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from simpipe.index.distance import cross

_BLOCK_FLOATS = 16 << 20


class ExactIndex:
    """Scans every row. Needs no files of its own: the partition's vectors are the index."""

    kind: ClassVar[str] = "exact"
    is_exact: ClassVar[bool] = True

    def __init__(self, vectors: np.ndarray, distance: str) -> None:
        self._vectors = vectors
        self._distance = distance

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        n = len(self._vectors)
        k = min(k, n)
        found = np.empty((len(queries), k), np.int64)
        step = max(1, _BLOCK_FLOATS // max(n, 1))
        for start in range(0, len(queries), step):
            distances = cross(queries[start : start + step], self._vectors, self._distance)
            if k < n:
                rows = np.argpartition(distances, k - 1, axis=1)[:, :k]
                order = np.argsort(np.take_along_axis(distances, rows, axis=1), axis=1, kind="stable")
                found[start : start + step] = np.take_along_axis(rows, order, axis=1)
            else:
                found[start : start + step] = np.argsort(distances, axis=1, kind="stable")
        return found

    def save(self, folder: Path) -> None:
        """Nothing to write."""
