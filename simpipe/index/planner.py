"""The planner: which router, and how many partitions, by the routing recall measured on a sample.

The number of partitions is the least that fits the memory of a worker and the wanted parallelism; more only where the
measurement says that queries get cheaper. The cost of a query is estimated as

    routing (centroids x dim multiplications) + probes x search(rows of a partition) + a fixed part a partition

in which `probes` is measured: sampled queries, their exact neighbors within the sample, and the margin that reaches the target.
It is multiplied by rows over items, for copies. Of candidates that cost about the same the fewest partitions win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.config.index import AutoRouter, Backend, FittedRouter, HashRouter, KMeansRouter, PackedRouter
from simpipe.index.exact import exact_topk
from simpipe.index.router import Router, fine_clusters_of, fit_router

_QUERIES = 1000
_K = 10
_TARGET = 0.975  # of routing alone, so that router and backend together reach 0.95
_MIN_ROWS = 8192  # a partition of fewer rows costs a query more in overhead than it saves
_GROWTH = (1, 4, 16)
_SPILL_FROM = 1.5  # probes without spill below which copies have nothing to save
_GAIN = 0.85  # more partitions must be at least so much cheaper: they also cost files, loads and calls
# Microseconds (one core, dim 64; measured with ScaNN at recall 0.95 on 17,000 to 1,000,000 rows): what asking a partition
# takes whatever its size, and the growth with its rows. Ratios matter here, not the values.
_CALL = 3.0
_SCALE = 0.006
_POWER = 0.6
_ROUTE = 2.4e-5  # a multiply-add of routing
_ASKED = 0.05  # a partition that exists, asked once for a block of 2,000 queries
_PROBES = 1.1  # that packed routers took on clustered unit vectors, at 4 to 112 partitions


@dataclass(frozen=True)
class Candidate:
    """A router that was measured.

    Attributes:
      router, partitions, spill: what it is. centroids: how many it routes by. rows: stored rows over items.
      probes: mean partitions a query for routing recall 0.975. microseconds: estimated cost of a query.
    """

    router: str
    partitions: int
    spill: str
    centroids: int
    rows: float
    probes: float
    microseconds: float


@dataclass(frozen=True)
class Plan:
    """The router that was chosen, fitted; and all that were measured."""

    router: Router
    config: FittedRouter
    candidates: tuple[Candidate, ...]
    least: int

    def to_json(self) -> dict[str, Any]:
        """The chosen router's configuration, and under `planner` what it was chosen from."""
        candidates = [asdict(candidate) for candidate in self.candidates]
        return {**self.config.model_dump(mode="json"), "planner": {"least_partitions": self.least, "candidates": candidates}}


def bytes_a_row(backend: Backend, dim: int) -> int:
    """Memory that building one row takes, by backend: measured peaks of the libraries, vectors and ids included."""
    vector = 4 * dim
    if backend.kind == "exact":
        return 2 * vector + 128
    if backend.kind == "scann":
        return 4 * vector + 192  # the sorted table, a copy of the library's, hashes and leaves with spill
    links = 8 * backend.m + 64
    return 3 * vector + 4 * links + 192


def least_partitions(items: int, *, backend: Backend, dim: int, memory_mib: int, workers: int, balance: float) -> int:
    """The fewest partitions of which each can be built within `memory_mib`, and at least one a worker."""
    fits = max(1, (memory_mib << 20) // bytes_a_row(backend, dim))
    return max(workers, math.ceil(items * (balance if items > fits else 1.0) / fits), 1)


def plan_router(sample: np.ndarray, config: AutoRouter, *, items: int, least: int, is_exact: bool, seed: int) -> Plan:
    """Measures routers on a sample and picks the cheapest.

    Args:
      sample: float32[n, dim], prepared, in an order that does not depend on the run.
      config: `partitions` forces their number.
      items: how many will be indexed. least: partitions that memory and workers ask for.
      is_exact: of the backend; a scan's cost grows with the rows.
      seed: of the routers.
    """
    if _is_plain(config, items=items, least=least) or len(sample) < 64:
        only = HashRouter(kind="hash", partitions=config.partitions or least)
        return Plan(fit_router(sample, only, seed=seed), only, (), least)
    sampled = Sampled.of(sample, items=items, seed=seed)
    cost = _scan_cost if is_exact else _search_cost
    measured: list[_Measured] = []
    for partitions in _counts(config, items, least):
        before, these = min(map(_cost, measured), default=math.inf), list[_Measured]()
        for each in _routers(config, partitions):
            if each.kind == "packed" and each.spill != "none" and these[-1].candidate.probes < _SPILL_FROM:
                continue
            router = fit_router(sampled.items, each, seed=seed)
            these.append(_Measured(_measure(router, each, sampled, items=items, cost=cost), router, each))
        measured += these
        if min(map(_cost, these)) >= before:
            break  # still more partitions would cost still more
    chosen = measured[choose([(entry.candidate.partitions, _cost(entry)) for entry in measured])]
    return Plan(chosen.router, chosen.config, tuple(entry.candidate for entry in measured), least)


@dataclass(frozen=True)
class Expected:
    """What the planner will probably choose, before there is a sample; of vectors that fall into clusters.

    Attributes:
      router: the choice. tried: the routers that it will fit and measure on the sample.
    """

    router: FittedRouter
    tried: tuple[FittedRouter, ...]


def expect_router(config: AutoRouter, *, items: int, least: int, dim: int, is_exact: bool) -> Expected:
    """The choice of `plan_router` if packed routers need as few probes as they did where they were measured.

    Args:
      config, items, least, is_exact: see `plan_router`. dim: of the vectors.
    """
    sampled = min(items, config.sample)
    if _is_plain(config, items=items, least=least) or sampled < 64:
        return Expected(HashRouter(kind="hash", partitions=config.partitions or least), ())
    cost = _scan_cost if is_exact else _search_cost
    costs: dict[int, float] = {}
    tried: list[FittedRouter] = []
    for partitions in _counts(config, items, least):
        routers = [each for each in _routers(config, partitions) if each.kind != "packed" or each.spill == "none"]
        tried += [each for each in routers if each.kind != "hash"]
        centroids = 0 if partitions == 1 else fine_clusters_of(routers[0], partitions, sampled)
        before = min(costs.values(), default=math.inf)
        probes = 1.0 if partitions == 1 else _PROBES
        costs[partitions] = _cost_of_query(
            centroids=centroids, dim=dim, partitions=partitions, probes=probes, searched=cost(items / partitions)
        )
        if costs[partitions] >= before:
            break
    found = list(costs.items())
    return Expected(_routers(config, found[choose(found)][0])[0], tuple(tried))


def choose(costs: Sequence[tuple[int, float]]) -> int:
    """Which of (partitions, cost of a query) is taken: the fewest partitions of those that cost about as little as any."""
    enough = min(cost for _, cost in costs) / _GAIN
    return min((place for place, (_, cost) in enumerate(costs) if cost < enough), key=costs.__getitem__)


def _is_plain(config: AutoRouter, *, items: int, least: int) -> bool:
    """Whether nothing has to be measured."""
    return config.partitions == 1 or (config.partitions is None and least == 1 and items < 2 * _MIN_ROWS)


@dataclass(frozen=True)
class _Measured:
    candidate: Candidate
    router: Router
    config: FittedRouter


def _cost(entry: _Measured) -> float:
    """Of a query, times the rows over items: copies are paid when they are built, stored and scanned."""
    return entry.candidate.microseconds * entry.candidate.rows


def _counts(config: AutoRouter, items: int, least: int) -> Sequence[int]:
    if config.partitions is not None:
        return (config.partitions,)
    more = [least * factor for factor in _GROWTH if items / (least * factor) >= _MIN_ROWS]
    return [count for count in more if count <= 256] or [least]


def _routers(config: AutoRouter, partitions: int) -> list[FittedRouter]:
    if partitions == 1:
        return [HashRouter(kind="hash", partitions=1)]
    common = {"partitions": partitions, "sample": config.sample, "balance": config.balance}
    return [
        PackedRouter(kind="packed", **common),
        PackedRouter(kind="packed", spill="nearest", spill_factor=1.2, **common),
        KMeansRouter(kind="kmeans", spill="nearest", spill_factor=1.3, **common),
    ]


@dataclass(frozen=True)
class Sampled:
    """Sampled queries with their exact neighbors among sampled items.

    Attributes:
      items: float32[n, dim]. queries: float32[q, dim]. rows: int64[q, k], rows of `items`.
    """

    items: np.ndarray
    queries: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, sample: np.ndarray, *, items: int, seed: int) -> Sampled:
        """Holds some of a sample out as queries. `items`: how many the sample was drawn from."""
        picked = np.random.default_rng(seed).permutation(len(sample))
        held = min(_QUERIES, len(sample) // 5)
        queries, base = sample[np.sort(picked[:held])], sample[np.sort(picked[held:])]
        # A sample is thinner than the whole: its nearest few stand for the k nearest there.
        k = min(_K, max(1, round(_K * len(base) / max(items, 1))))
        rows, _ = exact_topk(base, queries, k, distance="squared_euclidean")
        return cls(base, queries, rows)

    def least(self, router: Router) -> tuple[np.ndarray, np.ndarray]:
        """The nearness of the nearest partition that holds each neighbor, float32[q, k], and of all, float32[q, partitions]."""
        neighbors, place = np.unique(self.rows, return_inverse=True)
        vectors, place = self.items[neighbors], place.reshape(self.rows.shape)
        primary, nearness = _assign(router, vectors), router.nearness(self.queries)
        query = np.arange(len(self.queries))[:, None]
        least = nearness[query, primary[place]]
        copies, where = router.replicas(vectors, primary)
        second = np.full(len(neighbors), -1)
        second[copies] = where
        other = second[place]
        return np.where(other >= 0, np.minimum(least, nearness[query, np.maximum(other, 0)]), least), nearness


def _assign(router: Router, vectors: np.ndarray) -> np.ndarray:
    return router.assign(pa.array(np.arange(len(vectors)).astype(str)), vectors)


def reach_of(router: Router, sampled: Sampled, *, mean_probes: float) -> float:
    """How far (in nearness) partitions may have to be asked: for routing recall 0.998 on the sample, by so many at most."""
    least, nearness = sampled.least(router)
    most = np.sort(nearness, axis=None)[min(nearness.size - 1, int(mean_probes * len(nearness)))]
    return float(min(np.quantile(least, 0.998), most))


def _measure(router: Router, config: FittedRouter, sampled: Sampled, *, items: int, cost: Callable[[float], float]) -> Candidate:
    if router.centroids is None:
        centroids, probes, factor = 0, float(router.partitions), 1.0
    else:
        least, nearness = sampled.least(router)
        centroids = len(router.centroids)
        probes = float((nearness <= np.quantile(least, _TARGET)).sum() / len(nearness))
        factor = config.spill_factor if config.kind != "hash" and config.spill != "none" else 1.0
    dim, searched = sampled.items.shape[1], cost(items * factor / router.partitions)
    micro = _cost_of_query(centroids=centroids, dim=dim, partitions=router.partitions, probes=probes, searched=searched)
    spill = "none" if config.kind == "hash" else config.spill
    return Candidate(config.kind, router.partitions, spill, centroids, round(factor, 3), round(probes, 3), round(micro, 2))


def _cost_of_query(*, centroids: int, dim: int, partitions: int, probes: float, searched: float) -> float:
    """Microseconds; `searched`: of one partition."""
    return _ROUTE * centroids * dim + _ASKED * partitions + probes * searched


def _search_cost(rows: float) -> float:
    return _CALL + _SCALE * rows**_POWER


def _scan_cost(rows: float) -> float:
    return _CALL + 2.5e-3 * rows
