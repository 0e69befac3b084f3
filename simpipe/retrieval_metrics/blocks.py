"""Retrieval metrics of a block of queries, one value a query.

`relevant` is bool[n, k]: does the neighbor carry the query's label. Own items of the queries are left out before, by id.
"""

from __future__ import annotations

import numpy as np


def recall_at_k(relevant: np.ndarray, k: int) -> np.ndarray:
    """Is any of the k nearest relevant: float64[n]."""
    return np.asarray(relevant[:, :k].any(axis=1), np.float64)


def precision_at_k(relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the k nearest that are relevant: float64[n]; neighbors that do not exist count as not relevant."""
    return relevant[:, :k].sum(axis=1) / k


def average_precision_at_k(relevant: np.ndarray, k: int, items_of_label: np.ndarray) -> np.ndarray:
    """Average precision over the k nearest: float64[n]; its mean is MAP@k.

    Sum over relevant ranks j <= k of precision@j, divided by min(k, R).

    Args:
      relevant: bool[n, >= k].
      k: how deep.
      items_of_label: int64[n], R: indexed items that carry the query's label; 0 gives 0.
    """
    top = relevant[:, :k].astype(np.float64)
    ranks = np.arange(1, top.shape[1] + 1)
    summed = (top * np.cumsum(top, axis=1) / ranks).sum(axis=1)
    return summed / np.maximum(np.minimum(items_of_label, k), 1)


def ann_recall_at_k(found: np.ndarray, exact: np.ndarray, k: int) -> np.ndarray:
    """Share of the true k nearest that the ANN search found, ties counted: float64[n].

    Args:
      found: float32[n, >= k] distances of the neighbors found, ascending, +inf where there is none.
      exact: float32[n, >= k] distances of the true nearest. A found neighbor no farther than the k-th true one counts.
      k: how many; fewer items than k shorten it.
    """
    exists = np.isfinite(exact[:, :k]).sum(axis=1)
    last = np.where(exists > 0, exact[np.arange(len(exact)), np.maximum(exists - 1, 0)], -np.inf) if exact.shape[1] else exists
    hits = (found[:, :k] <= np.asarray(last)[:, None]).sum(axis=1) if exact.shape[1] else exists
    return np.where(exists > 0, np.minimum(hits, exists) / np.maximum(exists, 1), 1.0)
