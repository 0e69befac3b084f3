"""The nearest of concatenated candidates, each item once."""

from __future__ import annotations

import numpy as np


def first_distinct(distances: np.ndarray, tie: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest distinct items of each row.

    Args:
      distances: float32[n, m], +inf where there is none. tie: uint64[n, m], hashes of the items' ids.
      k: how many.

    Returns:
      float32[n, k] and uint64[n, k], nearest first, equal distances by hash; padded with +inf and 0.
    """
    order = np.lexsort((tie, distances), axis=1)
    distances, tie = np.take_along_axis(distances, order, axis=1), np.take_along_axis(tie, order, axis=1)
    # Copies of an item have one distance but for rounding in its storage; within the nearest few all earlier ones are compared.
    width = min(distances.shape[1], 4 * k)
    distances, tie = distances[:, :width].copy(), tie[:, :width]
    again = np.tril(tie[:, :, None] == tie[:, None, :], k=-1).any(axis=2)
    distances[again] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    out, out_tie = np.full((len(distances), k), np.inf, np.float32), np.zeros((len(distances), k), np.uint64)
    out[:, : order.shape[1]] = np.take_along_axis(distances, order, axis=1)
    out_tie[:, : order.shape[1]] = np.take_along_axis(tie, order, axis=1)
    return out, np.where(np.isfinite(out), out_tie, np.uint64(0))
