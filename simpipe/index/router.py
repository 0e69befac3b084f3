"""Routers, and how they are fitted: on a sample of the vectors, column routers on counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from simpipe.config.index import ColumnRouter, FittedRouter, KMeansRouter, PackedRouter
from simpipe.errors import ConfigError
from simpipe.index.kmeans import balanced_kmeans, fine_clusters
from simpipe.index.nearest import Nearest
from simpipe.index.packing import affinity, pack, weights_of
from simpipe.index.routing import ROUTER_FILE, Router, sample_rows

__all__ = ["ROUTER_FILE", "Router", "fine_clusters_of", "fit_column_router", "fit_router", "sample_rows"]

_FLOOR = 0.5  # of the mean
_WORTH = 50  # equal sampled vectors from which on it is worth to divide them
_HELD = 10  # one in so many sampled vectors sets the spill's threshold, and is not learned from
_AFFINITY = 50_000  # sampled vectors that tell which clusters are near
_CLUSTERS = 64  # a partition
_SAMPLED = 15  # vectors a cluster


def fit_router(sample: np.ndarray, config: FittedRouter, *, seed: int) -> Router:
    """Fits a router; the same sample and seed give the same router, bit for bit.

    Partitions keep the cap `balance` x mean, also where many vectors are equal: a vector that occurs more often than the cap
    takes a territory of several partitions. There are never more partitions than sampled vectors, and fewer where there
    are fewer distinct vectors than partitions and none of them is that frequent.

    Args:
      sample: float32[n, dim], prepared vectors in an order that does not depend on the run.
      config: kind and number of partitions.
      seed: of what is drawn.
    """
    if config.kind == "hash":
        return Router(config.partitions)
    sample = np.ascontiguousarray(sample, np.float32)
    if len(sample) == 0:
        return Router(1)
    held = np.zeros(len(sample), bool)
    if config.spill != "none" and len(sample) >= 100 * _HELD:
        held[::_HELD] = True
    learned = sample[~held]
    partitions = min(config.partitions, len(learned))
    # Other items than the sampled ones: partitions come out a little larger or smaller there.
    mean = len(learned) / partitions
    cap = max(1.0 + (config.balance - 1.0) / 3, config.balance - 4.0 / math.sqrt(mean)) / partitions
    if config.kind == "packed":
        router = _packed(learned, config, partitions, cap=cap, seed=seed)
    else:
        router = _kmeans(learned, partitions, cap=cap, seed=seed)
    return _with_spill(router, sample[held] if held.any() else sample, config)


def _kmeans(sample: np.ndarray, partitions: int, *, cap: float, seed: int) -> Router:
    rows, place, counts = _distinct(sample)
    heavy = np.flatnonzero(counts > max(cap * len(sample), _WORTH))
    rest = sample[~np.isin(place, heavy)]
    seats = _seats(counts[heavy], len(rest), partitions)
    centroids, owner, offsets = np.empty((0, sample.shape[1]), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)
    if len(rest):
        most = cap * len(sample) / len(rest)
        least = _FLOOR / partitions * len(sample) / len(rest)
        centroids, owner, offsets = balanced_kmeans(rest, seats[-1], most=most, least=least, seed=seed)
    light = int(owner.max(initial=-1)) + 1
    centroids = np.concatenate([centroids, sample[rows[heavy]]])
    owner = np.concatenate([owner, light + np.arange(len(heavy))])
    splits = np.concatenate([np.ones(light, np.int64), seats[: len(heavy)]])
    offsets = np.concatenate([offsets, _heavy_offsets(centroids, offsets, len(heavy))]).astype(np.float32)
    return _router("kmeans", centroids, owner, offsets, splits)


def _heavy_offsets(centroids: np.ndarray, offsets: np.ndarray, heavy: int) -> np.ndarray:
    """Offsets of territories of equal vectors: half the way to the next centroid, so that few others get into them."""
    if not heavy or not len(offsets):
        return np.zeros(heavy, np.float32)
    own, others = centroids[len(offsets) :].astype(np.float64), centroids[: len(offsets)].astype(np.float64)
    far = ((own[:, None, :] - others[None]) ** 2).sum(axis=2) + offsets
    return 0.5 * far.min(axis=1)


def _packed(sample: np.ndarray, config: PackedRouter, partitions: int, *, cap: float, seed: int) -> Router:
    centroids = fine_clusters(sample, fine_clusters_of(config, partitions, len(sample)), seed=seed)
    weights = weights_of(centroids, sample)
    heavy = np.flatnonzero(weights > max(cap * len(sample), _WORTH))
    light = np.setdiff1d(np.arange(len(centroids)), heavy)
    seats = _seats(weights[heavy], len(light), partitions, of_rest=weights[light].sum())
    owner = np.empty(len(centroids), np.int64)
    bins = min(seats[-1], len(light))
    if len(light):
        near = affinity(sample[:_AFFINITY], centroids)[light][:, light]
        part = pack(
            centroids[light],
            weights[light],
            near,
            bins,
            cap=cap * len(sample),
            floor=_FLOOR * len(sample) / partitions,
            seed=seed,
        )
        used, owner[light] = np.unique(part, return_inverse=True)
        bins = len(used)
    owner[heavy] = bins + np.arange(len(heavy))
    splits = np.concatenate([np.ones(bins, np.int64), seats[: len(heavy)]])
    return _router("packed", centroids, owner, np.zeros(len(centroids), np.float32), splits)


def fine_clusters_of(config: FittedRouter, partitions: int, sampled: int) -> int:
    """How many centroids a router of so many partitions goes by, about; `sampled`: vectors that it learns from."""
    if config.kind == "hash":
        return 0
    if config.kind == "kmeans":
        return min(16 * partitions, sampled)
    wanted = min(max(4096, _CLUSTERS * partitions), max(sampled // _SAMPLED, 8 * partitions))
    return min(config.clusters or wanted, sampled)


def _router(kind: str, centroids: np.ndarray, owner: np.ndarray, offsets: np.ndarray, splits: np.ndarray) -> Router:
    order = np.argsort(owner, kind="stable")
    return Router(
        int(splits.sum()),
        kind,
        centroids=np.ascontiguousarray(centroids[order], np.float32),
        owner=owner[order].astype(np.int32),
        offsets=np.ascontiguousarray(offsets[order], np.float32),
        splits=splits.astype(np.int32),
    )


def _distinct(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct vectors: the first row of each, the number of each row's, and how often each occurs."""
    raw = (sample + 0.0).view(np.dtype((np.void, sample.itemsize * sample.shape[1]))).ravel()  # + 0: -0 is 0
    _, rows, place, counts = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
    return rows, place.ravel(), counts


def _seats(heavy: np.ndarray, rest: int, partitions: int, of_rest: float | None = None) -> np.ndarray:
    """Partitions of each heavy vector, and last of all the rest, so that the largest is as small as can be: int64[h + 1]."""
    loads = np.append(heavy, rest if of_rest is None else of_rest).astype(np.float64)
    seats = np.ones(len(loads), np.int64)
    if not rest:
        seats[-1] = 0
    for _ in range(partitions - int(seats.sum())):
        seats[np.argmax(loads / np.maximum(seats, 1) * (seats > 0))] += 1
    return seats


def _with_spill(router: Router, sample: np.ndarray, config: KMeansRouter | PackedRouter) -> Router:
    """The router with the threshold with which `spill_factor` times as many rows as items come out, measured on `sample`."""
    if config.spill == "none" or len(router.splits) == 1:
        return router
    assert router.centroids is not None
    nearest = Nearest(router.centroids, router.owner, router.offsets)
    own, _, _, gap = nearest.spilled(sample, None, soar=False, reach=-np.inf)
    gap = np.sort(gap[router.splits[own] == 1])
    # One copy an item at most.
    wanted = min(len(gap), round((config.spill_factor - 1.0) * len(sample)))
    return replace(router, spill=config.spill, reach=float(gap[wanted - 1]) if wanted else -1.0)


def fit_column_router(counts: Mapping[str, int], config: ColumnRouter, *, cap: int) -> Router:
    """A router by the values of a metadata column.

    Args:
      counts: items of each value.
      config: names the column.
      cap: items a partition may hold; a value with more takes several partitions, by the hash of the id.

    Raises:
      ConfigError: more values than `max_values`.
    """
    if len(counts) > config.max_values:
        raise ConfigError(
            f"build.router.column: {config.column!r} has {len(counts)} values, more than max_values ({config.max_values})",
            "route by another column, or raise max_values",
        )
    if not counts:
        return Router(1, "column")
    names = tuple(sorted(counts))
    sizes = np.array([counts[name] for name in names], np.float64)
    # By hash, partitions differ by the square root of their size: leave three times that free where there is room.
    safe = max(cap / 2, (math.sqrt(cap + 2.25) - 1.5) ** 2)
    splits = np.where(sizes > cap, np.ceil(sizes / safe), 1).astype(np.int32)
    return Router(int(splits.sum()), "column", splits=splits, names=names)
