"""What a build begins with: the router and its partitions, and the sampled queries of the search profile."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.build import BuildPlan
from simpipe.config.index import AutoRouter, ColumnRouter
from simpipe.embeddings import vectors_of
from simpipe.ids import hash_ids
from simpipe.index.backend import ladder
from simpipe.index.measure import PROBE_FILE, Probe
from simpipe.index.planner import Plan, Sampled, bytes_a_row, least_partitions, plan_router, reach_of
from simpipe.index.router import ROUTER_FILE, Router, fit_column_router, fit_router

PLAN_JSON = "plan.json"
_SAMPLED_QUERIES = 200  # fewer held-out queries than this make no profile: items take their place
_PAIRS = 60_000  # searches of the profile with each setting, over all partitions
_FEWEST = 500


def start_build(plan: BuildPlan, sample: pa.Table, queries: pa.Table, values: Mapping[str, int]) -> int:
    """Fits the router, picks the profile's queries, and saves both in the release: `router.npz` and `probe.npz`.

    Args:
      plan: of the build.
      sample: columns id, embedding (prepared); queries: the same, held-out ones.
      values: how often each value of the routing column occurs, where one routes.

    Returns:
      The number of partitions.
    """
    sample = sample.sort_by("id")
    vectors = vectors_of(sample)
    router, about = _router(plan, vectors, values)
    router.save(files.located(plan.folder) / ROUTER_FILE)
    files.write_json(files.located(plan.work) / PLAN_JSON, about)
    if plan.profile.queries and plan.items > 1:
        probe = _probe(plan, router, sample, queries)
        if probe is not None:
            probe.save(files.located(plan.folder) / PROBE_FILE)
    return router.partitions


def _router(plan: BuildPlan, vectors: np.ndarray, values: Mapping[str, int]) -> tuple[Router, dict[str, Any]]:
    config, dim = plan.router, plan.route.dim
    if isinstance(config, ColumnRouter):
        router = fit_column_router(values, config, cap=max(1, (plan.memory_mib << 20) // bytes_a_row(plan.backend, dim)))
        return router, config.model_dump(mode="json")
    if not isinstance(config, AutoRouter):
        return fit_router(vectors, config, seed=plan.seed), config.model_dump(mode="json")
    least = least_partitions(
        plan.items, backend=plan.backend, dim=dim, memory_mib=plan.memory_mib, workers=plan.workers, balance=config.balance
    )
    exact = plan.backend.kind == "exact"
    planned: Plan = plan_router(vectors, config, items=plan.items, least=least, is_exact=exact, seed=plan.seed)
    return planned.router, planned.to_json()


def _probe(plan: BuildPlan, router: Router, sample: pa.Table, queries: pa.Table) -> Probe | None:
    wanted = plan.profile.queries
    held_out = len(queries) >= _SAMPLED_QUERIES
    table = queries if held_out else sample
    # By another hash than the sample's, so that the choice follows from the ids alone.
    order = np.argsort(hash_ids(table.column("id"), seed=plan.seed + 11), kind="stable")
    most = max(8.0, min(24.0, 0.4 * router.partitions))
    asked = float(router.partitions) if router.centroids is None else min(most, router.partitions)
    count = min(len(table), wanted, max(_FEWEST, round(_PAIRS / asked)))
    if count == 0:
        return None
    table = table.take(np.sort(order[:count]))
    vectors = vectors_of(table)
    own = np.zeros(count, np.uint64) if held_out else hash_ids(table.column("id"))
    sampled = None if router.centroids is None else Sampled.of(vectors_of(sample), items=plan.items, seed=plan.seed)
    reach = math.inf if sampled is None else reach_of(router, sampled, mean_probes=most)
    router.nearness(vectors[:64])  # the first call allocates
    started = time.thread_time()
    nearness = router.nearness(vectors)
    routing = (time.thread_time() - started) / count
    rows, spec = -(-plan.items // router.partitions), plan.route
    settings = ladder(plan.backend, rows, plan.profile.k, dim=spec.dim, distance=spec.distance, storage=plan.storage)
    return Probe(vectors, own, nearness, reach, tuple(settings), plan.profile.k, routing, "queries" if held_out else "items")
