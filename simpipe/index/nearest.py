"""Nearest centroids in blocks: what routing costs, so the one place where it is made fast.

A table of centroids sorted by owner, with -2c in its rows and |c|^2 + offset in one more, so that a single matrix product of
(x, 1) gives |x - c|^2 + offset - |x|^2 without temporaries; `minimum.reduceat` over it gives each owner's nearest. Blocks are
small enough that products are still in the cache when they are reduced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from simpipe.index.blas import blas_threads

_BLOCK = 512
_SCRATCH = threading.local()


def _scratch(name: str, shape: tuple[int, int]) -> np.ndarray:
    """float32 of a shape, over memory that this thread keeps: fresh pages for each block cost as much as reducing it."""
    size = shape[0] * shape[1]
    kept = getattr(_SCRATCH, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, np.float32)
        setattr(_SCRATCH, name, kept)
    return kept[:size].reshape(shape)


class Nearest:
    """Distances of vectors to centroids that have owners.

    Attributes:
      owner: int64[c], ascending. owners: how many; each has a centroid at least.
    """

    def __init__(self, centroids: np.ndarray, owner: np.ndarray, offsets: np.ndarray) -> None:
        """Args: centroids: float32[c, dim]. owner: int[c], ascending from 0 without gaps. offsets: float32[c]."""
        # Far from the origin float32 would lose the differences of distances.
        exact = centroids.astype(np.float64)
        self.center = exact.mean(axis=0).astype(np.float32)
        shifted = exact - self.center
        squares = np.einsum("cd,cd->c", shifted, shifted) + offsets
        self.table = np.ascontiguousarray(np.concatenate([-2.0 * shifted.T, squares[None]]), np.float32)
        self.owner = owner.astype(np.int64)
        self.owners = int(self.owner[-1]) + 1
        self._first = np.searchsorted(self.owner, np.arange(self.owners))
        self._single = self.owners == len(owner)

    def blocks(self, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Blocks of rows: which, shifted vectors float32[m, dim], and |x - c|^2 + offset - |x|^2 float32[m, c].

        The arrays are overwritten by the next block.
        """
        rows = min(_BLOCK, len(vectors))
        for first in range(0, len(vectors), _BLOCK):
            block = vectors[first : first + rows]
            given = _scratch("given", (len(block), len(self.table)))
            np.subtract(block, self.center, out=given[:, :-1])
            given[:, -1] = 1.0
            found = np.matmul(given, self.table, out=_scratch("found", (len(block), self.table.shape[1])))
            yield slice(first, first + len(block)), given[:, :-1], found

    def of_owners(self, found: np.ndarray) -> np.ndarray:
        """The least of each owner's centroids: float32[m, owners], of a block's [m, c]."""
        return found.copy() if self._single else np.minimum.reduceat(found, self._first, axis=1)

    def owner_of(self, vectors: np.ndarray) -> np.ndarray:
        """The owner of each vector's nearest centroid: int64[n]."""
        out = np.empty(len(vectors), np.int64)
        for rows, _, found in self.blocks(vectors):
            out[rows] = self.owner[found.argmin(axis=1)]
        return out

    def nearness(self, vectors: np.ndarray) -> np.ndarray:
        """Each owner's least squared distance (with offsets) minus that of the nearest of all: float32[n, owners]."""
        out = np.empty((len(vectors), self.owners), np.float32)
        with blas_threads(1):  # threads that wait for the next product of a block spin, and cost more than they bring
            for rows, _, found in self.blocks(vectors):
                least = out[rows]
                least[:] = found if self._single else np.minimum.reduceat(found, self._first, axis=1)
                least -= least.min(axis=1, keepdims=True)
        return out

    def spilled(
        self, vectors: np.ndarray, own: np.ndarray | None, *, soar: bool, reach: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The second owner of vectors whose nearest other owner is within `reach` of their own.

        Args:
          vectors: float32[n, dim]. own: int64[n], the owner of each; None: that of the nearest centroid.
          soar: the second one minimises |r'|^2 + (r.r' / |r|)^2, r and r' the residuals to the own nearest and to another
            owner's centroid (Sun et al. 2023, SOAR, with lambda 1); else it is the nearest.
          reach: squared distance; inf: all vectors.

        Returns:
          own int64[n]; rows int64[m]; the second owner of each int64[m]; and of all how much farther the nearest other is,
          float32[n].
        """
        own = np.full(len(vectors), -1, np.int64) if own is None else own.copy()
        gap = np.full(len(vectors), np.inf, np.float32)
        rows_out, second_out = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for rows, shifted, found in self.blocks(vectors):
            near = found.argmin(axis=1)
            mine = own[rows]
            np.copyto(mine, self.owner[near], where=mine < 0)
            least, line = self.of_owners(found), np.arange(len(found))
            at_home = least[line, mine].copy()
            least[line, mine] = np.inf
            second = least.argmin(axis=1)
            gap[rows] = least[line, second] - at_home
            picked = np.flatnonzero(gap[rows] <= reach)
            if soar and len(picked):
                second[picked] = self._soar(shifted[picked], found[picked], near[picked], mine[picked])
            rows_out.append(rows.start + picked)
            second_out.append(second[picked])
        return own, np.concatenate(rows_out), np.concatenate(second_out), gap

    def _soar(self, shifted: np.ndarray, found: np.ndarray, near: np.ndarray, own: np.ndarray) -> np.ndarray:
        residual = shifted + 0.5 * self.table[:-1, near].T
        squares = np.einsum("md,md->m", residual, residual)
        along = 0.5 * (residual @ self.table[:-1]) + np.einsum("md,md->m", residual, shifted)[:, None]
        along *= along
        along /= np.maximum(squares, np.float32(1e-30))[:, None]
        along += found
        cost = self.of_owners(along)
        cost[np.arange(len(cost)), own] = np.inf
        return cost.argmin(axis=1)
