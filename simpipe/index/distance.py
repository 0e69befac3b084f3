"""The one distance convention: smaller is nearer, whatever the backend computes inside.

`cosine` is 1 - cos, in [0, 2]; `euclidean` is the root of the sum of squares; `inner_product` is minus the dot product.
"""

from __future__ import annotations

import numpy as np


def bad_rows(vectors: np.ndarray, distance: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that no backend may see: bool[n] not finite, bool[n] without direction under cosine."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", vectors, vectors)
    # A sum of squares may overflow to inf for finite huge values; those are refused as well: no distance exists.
    not_finite = ~np.isfinite(squares)
    zero = (squares < 1e-24) & ~not_finite if distance == "cosine" else np.zeros(len(vectors), bool)
    return not_finite, zero


def prepare(vectors: np.ndarray, distance: str) -> np.ndarray:
    """Vectors as they are indexed and asked: float32[n, dim], of unit norm under cosine."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if distance != "cosine":
        return vectors
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    # Vectors of unit norm stay as they are, bit for bit, however often they pass here.
    scale = np.where(np.abs(norms - 1.0) < 1e-6, 1.0, norms)
    return (vectors / scale[:, None]).astype(np.float32)


def between(queries: np.ndarray, items: np.ndarray, distance: str) -> np.ndarray:
    """Exact distances of aligned pairs.

    Each result depends on its own pair only, not on the block around it (unlike a matrix product), so that a
    cutpoint found in calibration compares to the bit at match time.

    Args:
      queries: float32[n, dim], prepared.
      items: float32[n, k, dim], prepared.

    Returns:
      float32[n, k].
    """
    if distance == "inner_product":
        return -np.einsum("nd,nkd->nk", queries, items)
    difference = items - queries[:, None, :]
    squares = np.einsum("nkd,nkd->nk", difference, difference)
    # For unit vectors 1 - cos is half the squared difference, without the cancellation near zero: equal vectors give 0.
    return squares * np.float32(0.5) if distance == "cosine" else np.sqrt(squares)


def cross(queries: np.ndarray, items: np.ndarray, distance: str) -> np.ndarray:
    """All distances by one matrix product: float32[nq, n]; exact up to rounding. Squared for `euclidean`."""
    dot = queries @ items.T
    if distance == "euclidean":
        squares = np.einsum("nd,nd->n", items, items) - 2.0 * dot
        return squares + np.einsum("nd,nd->n", queries, queries)[:, None]
    return -dot
