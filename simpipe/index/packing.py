"""Packing of fine clusters into balanced partitions, so that near clusters share one.

Clusters are near where vectors lie between them: their affinity counts the sampled vectors that have one as nearest and the
other among the next seven. Capacity-bounded k-means on the centroids begins; then clusters move to the partition that they
have most affinity to, as long as it has room (label propagation under a cap).
"""

from __future__ import annotations

import numpy as np

from simpipe.index.kmeans import lloyd, nearest_of, one_thread
from simpipe.index.nearest import Nearest

_NEAR = 8
_ROUNDS = 30
_RUN = 16
_STARTS = 4  # of which the one that keeps most affinity within partitions is taken


def affinity(sample: np.ndarray, centroids: np.ndarray):
    """Affinity of fine clusters: scipy CSR float32[c, c], symmetric, without diagonal."""
    import scipy.sparse as sp

    count = len(centroids)
    near = np.empty((len(sample), min(_NEAR, count)), np.int32)
    with one_thread():
        for rows, _, found in Nearest(centroids, np.arange(count), np.zeros(count, np.float32)).blocks(sample):
            near[rows] = _smallest(found, near.shape[1])
    first = np.repeat(near[:, 0], near.shape[1] - 1)
    pairs = sp.coo_matrix((np.ones(len(first), np.float32), (first, near[:, 1:].ravel())), shape=(count, count)).tocsr()
    return (pairs + pairs.T).tocsr()


def _smallest(found: np.ndarray, m: int) -> np.ndarray:
    """Columns of the m smallest of each line, smallest first: int64[n, m].

    The m smallest lie in the m runs of 16 columns with the smallest minima: the wide lines are only reduced, not partitioned.
    """
    count = found.shape[1]
    if count >= 16 * _RUN and m <= _RUN:
        runs = np.minimum.reduceat(found, np.arange(0, count, _RUN), axis=1)
        picked = np.argpartition(runs, m - 1, axis=1)[:, :m]
        columns = (picked[:, :, None] * _RUN + np.arange(_RUN)).reshape(len(found), -1)
        values = np.take_along_axis(found, np.minimum(columns, count - 1), axis=1)
        values[columns >= count] = np.inf
    else:
        columns, values = np.broadcast_to(np.arange(count), found.shape), found
    some = np.argpartition(values, m - 1, axis=1)[:, :m]
    order = np.argsort(np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, np.take_along_axis(some, order, axis=1), axis=1)


def pack(
    centroids: np.ndarray, weights: np.ndarray, near, partitions: int, *, cap: float, floor: float = 0.0, seed: int
) -> np.ndarray:
    """The partition of each fine cluster: int64[c].

    Args:
      centroids: float32[c, dim]. weights: float64[c], items of each; near: their affinity.
      cap, floor: items that a partition may and should hold; kept where single clusters are small enough.
    """
    if partitions == 1:
        return np.zeros(len(centroids), np.int64)
    best, kept = -np.inf, np.zeros(len(centroids), np.int64)
    pairs = near.tocoo()
    for start in range(_STARTS):
        centres = lloyd(centroids, partitions, seed=seed + start, rounds=30, careful=True, weights=np.maximum(weights, 1e-3))
        far = np.full((len(centroids), partitions), 1e30)
        far[:, : len(centres)] = _squared(centroids, centres)
        part, load = _seeded(far, weights, cap=cap)
        _fill(part, load, far, weights, floor=floor)
        _propagate(part, load, weights, near, cap=cap, floor=floor)
        # Starts above the cap come after all others.
        within = pairs.data[part[pairs.row] == part[pairs.col]].sum(dtype=np.float64) - 1e12 * max(0.0, load.max() - cap)
        if within > best:
            best, kept = within, part
    return kept


def _squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances less a constant a row: float64[n, m]."""
    middle = left.mean(axis=0, dtype=np.float64)
    shifted = right - middle
    return np.einsum("pd,pd->p", shifted, shifted) - 2.0 * ((left - middle) @ shifted.T)


def _seeded(far: np.ndarray, weights: np.ndarray, *, cap: float) -> tuple[np.ndarray, np.ndarray]:
    """Each cluster into the nearest partition with room; first those that lose most elsewhere. `far`: float64[c, partitions]."""
    choice = np.argsort(far, axis=1, kind="stable")
    two = np.take_along_axis(far, choice[:, :2], axis=1)
    part, load = np.zeros(len(far), np.int64), np.zeros(far.shape[1])
    for cluster in np.argsort(two[:, 0] - two[:, 1], kind="stable"):
        room = load[choice[cluster]] + weights[cluster] <= cap
        target = choice[cluster, room.argmax()] if room.any() else load.argmin()
        part[cluster] = target
        load[target] += weights[cluster]
    return part, load


def _fill(part: np.ndarray, load: np.ndarray, far: np.ndarray, weights: np.ndarray, *, floor: float) -> None:
    """Moves clusters into partitions below the floor, those that lose least, out of such as stay above it. In place."""
    line = np.arange(len(part))
    for number in np.flatnonzero(load < floor):
        for cluster in np.argsort(far[:, number] - far[line, part], kind="stable"):
            if load[number] >= floor:
                break
            if part[cluster] != number and load[part[cluster]] - weights[cluster] >= floor:
                _move(part, load, weights, cluster, int(number))


def _propagate(part: np.ndarray, load: np.ndarray, weights: np.ndarray, near, *, cap: float, floor: float) -> None:
    """Moves clusters to where they have most affinity, while caps and floors allow. In place."""
    import scipy.sparse as sp

    line = np.arange(len(part))
    for _ in range(_ROUNDS):
        member = sp.csr_matrix((np.ones(len(part), np.float32), (line, part)), shape=(len(part), len(load)))
        ties = (near @ member).toarray()
        best = ties.argmax(axis=1)
        gain = ties[line, best] - ties[line, part]
        moved = 0
        for cluster in np.argsort(-gain, kind="stable")[: np.count_nonzero(gain > 0)]:
            if load[best[cluster]] + weights[cluster] <= cap and load[part[cluster]] - weights[cluster] >= floor:
                _move(part, load, weights, cluster, int(best[cluster]))
                moved += 1
        if moved <= len(part) // 1000:
            break


def _move(part: np.ndarray, load: np.ndarray, weights: np.ndarray, cluster: int, target: int) -> None:
    load[part[cluster]] -= weights[cluster]
    load[target] += weights[cluster]
    part[cluster] = target


def weights_of(centroids: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Sampled vectors nearest to each centroid: float64[c]."""
    return np.bincount(nearest_of(centroids, sample), minlength=len(centroids)).astype(np.float64)
