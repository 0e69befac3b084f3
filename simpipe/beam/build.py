"""Wiring of `build`: fit the router on a sample, route files, build one index a partition, write the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList, AsSingleton, PBegin

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.build import BuildPlan, build_one_partition, build_one_store_file
from simpipe.embeddings import vectors_of
from simpipe.index.route import route_file, route_query_ids, sample_file
from simpipe.index.router import ROUTER_FILE, Router, fit_router
from simpipe.types import Counts, Reject


def _sample(number: int, plan: BuildPlan) -> pa.Table:
    return sample_file(plan.source(number), plan.route, share=plan.sample_share, seed=plan.seed)


class _Concatenate(beam.CombineFn):
    """Small tables to one."""

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, mutable_accumulator: list[pa.Table], element: pa.Table) -> list[pa.Table]:
        return [*mutable_accumulator, element]

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return [table for part in accumulators for table in part]

    def extract_output(self, accumulator: list[pa.Table]) -> pa.Table | None:
        return pa.concat_tables(accumulator) if accumulator else None


def _fit(sample: pa.Table | None, plan: BuildPlan) -> int:
    """Fits and saves the router; returns its number of partitions, which routing waits for."""
    vectors = vectors_of(sample.sort_by("id")) if sample is not None else np.empty((0, plan.route.dim), np.float32)
    router = fit_router(vectors, plan.router, seed=plan.seed)
    router.save(Path(plan.folder) / ROUTER_FILE)
    Metrics.counter("simpipe", "router-sample").inc(len(vectors))
    return router.partitions


def _route(number: int, partitions: int, plan: BuildPlan) -> Outcome:
    router = Router.load(Path(plan.folder) / ROUTER_FILE, partitions)
    spec = plan.route_into(partitions)
    counts, rejects = route_file(plan.source(number), router, spec, work=Path(plan.work), number=number)
    name = f"route-{number:05d}"
    write_rejects(Path(plan.folder), name, rejects)
    _count(counts)
    return Outcome(counts, ({"path": name, "rows": counts.written},), tuple(rejects[:SHOWN_REJECTS]))


def _numbers(partitions: int) -> list[int]:
    return list(range(partitions))


def _count(counts: Counts) -> None:
    Metrics.counter("simpipe", "in-items").inc(counts.read)
    Metrics.counter("simpipe", "rejected").inc(counts.rejected)


def _query_ids(number: int, plan: BuildPlan) -> int:
    return route_query_ids(plan.source(number), plan.route, work=Path(plan.work), number=number)


def _partition(number: int, routed: list[Outcome], partitions: int, plan: BuildPlan) -> Outcome:
    started = time.monotonic()
    record = build_one_partition(plan, number, partitions=partitions)
    Metrics.distribution("simpipe", "build-msec").update(int(1000 * (time.monotonic() - started)))
    Metrics.counter("simpipe", "out-items").inc(record["rows"])
    Metrics.counter("simpipe", "out-bytes").inc(record["bytes"])
    return Outcome(Counts(record["rows"], record["rows"], 0), (record,))


def _store(number: int, routed: list[Outcome], query_ids: list[int], plan: BuildPlan) -> Outcome:
    record, duplicates = build_one_store_file(plan, number)
    rejects = tuple(Reject(**vars(reject)) for reject in duplicates[:SHOWN_REJECTS])
    return Outcome(Counts(record["rows"] + len(duplicates), record["rows"], len(duplicates)), (record,), rejects)


@dataclass
class BuildRelease(beam.PTransform):
    """PBegin -> the parts of a release and three summaries (`route`, `partitions`, `store`) in the work folder.

    The shuffle goes through grouped files: routing writes each file's rows by partition, and each partition is one
    element that reads its groups, so memory is bounded by a partition on every runner.
    """

    plan: BuildPlan

    def expand(self, input_or_inputs: PBegin) -> tuple[Any, ...]:
        plan, begin = self.plan, input_or_inputs
        work = Path(plan.work)
        numbers = list(range(len(plan.files)))
        # Hash routing learns nothing from the data: no pass over it for a sample.
        sampled = numbers if plan.sample_share else []
        partitions: Any = (
            begin
            | "Files to sample" >> beam.Create(sampled)
            | "Sample" >> beam.Map(_sample, plan=plan)
            | "Gather sample" >> beam.CombineGlobally(_Concatenate())
            | "FitRouter" >> beam.Map(_fit, plan=plan)
        )
        routed: Any = (
            begin
            | "Files" >> beam.Create(numbers)
            | "Spread files" >> beam.Reshuffle()
            | "RouteFiles" >> beam.Map(_route, partitions=AsSingleton(partitions), plan=plan)
        )
        barrier = AsList(routed)
        query_ids: Any = (
            begin
            | "Query files" >> beam.Create([len(numbers) + place for place in range(len(plan.query_files))])
            | "RouteQueryIds" >> beam.Map(_query_ids, plan=plan)
        )
        built = (
            partitions
            | "Partitions" >> beam.FlatMap(_numbers)
            | "Spread partitions" >> beam.Reshuffle()
            | "BuildPartitions" >> beam.Map(_partition, routed=barrier, partitions=AsSingleton(partitions), plan=plan)
        )
        stored = (
            begin
            | "Buckets" >> beam.Create(list(range(plan.route.store_files)))
            | "Spread buckets" >> beam.Reshuffle()
            | "WriteStore" >> beam.Map(_store, routed=barrier, query_ids=AsList(query_ids), plan=plan)
        )
        return (
            routed | "Routed" >> WriteSummary(str(work / "route.json")),
            built | "Built" >> WriteSummary(str(work / "partitions.json")),
            stored | "Stored" >> WriteSummary(str(work / "store.json")),
        )


def work_files(plan: BuildPlan) -> int:
    """Finished parts so far, for progress."""
    folder = Path(plan.folder)
    done = [*Path(plan.work).glob("route-*.arrow"), *folder.glob("partitions/*"), *folder.glob("store/*.parquet")]
    return len([path for path in done if not path.name.startswith(files.TMP_PREFIX)])
