"""Wiring of `build`: fit the router on a sample, route files, build and measure one index a partition, write the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, PBegin

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.metrics import count, count_read, timed
from simpipe.beam.workers import held_once
from simpipe.build import BuildPlan, build_one_partition, build_one_store_file
from simpipe.build_start import start_build
from simpipe.groups import Members
from simpipe.index.blas import blas_threads
from simpipe.index.route import count_values, load_samples, route_file, route_query_ids, sample_file, save_sample
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.types import Counts, Reject


@dataclass(frozen=True)
class _Sample:
    """Numbers of the files whose samples lie in the work folder, and counts of the routing column's values.

    The rows themselves do not travel: of many files they are one element too large for some runners.
    """

    numbers: tuple[int, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)


def _members(plan: BuildPlan) -> Members | None:
    return held_once("members", (plan.groups, plan.folder), plan.members)


def _sample(number: int, plan: BuildPlan) -> _Sample:
    path, work = plan.source(number), files.located(plan.work)
    if number >= len(plan.files):
        save_sample(sample_file(path, plan.route, share=plan.probe_share, seed=plan.seed), work=work, number=number)
        return _Sample((number,))
    items = sample_file(path, plan.route, share=plan.sample_share, seed=plan.seed, members=_members(plan))
    save_sample(items, work=work, number=number)
    return _Sample((number,), count_values(path, plan.route.column) if plan.route.column else {})


class _Gather(beam.CombineFn):
    """Numbers and counts."""

    def create_accumulator(self) -> _Sample:
        return _Sample()

    def add_input(self, mutable_accumulator: _Sample, element: _Sample) -> _Sample:
        return self.merge_accumulators([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[_Sample]) -> _Sample:
        parts = list(accumulators)
        values: Counter[str] = Counter()
        for part in parts:
            values.update(part.values)
        return _Sample(tuple(number for part in parts for number in part.numbers), dict(values))

    def extract_output(self, accumulator: _Sample) -> _Sample:
        return accumulator


def _fit(sample: _Sample, plan: BuildPlan) -> int:
    """Fits and saves the router; returns its number of partitions, which routing waits for."""
    numbers, work = sorted(sample.numbers), files.located(plan.work)
    parts = ([n for n in numbers if n < len(plan.files)], [n for n in numbers if n >= len(plan.files)])
    items, queries = (load_samples(part, work=work, dim=plan.route.dim) for part in parts)
    with blas_threads(1):
        partitions = start_build(plan, items, queries, sample.values)
    count("sample-items", len(items))
    return partitions


def _route(number: int, partitions: int, plan: BuildPlan) -> Outcome:
    router = Router.load(files.located(plan.folder) / ROUTER_FILE)
    spec = plan.route_into(partitions)
    # A worker is one processor: more threads for products this small spend more than they save.
    with blas_threads(1), timed("route-msec"):
        found = route_file(
            plan.source(number), router, spec, work=files.located(plan.work), number=number, members=_members(plan)
        )
    name = f"route-{number:05d}"
    write_rejects(files.located(plan.folder), name, found.rejects)
    count_read(found.counts)
    count("in-bytes", plan.checksums[number][0])
    count("copies", found.copies)
    record = {"path": name, "rows": found.counts.written, "copies": found.copies, "representatives": found.representatives}
    return Outcome(found.counts, (record,), tuple(found.rejects[:SHOWN_REJECTS]))


def _numbers(partitions: int) -> list[int]:
    return list(range(partitions))


def _query_ids(number: int, plan: BuildPlan) -> int:
    return route_query_ids(plan.source(number), plan.route, work=files.located(plan.work), number=number)


def _partition(number: int, routed: list[Outcome], partitions: int, plan: BuildPlan) -> Outcome:
    with blas_threads(1), timed("build-msec"):
        record = build_one_partition(plan, number, partitions=partitions)
    count("index-items", record["rows"])
    count("out-bytes", record["bytes"])
    return Outcome(Counts(record["rows"], record["rows"], 0), (record,))


def _store(number: int, routed: list[Outcome], query_ids: list[int], plan: BuildPlan) -> Outcome:
    with timed("store-msec"):
        record, duplicates = build_one_store_file(plan, number)
    count("out-items", record["rows"])
    count("duplicates", len(duplicates))
    count("out-bytes", sum(entry["size"] for entry in record["files"]))
    rejects = tuple(Reject(**vars(reject)) for reject in duplicates[:SHOWN_REJECTS])
    return Outcome(Counts(record["rows"] + len(duplicates), record["rows"], len(duplicates)), (record,), rejects)


@dataclass
class BuildRelease(beam.PTransform):
    """PBegin -> the parts of a release and three summaries (`route`, `partitions`, `store`) in the work folder.

    The shuffle goes through grouped files: routing writes each file's rows by partition, and each partition is one
    element that reads its groups, so memory is bounded by a partition on every runner.

    Attributes:
      hints: Beam's resource hints for the step that builds partitions; see `simpipe.beam.dataflow.build_hints`.
    """

    plan: BuildPlan
    hints: Mapping[str, Any] = field(default_factory=dict)

    def expand(self, input_or_inputs: PBegin) -> tuple[Any, ...]:
        plan, begin = self.plan, input_or_inputs
        work = files.located(plan.work)
        numbers = list(range(len(plan.files)))
        # Hash routing without a profile learns nothing from the data: no pass over it for a sample.
        sampled = numbers if plan.sample_share or plan.route.column else []
        if plan.probe_share:
            sampled = [*sampled, *range(len(numbers), len(numbers) + len(plan.query_files))]
        partitions: Any = (
            begin
            | "Files to sample" >> beam.Create(sampled)
            | "Sample" >> beam.Map(_sample, plan=plan)
            | "Gather sample" >> beam.CombineGlobally(_Gather())
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
            | "BuildPartitions"
            >> hinted(beam.Map(_partition, routed=barrier, partitions=AsSingleton(partitions), plan=plan), self.hints)
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


def hinted(transform: beam.PTransform, hints: Mapping[str, Any]) -> beam.PTransform:
    """The transform with resource hints, where there are any: each set of hints is an environment of its own."""
    return transform.with_resource_hints(**hints) if hints else transform


def work_files(plan: BuildPlan) -> int:
    """Finished parts so far, for progress."""
    folder = files.located(plan.folder)
    done = [*files.located(plan.work).glob("route-*.arrow"), *folder.glob("partitions/*"), *folder.glob("store/*.parquet")]
    return len([path for path in done if not path.name.startswith(files.TMP_PREFIX)])
