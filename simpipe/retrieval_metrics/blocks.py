"""Retrieval metrics of a block of queries, one value a query.

`relevant` is bool[n, k]: does the neighbor carry the query's label. Own items of the queries are left out before, by id.
A value depends on its own row only, to the bit: sums over ranks go from the first to the last, whatever the block.
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
    return _total(_precisions(relevant[:, :k])) / np.maximum(np.minimum(items_of_label, k), 1)


def average_precision_at_r(relevant: np.ndarray, items_of_label: np.ndarray) -> np.ndarray:
    """Average precision over the first R neighbors: float64[n]; its mean is MAP@R (Musgrave et al. 2020).

    Args:
      relevant: bool[n, >= the largest R].
      items_of_label: int64[n], R of each query; 0 gives 0.
    """
    size = items_of_label[:, None]
    inside = np.where(np.arange(relevant.shape[1]) < size, _precisions(relevant), 0.0)
    return _total(inside) / np.maximum(items_of_label, 1)


def ndcg_at_k(relevant: np.ndarray, k: int, items_of_label: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain of the k nearest: float64[n] (Järvelin and Kekäläinen 2002; gains 0 and 1).

    Rank j counts 1 / log2(j + 1); divided by what min(k, R) relevant neighbors in front would reach.

    Args:
      relevant: bool[n, >= k].
      k: how deep.
      items_of_label: int64[n], R: indexed items that carry the query's label; 0 gives 0.
    """
    top = relevant[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(items_of_label, k)]
    gained = _total(top * discounts[: top.shape[1]])
    return np.divide(gained, best, out=np.zeros(len(top)), where=best > 0)


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


def _precisions(relevant: np.ndarray) -> np.ndarray:
    """float64[n, k]: precision@j at relevant ranks j, else 0."""
    return relevant * np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)


def _total(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values, axis=1)[:, -1] if values.shape[1] else np.zeros(len(values))
