"""Wiring of a rebuild: find what goes and route what comes; then build the partitions and store files that are touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PBegin

from simpipe import files
from simpipe.beam.build import hinted
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.metrics import count, count_read, timed
from simpipe.beam.workers import held_once
from simpipe.index.blas import blas_threads
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.rebuild_work import WORK_ROUTER, RebuildSpec, locate_dropped, moves_of, rebuild_one, rewrite_one, route_delta
from simpipe.types import Counts

FOUND_JSON = "found.json"
BUILT_JSON = "built.json"


def _base(spec: RebuildSpec) -> Searcher:
    return held_once("base", (spec.base, spec.folder), spec.open_base)


def _router(spec: RebuildSpec) -> Router:
    written = (files.located(spec.work) / WORK_ROUTER).stat().st_mtime_ns  # another one where partitions are split or merged
    return held_once("router", (spec.work, written), spec.router)


def _route(number: int, spec: RebuildSpec) -> Outcome:
    with blas_threads(1), timed("route-msec"):
        found = route_delta(spec, _router(spec), number)
    name = f"route-{number:05d}"
    if isinstance(found, str):
        return Outcome(records=({"path": name, "unknown": found},))
    write_rejects(files.located(spec.folder), name, found.rejects)
    counts = found.counts
    count_read(counts)
    count("out-items", counts.written)
    count("in-bytes", spec.files[number].size)
    count("copies", found.copies)
    record = {"path": name, "rows": counts.written, "copies": found.copies}
    return Outcome(counts, (record,), tuple(found.rejects[:SHOWN_REJECTS]))


def _locate(number: int, spec: RebuildSpec) -> Outcome:
    base = _base(spec)
    with timed("locate-msec"):
        rows = locate_dropped(spec, base, number)
    count("dropped", rows)
    return Outcome(records=({"path": f"dropped-{number:05d}", "dropped": rows, "partition": number},) if rows else ())


def _partition(work: PartitionWork, spec: RebuildSpec) -> Outcome:
    with blas_threads(1), timed("build-msec"):
        built = rebuild_one(spec, _base(spec), _router(spec), work)
    count("index-items", built.record["rows"])
    count("out-bytes", built.record["bytes"])
    return Outcome(records=({**built.record, "doubled": built.doubled},))


def _store(
    number: int, built: list[Outcome], spec: RebuildSpec, work: tuple[PartitionWork, ...], changes: ChangesInfo
) -> Outcome:
    moves = held_once("moves", (spec.work, work), lambda: moves_of(spec, work))
    with timed("store-msec"):
        record = rewrite_one(spec, _base(spec), changes, moves, number)
    count_read(Counts(record["rows"] + record["dropped"], record["rows"], 0, record["dropped"]))
    count("out-items", record["rows"])
    count("duplicates", len(record["duplicates"]))
    count("out-bytes", sum(entry["size"] for entry in record["files"]))
    return Outcome(records=(record,))


@dataclass
class FindChanges(beam.PTransform):
    """PBegin -> what comes and what goes, in the work folder, and its summary `found`, whose counts are of what comes.

    New items are grouped by partition and by store file, rows that go by partition. One summary a graph: building graphs is
    most of what a small re-index takes.

    Attributes:
      partitions: of the base, to be searched for what goes; 0: only routes (again, with another router).
    """

    spec: RebuildSpec
    partitions: int

    def expand(self, input_or_inputs: PBegin) -> Any:
        spec, found = self.spec, []
        if spec.files:
            found.append(
                input_or_inputs
                | "Files" >> beam.Create(list(range(len(spec.files))))
                | "Spread files" >> beam.Reshuffle()
                | "RouteFiles" >> beam.Map(_route, spec=spec)
            )
        if self.partitions:
            found.append(
                input_or_inputs
                | "Partitions" >> beam.Create(list(range(self.partitions)))
                | "Spread partitions" >> beam.Reshuffle()
                | "LocateDropped" >> beam.Map(_locate, spec=spec)
            )
        return _together(found, input_or_inputs) | "Found" >> WriteSummary(str(files.located(spec.work) / FOUND_JSON))


@dataclass
class RebuildTouched(beam.PTransform):
    """PBegin -> partitions, store files and digests of the new release, and the summary `built`.

    Store files wait for the partitions: these tell which items moved where one was divided.

    Attributes:
      hints: as of `BuildRelease`.
    """

    spec: RebuildSpec
    work: tuple[PartitionWork, ...]
    changes: ChangesInfo
    buckets: tuple[int, ...]
    hints: Mapping[str, Any] = field(default_factory=dict)

    def expand(self, input_or_inputs: PBegin) -> Any:
        spec = self.spec
        built: Any = (
            input_or_inputs
            | "Partitions" >> beam.Create(list(self.work))
            | "Spread partitions" >> beam.Reshuffle()
            | "BuildPartitions" >> hinted(beam.Map(_partition, spec=spec), self.hints)
        )
        stored: Any = (
            input_or_inputs
            | "Buckets" >> beam.Create(list(self.buckets))
            | "Spread buckets" >> beam.Reshuffle()
            | "WriteStore" >> beam.Map(_store, built=AsList(built), spec=spec, work=self.work, changes=self.changes)
        )
        return _together([built, stored], input_or_inputs) | "Built" >> WriteSummary(str(files.located(spec.work) / BUILT_JSON))


def _together(outcomes: list[Any], begin: PBegin) -> Any:
    if len(outcomes) == 1:
        return outcomes[0]
    return tuple(outcomes) | "Together" >> beam.Flatten(pipeline=begin.pipeline)
