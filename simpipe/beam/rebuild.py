"""Wiring of a rebuild: find what goes and route what comes; then build the partitions and store files that are touched."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList, PBegin

from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.workers import held_once
from simpipe.index.blas import blas_threads
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.rebuild_work import WORK_ROUTER, RebuildSpec, locate_dropped, moves_of, rebuild_one, rewrite_one, route_delta
from simpipe.types import Counts


def _base(spec: RebuildSpec) -> Searcher:
    return held_once("base", (spec.base, spec.folder), spec.open_base)


def _router(spec: RebuildSpec) -> Router:
    written = (Path(spec.work) / WORK_ROUTER).stat().st_mtime_ns  # another one where partitions are split or merged
    return held_once("router", (spec.work, written), spec.router)


def _route(number: int, spec: RebuildSpec) -> Outcome:
    with blas_threads(1):
        found = route_delta(spec, _router(spec), number)
    name = f"route-{number:05d}"
    if isinstance(found, str):
        return Outcome(records=({"path": name, "unknown": found},))
    write_rejects(Path(spec.folder), name, found.rejects)
    counts = found.counts
    for what, count in (("in-items", counts.read), ("rejected", counts.rejected), ("spilled", found.copies)):
        Metrics.counter("simpipe", what).inc(count)
    record = {"path": name, "rows": counts.written, "copies": found.copies}
    return Outcome(counts, (record,), tuple(found.rejects[:SHOWN_REJECTS]))


def _locate(number: int, spec: RebuildSpec) -> Outcome:
    rows = locate_dropped(spec, _base(spec), number)
    Metrics.counter("simpipe", "dropped").inc(rows)
    return Outcome(Counts(rows, rows, 0), ({"path": f"dropped-{number:05d}", "partition": number, "rows": rows},))


def _partition(work: PartitionWork, spec: RebuildSpec) -> Outcome:
    started = time.monotonic()
    with blas_threads(1):
        built = rebuild_one(spec, _base(spec), _router(spec), work)
    rows = built.record["rows"]
    Metrics.distribution("simpipe", "build-msec").update(int(1000 * (time.monotonic() - started)))
    Metrics.counter("simpipe", "out-items").inc(rows)
    Metrics.counter("simpipe", "out-bytes").inc(built.record["bytes"])
    return Outcome(Counts(rows, rows, 0), ({**built.record, "doubled": built.doubled},))


def _store(
    number: int, built: list[Outcome], spec: RebuildSpec, work: tuple[PartitionWork, ...], changes: ChangesInfo
) -> Outcome:
    moves = held_once("moves", (spec.work, work), lambda: moves_of(spec, work))
    record = rewrite_one(spec, _base(spec), changes, moves, number)
    return Outcome(Counts(record["rows"], record["rows"], 0), (record,))


@dataclass
class RouteDelta(beam.PTransform):
    """PBegin -> new items grouped by partition and by store file in the work folder, and the summary `route`."""

    spec: RebuildSpec

    def expand(self, input_or_inputs: PBegin) -> Any:
        return (
            input_or_inputs
            | "Files" >> beam.Create(list(range(len(self.spec.files))))
            | "Spread files" >> beam.Reshuffle()
            | "RouteFiles" >> beam.Map(_route, spec=self.spec)
            | "Routed" >> WriteSummary(str(Path(self.spec.work) / "route.json"))
        )


@dataclass
class LocateDropped(beam.PTransform):
    """PBegin -> the rows that go, by partition in the work folder, and the summary `dropped`."""

    spec: RebuildSpec
    partitions: int

    def expand(self, input_or_inputs: PBegin) -> Any:
        return (
            input_or_inputs
            | "Partitions" >> beam.Create(list(range(self.partitions)))
            | "Spread partitions" >> beam.Reshuffle()
            | "LocateDropped" >> beam.Map(_locate, spec=self.spec)
            | "Located" >> WriteSummary(str(Path(self.spec.work) / "dropped.json"))
        )


@dataclass
class RebuildTouched(beam.PTransform):
    """PBegin -> partitions, store files and digests of the new release, and the summaries `partitions` and `store`.

    Store files wait for the partitions: these tell which items moved where one was divided.
    """

    spec: RebuildSpec
    work: tuple[PartitionWork, ...]
    changes: ChangesInfo
    buckets: tuple[int, ...]

    def expand(self, input_or_inputs: PBegin) -> tuple[Any, Any]:
        spec, scratch = self.spec, Path(self.spec.work)
        built: Any = (
            input_or_inputs
            | "Partitions" >> beam.Create(list(self.work))
            | "Spread partitions" >> beam.Reshuffle()
            | "BuildPartitions" >> beam.Map(_partition, spec=spec)
        )
        stored = (
            input_or_inputs
            | "Buckets" >> beam.Create(list(self.buckets))
            | "Spread buckets" >> beam.Reshuffle()
            | "WriteStore" >> beam.Map(_store, built=AsList(built), spec=spec, work=self.work, changes=self.changes)
        )
        return (
            built | "Built" >> WriteSummary(str(scratch / "partitions.json")),
            stored | "Stored" >> WriteSummary(str(scratch / "store.json")),
        )
