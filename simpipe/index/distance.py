"""The one distance convention: smaller is nearer, whatever the backend computes inside.

`cosine` is 1 - cos, in [0, 2]; `euclidean` is the root of the sum of squares, `squared_euclidean` that sum, `manhattan` the
sum of absolute differences; `inner_product` is minus the dot product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simpipe.errors import ConfigError

DISTANCES = ("cosine", "euclidean", "squared_euclidean", "manhattan", "inner_product")
_ALIASES = {
    "ip": "inner_product",
    "l1": "manhattan",
    "taxicab": "manhattan",
    "l2": "euclidean",
    "pythagorean": "euclidean",
    "sql2": "squared_euclidean",
    "sqeuclidean": "squared_euclidean",
}


def canonical_name(distance: Any) -> str:
    """The name of an index's distance, from a name, an alias, or an object that has one (`simpipe.distances`).

    Raises:
      ConfigError: no index knows it.
    """
    name = str(getattr(distance, "name", distance))
    name = _ALIASES.get(name, name)
    if name not in DISTANCES:
        raise ConfigError(f"no index knows the distance {name!r}", f"use one of {', '.join(DISTANCES)}")
    return name


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
    unit = np.abs(norms - 1.0) < 1e-6
    if unit.all():
        return vectors
    scale = np.where(unit, 1.0, norms)
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
    if distance == "manhattan":
        return np.abs(difference).sum(axis=-1)
    squares = np.einsum("nkd,nkd->nk", difference, difference)
    # For unit vectors 1 - cos is half the squared difference, without the cancellation near zero: equal vectors give 0.
    if distance == "cosine":
        return squares * np.float32(0.5)
    return squares if distance == "squared_euclidean" else np.sqrt(squares)


def cross(queries: np.ndarray, items: np.ndarray, distance: str) -> np.ndarray:
    """All distances: float32[nq, n]; by one matrix product but for `manhattan`, exact up to rounding; Euclidean ones squared."""
    if distance == "manhattan":
        from scipy.spatial.distance import cdist

        return cdist(queries, items, "cityblock").astype(np.float32)
    dot = queries @ items.T
    if distance in ("euclidean", "squared_euclidean"):
        squares = np.einsum("nd,nd->n", items, items) - 2.0 * dot
        return squares + np.einsum("nd,nd->n", queries, queries)[:, None]
    return -dot
