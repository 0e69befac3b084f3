"""Nearest vectors among a set that fits in memory, the matrix of similarities a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_VALUES = 1 << 24  # similarities in memory at a time


def row_blocks(rows: np.ndarray, among: int) -> Iterator[np.ndarray]:
    """`rows` in parts that can be compared with `among` vectors at a time."""
    block = max(1, _VALUES // max(among, 1))
    for begin in range(0, len(rows), block):
        yield rows[begin : begin + block]


def nearest_others(vectors: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k vectors of largest dot product with some rows, themselves left out; among equals the first.

    Args:
      vectors: float32[n, dim].
      rows: int64[b].
      k: at most n - 1, so that there are as many others.

    Returns:
      int64[b, k], nearest first.
    """
    similar = vectors[rows] @ vectors.T
    similar[np.arange(len(rows)), rows] = -np.inf
    if k < similar.shape[1] - 1:
        some = np.sort(np.argpartition(-similar, k - 1, axis=1)[:, :k], axis=1)
    else:
        some = np.broadcast_to(np.arange(similar.shape[1]), similar.shape)
    order = np.argsort(-np.take_along_axis(similar, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)[:, :k]
