"""What a line will consist of: shards, files, partitions, queries. Counts only, from the configuration and the workload."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simpipe.config import Config
from simpipe.config.index import AutoRouter, ColumnRouter, FittedRouter, HashRouter
from simpipe.config.models import VectorsSource
from simpipe.index.planner import expect_router, least_partitions
from simpipe.index.router import fine_clusters_of
from simpipe.plan.workload import Workload

_BLOCK_ROWS = 65_536  # of an import's block
_PAIRS, _FEWEST = 60_000, 500  # see `build_start`
_HELD_OUT_FROM = 200
_PROBES = 1.6  # partitions that a query asks at target recall 0.99, where it does not ask all
_REACHED = 2.0  # partitions within reach of a query of the search profile


@dataclass(frozen=True)
class Shape:
    """The parts of a line.

    Attributes:
      items, dim, id_bytes: see `Workload`. held_out, indexed: of the items. rows: stored in partitions, copies among them.
      examples, encoder: whether the line begins with examples; False: with ready-made vectors.
      shards: files of examples a split. blocks: work items of embed or import. files: of embeddings.
      partitions, largest: how many, and rows of the largest. centroids: that routing compares each vector with.
      tried: routers that are fitted (the chosen one among them), of `sampled` vectors.
      probe: queries of the search profile; pairs: of a query and a partition that these search with each setting.
      probes: partitions that a query asks. calibrated, evaluated, exact, deep: queries of calibration, of evaluation, of these
        searched exactly, and neighbors of the deep search (0: none).
      store_files: of the metadata store.
    """

    items: int
    dim: int
    id_bytes: int
    held_out: int
    indexed: int
    rows: int
    has_encoder: bool
    shards: int
    blocks: int
    files: int
    partitions: int
    largest: int
    centroids: int
    tried: tuple[FittedRouter, ...]
    sampled: int
    probe: int
    pairs: int
    probes: float
    calibrated: int
    evaluated: int
    exact: int
    deep: int
    store_files: int

    @property
    def mean(self) -> float:
        """Rows of a partition."""
        return self.rows / self.partitions


def shape_of(config: Config, workload: Workload, *, partitions: int | None = None) -> Shape:
    """The parts of a line.

    Args:
      partitions: as many, where it is known what the planner chose; the router is then `packed` if there are several.
    """
    build, n = config.build, workload.items
    held_out = round(n * config.queries.fraction)
    indexed = max(1, n - held_out)
    ready = isinstance(config.source, VectorsSource)
    blocks = math.ceil(n / _BLOCK_ROWS) if ready else 3 * config.shard.num_shards
    chosen, tried = _routers(config, workload.dim, indexed, partitions)
    count = chosen.partitions
    factor = 1.0 if isinstance(chosen, HashRouter) or chosen.spill == "none" else chosen.spill_factor
    rows = round(indexed * factor)
    sampled = min(indexed, getattr(build.router, "sample", 0))
    centroids = fine_clusters_of(chosen, count, sampled) if count > 1 else 0
    most = max(8.0, min(24.0, 0.4 * count))
    asked = float(count) if not centroids else min(most, float(count))
    of = held_out if held_out >= _HELD_OUT_FROM else indexed
    probe = min(of, build.profile.queries, max(_FEWEST, round(_PAIRS / asked))) if build.profile.queries else 0
    probes = float(count) if not centroids else min(_PROBES, count)
    queries = {
        name: min(held_out if part.queries == "held_out" else indexed, part.max_queries or n)
        for name, part in (("calibrate", config.calibrate), ("evaluate", config.evaluate))
    }
    exact = config.evaluate.exact_queries
    return Shape(
        items=n,
        dim=workload.dim,
        id_bytes=workload.id_bytes,
        held_out=held_out,
        indexed=indexed,
        rows=rows,
        has_encoder=not ready,
        shards=0 if ready else config.shard.num_shards,
        blocks=blocks,
        files=2 * blocks if ready else blocks,
        partitions=count,
        largest=round(rows / count * (1.0 if count == 1 else getattr(chosen, "balance", 1.05))),
        centroids=centroids,
        tried=tried,
        sampled=sampled,
        probe=probe,
        pairs=round(probe * (min(_REACHED, count) if centroids else count)),
        probes=probes,
        calibrated=queries["calibrate"],
        evaluated=queries["evaluate"],
        exact=queries["evaluate"] if exact is None else min(exact, queries["evaluate"]),
        deep=config.evaluate.max_r if config.evaluate.map_at_r else 0,
        store_files=build.store_files,
    )


def _routers(config: Config, dim: int, indexed: int, partitions: int | None) -> tuple[FittedRouter, tuple[FittedRouter, ...]]:
    """The router that will be chosen, and all that are fitted."""
    build, router = config.build, config.build.router
    if not isinstance(router, AutoRouter | ColumnRouter):
        return router, () if router.kind == "hash" or router.partitions == 1 else (router,)
    least = least_partitions(
        indexed,
        backend=build.backend,
        dim=dim,
        memory_mib=build.partition_memory_mib,
        workers=build.workers,
        balance=getattr(router, "balance", 1.0),
    )
    if isinstance(router, ColumnRouter):  # how many values it has only the data say
        return HashRouter(kind="hash", partitions=partitions or least), ()
    asked = router if partitions is None else router.model_copy(update={"partitions": partitions})
    found = expect_router(asked, items=indexed, least=least, dim=dim, is_exact=build.backend.kind == "exact")
    if partitions is None or router.partitions is not None:
        return found.router, found.tried
    planned = expect_router(router, items=indexed, least=least, dim=dim, is_exact=build.backend.kind == "exact")
    return found.router, planned.tried
