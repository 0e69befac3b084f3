"""Exact search by matrix products, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from simpipe.index.distance import cross

_BLOCK_FLOATS = 16 << 20
# Rounding of a matrix product, relative to the largest squares in it: rows this near to the k-th are kept as well, and the
# exact distances computed afterwards decide.
_ROUNDING = 4e-6


class ExactIndex:
    """Scans every row. Needs no files of its own: the partition's vectors are the index.

    Returns all rows that may belong to the k nearest, ties included, so that the caller's rule decides between them.
    """

    kind: ClassVar[str] = "exact"
    is_exact: ClassVar[bool] = True

    def __init__(self, vectors: np.ndarray, distance: str) -> None:
        self._distance = distance
        # Differences don't change when both sides are shifted; far from zero their squares would cancel.
        shifted = distance in ("euclidean", "squared_euclidean") and len(vectors) > 0
        self._centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if shifted else None
        self._vectors = vectors if self._centre is None else vectors - self._centre
        self._largest = float(np.einsum("nd,nd->n", self._vectors, self._vectors).max(initial=0.0))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        if self._centre is not None:
            queries = queries - self._centre
        k = min(k, len(self._vectors))
        step = max(1, _BLOCK_FLOATS // max(len(self._vectors), 1))
        found = [self._block(queries[start : start + step], k) for start in range(0, len(queries), step)]
        width = max((part.shape[1] for part in found), default=0)
        padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in found]
        return np.concatenate(padded) if padded else np.empty((0, 0), np.int64)

    def _block(self, queries: np.ndarray, k: int) -> np.ndarray:
        distances = cross(queries, self._vectors, self._distance)
        if k == len(self._vectors):
            return np.argsort(distances, axis=1, kind="stable")
        kth = np.partition(distances, k - 1, axis=1)[:, k - 1]
        # A sum of absolute values does not cancel: it is as exact as its size.
        size = kth if self._distance == "manhattan" else np.einsum("nd,nd->n", queries, queries) + self._largest
        limit = kth + _ROUNDING * size
        near = distances <= limit[:, None]
        width = int(near.sum(axis=1).max(initial=k))
        rows = np.argpartition(distances, width - 1, axis=1)[:, :width]
        return np.where(np.take_along_axis(near, rows, axis=1), rows, -1)

    def save(self, folder: Path) -> None:
        """Nothing to write."""
