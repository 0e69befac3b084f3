"""K-means for routing: many fine clusters in two steps, and few balanced ones by offsets (a power diagram)."""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np

from simpipe.index.nearest import Nearest

_ROUNDS = 6  # of balancing and moving centroids
_STEPS = 40  # of offsets a round
_INNER = 16  # centroids of a cluster at most
_FEWEST = 30  # sampled vectors of each
_CELLS = 1 << 25  # vectors x centroids that balancing holds in memory; of a larger sample it takes a part


@functools.cache
def _controller():
    import sklearn.cluster  # noqa: F401  loads the libraries whose threads are controlled
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread():
    """A context in which matrix products take one thread: sums in several differ in the last bit from run to run."""
    return _controller().limit(limits=1)


def lloyd(
    vectors: np.ndarray,
    clusters: int,
    *,
    seed: int,
    rounds: int,
    careful: bool = False,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Plain k-means: float32[<= clusters, dim], without equal centroids.

    Args:
      vectors: float32[n, dim]. clusters: at most as many as there are distinct vectors come out.
      rounds: at most. careful: k-means++ begins it, else random vectors, which lie where the items are dense.
      weights: float64[n] of the vectors.
    """
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(vectors))
    if clusters <= 1:
        return vectors.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct vectors than clusters
        model = KMeans(
            clusters,
            n_init=1,  # pyright: ignore[reportArgumentType]  its stub knows only "auto"
            init="k-means++" if careful else "random",
            max_iter=rounds,
            random_state=seed,
        ).fit(vectors, sample_weight=weights)
    found, place = np.unique(model.cluster_centers_.astype(np.float32), axis=0, return_inverse=True)
    used = np.zeros(len(found), bool)
    used[place[model.labels_]] = True
    return found[used]


def fine_clusters(sample: np.ndarray, clusters: int, *, seed: int) -> np.ndarray:
    """About `clusters` centroids, float32[c, dim]: k-means into their square root, then each of those for itself.

    Costs n x sqrt(clusters) instead of n x clusters distances a round, and gives dense regions their share of centroids.
    """
    coarse = lloyd(sample, max(1, math.isqrt(clusters)), seed=seed, rounds=15)
    group = nearest_of(coarse, sample)
    sizes = np.bincount(group, minlength=len(coarse))
    order, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    parts = []
    for number in np.flatnonzero(sizes):
        members = sample[order[ends[number] - sizes[number] : ends[number]]]
        share = max(1, round(sizes[number] / len(sample) * clusters))
        parts.append(lloyd(members, share, seed=seed + 1, rounds=10))
    return np.unique(np.concatenate(parts), axis=0)


def nearest_of(centroids: np.ndarray, vectors: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """The nearest centroid of each vector: int64[n]. `offsets` float32[c] are added to squared distances."""
    offsets = np.zeros(len(centroids), np.float32) if offsets is None else offsets
    with one_thread():
        return Nearest(centroids, np.arange(len(centroids)), offsets).owner_of(vectors)


def balanced_kmeans(
    sample: np.ndarray, clusters: int, *, most: float, least: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K-means whose clusters keep a size cap and, where the data allow, a floor.

    Centroids of too small clusters move into too large ones; what is left is balanced by an offset added to each cluster's
    squared distances, so that an item still goes to the least of them, whatever the other items are. At last each
    cluster gets up to 16 centroids of its own: its border follows the data, and queries are told more about what it holds.

    Args:
      sample: float32[n, dim], of which no vector occurs in more than `most` of the items.
      clusters: fewer come out where there are fewer distinct vectors.
      most, least: share of the items that a cluster may and should hold.

    Returns:
      Centroids float32[c, dim]; the cluster of each int64[c], ascending; offsets float32[c], alike within a cluster.
    """
    part = sample[:: max(1, math.ceil(len(sample) * clusters / _CELLS))]
    centroids = _spread(part, lloyd(part, clusters, seed=seed, rounds=25, careful=True), most=most, seed=seed)
    if len(centroids) == 1:
        return centroids, np.zeros(1, np.int64), np.zeros(1, np.float32)
    bounds = {"most": most * len(part), "least": least * len(part)}
    centroids, offsets = _balanced(part, centroids, seed=seed, **bounds)
    near = nearest_of(centroids, part, offsets.astype(np.float32))
    inner = []
    for number in range(len(centroids)):
        members = part[near == number]
        several = min(_INNER, len(members) // _FEWEST)
        inner.append(lloyd(members, several, seed=seed, rounds=15) if several > 1 else centroids[[number]])
    owner = np.repeat(np.arange(len(inner)), [len(each) for each in inner])
    centroids = np.concatenate(inner)
    # The inner centroids are nearer to dense regions than the one was: balanced once more, from equal offsets.
    offsets, _, _ = _balance(_distances(part, centroids, owner), np.zeros(len(inner)), **bounds)
    return centroids, owner, (offsets - offsets.min()).astype(np.float32)[owner]


def _balanced(
    sample: np.ndarray, centroids: np.ndarray, *, most: float, least: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids float32[c, dim] and offsets float64[c] of balanced clusters with one centroid each."""
    line = np.arange(len(centroids))
    offsets, best = np.zeros(len(centroids)), (np.inf, centroids, np.zeros(len(centroids)))
    for rounds in range(_ROUNDS):
        offsets, sizes, excess = _balance(_distances(sample, centroids, line), offsets, most=most, least=least)
        # Of rounds that keep the cap the last one: its centroids are the means of the balanced clusters.
        if excess <= max(best[0], 1.02):
            best = (excess, centroids, offsets)
        if rounds == _ROUNDS - 1:
            break
        near = nearest_of(centroids, sample, offsets.astype(np.float32))
        if sizes.max() > most:  # clusters with nothing near have to be divided
            halves = lloyd(sample[near == sizes.argmax()], 2, seed=seed, rounds=15)
            if len(halves) == 2:
                centroids, offsets = centroids.copy(), offsets.copy()
                centroids[[sizes.argmax(), sizes.argmin()]] = halves
                offsets[[sizes.argmax(), sizes.argmin()]] = offsets[sizes.argmax()]
                continue
        centroids = _means(sample, near, centroids)
    return best[1], best[2]


def _distances(sample: np.ndarray, centroids: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Squared distances to the nearest centroid of each cluster, less a constant a row: float32[n, clusters]."""
    nearest = Nearest(centroids, owner, np.zeros(len(centroids), np.float32))
    out = np.empty((len(sample), nearest.owners), np.float32)
    for rows, _, found in nearest.blocks(sample):
        out[rows] = nearest.of_owners(found)
    return out


def _spread(sample: np.ndarray, centroids: np.ndarray, *, most: float, seed: int) -> np.ndarray:
    """Gives clusters that are far above the cap as many centroids as they have means, taken from the smallest clusters."""
    clusters, mean = len(centroids), len(sample) / len(centroids)
    for turn in range(10):
        near = nearest_of(centroids, sample)
        sizes = np.bincount(near, minlength=clusters)
        wanted = np.where(sizes > max(1.5 * mean, most * len(sample)), np.round(sizes / mean).astype(int), 1)
        few = np.argsort(sizes, kind="stable")
        few = few[(wanted[few] == 1) & (sizes[few] < 0.7 * mean)][: int((wanted - 1).sum())]
        if not len(few):
            break
        kept, room = [], len(few)
        for number in np.argsort(-sizes, kind="stable"):
            if number in few:
                continue
            extra = min(room, int(wanted[number]) - 1)
            room -= extra
            kept.append(lloyd(sample[near == number], extra + 1, seed=seed + turn, rounds=15) if extra else centroids[[number]])
        centroids = np.unique(np.concatenate(kept), axis=0)
        for _ in range(3):
            centroids = _means(sample, nearest_of(centroids, sample), centroids)
        if len(centroids) < clusters:
            break
    return centroids


def _means(sample: np.ndarray, place: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The mean of each cluster; one without items stays where it was."""
    order, sizes = np.argsort(place, kind="stable"), np.bincount(place, minlength=len(before))
    ends = np.cumsum(sizes)
    out = before.copy()
    for number in np.flatnonzero(sizes):
        out[number] = sample[order[ends[number] - sizes[number] : ends[number]]].mean(axis=0, dtype=np.float64)
    return out


def _balance(far: np.ndarray, offsets: np.ndarray, *, most: float, least: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets to distances float32[n, c] with which no cluster is above `most` items, nor below `least` where possible.

    Returns:
      Those of the best step, float64[c]; the sizes, int64[c]; how far they are from cap and floor (1: all kept).
    """
    line = np.arange(len(far))
    offsets, best, kept, kept_sizes = offsets.copy(), np.inf, offsets, np.zeros(len(offsets), np.int64)
    for _ in range(_STEPS):
        total = far + offsets.astype(np.float32)
        near = total.argmin(axis=1)
        here = total[line, near]
        total[line, near] = np.inf
        gap = total.min(axis=1) - here
        sizes = np.bincount(near, minlength=len(offsets))
        excess = max(sizes.max() / most, 1.0) + 0.01 * (max(least / max(sizes.min(), 0.5), 1.0) - 1.0)
        if excess < best:
            best, kept, kept_sizes = excess, offsets.copy(), sizes
        if sizes.max() <= most and sizes.min() >= least:
            break
        total[line, near] = here
        step = np.zeros(len(offsets))
        for number in np.flatnonzero(sizes > most):
            gaps = np.sort(gap[near == number])
            # Let the nearest to the border go, to just below the cap; half way, because neighbors move as well.
            step[number] = 0.7 * gaps[min(len(gaps) - 1, math.ceil(sizes[number] - 0.98 * most))] + 1e-9
        for number in np.flatnonzero(sizes < least):
            lack = np.sort((total[:, number] - here)[near != number])
            step[number] = -0.7 * lack[min(len(lack) - 1, math.ceil(least - sizes[number]))] - 1e-9
        offsets += step
    return kept, kept_sizes, best
