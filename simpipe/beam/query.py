"""Wiring of jobs over all queries: files are prepared and routed, partitions search, chunks merge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PBegin, PCollection, PValue

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.metrics import count, count_read, timed
from simpipe.beam.workers import held_once
from simpipe.index.answers import Answer
from simpipe.index.query import QueryPlan, QuerySpec, Search, mark, open_for, plan_job
from simpipe.index.query_merge import merge_chunk
from simpipe.index.query_prepare import prepare_source
from simpipe.index.query_search import search_partition
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.query_answers import AnswerTable, part_path, write_answers
from simpipe.query_files import Source
from simpipe.types import Counts

PREPARED_JSON = "prepared.json"
ANSWERED_JSON = "answered.json"


def _searcher(spec: QuerySpec) -> Searcher:
    return held_once("searcher", (spec.release, spec.work), lambda: open_for(spec))


def _prepare(source: Source, spec: QuerySpec) -> Outcome:
    searcher = _searcher(spec)
    with timed("route-msec"):
        counts, rejects = prepare_source(searcher, spec, source)
    count_read(counts)
    count("in-bytes", 4 * searcher.dim * counts.read)
    name = f"queries-{source.number:05d}"
    write_rejects(files.located(spec.work), name, rejects)
    mark(spec, name)
    record = {"path": name, "rows": counts.written}
    return Outcome(counts, (record,), tuple(rejects[:SHOWN_REJECTS]))


def _search(search: Search, prepared: list[Outcome], spec: QuerySpec) -> int:
    searcher = _searcher(spec)
    with timed("search-msec"):
        asked = search_partition(searcher, spec, search)
    mark(spec, search.name)
    return asked


def _merge(chunk: int, searched: list[int], spec: QuerySpec) -> Iterator[Answer]:
    for answer in merge_chunk(_searcher(spec), spec, chunk):
        count("out-items", len(answer))
        yield answer
    mark(spec, f"merge-{chunk:05d}")


@dataclass
class QueryRelease(beam.PTransform):
    """PBegin -> PCollection[Answer], one a query block, in any order; see `simpipe.index.query`.

    What was read and rejected goes to `prepared.json` in the work folder, rejected queries one by one to `rejects/` there.

    Args:
      spec: the job; `work` names a folder that all workers see.
      partitions: numbers of the partitions that hold items. plan: of the job, where it was made already.
    """

    spec: QuerySpec
    partitions: tuple[int, ...]
    plan: QueryPlan | None = None

    def expand(self, input_or_inputs: PBegin) -> PValue:
        chunks, searched = _searched(input_or_inputs, self.spec, self.plan or _plan(self.spec, self.partitions))
        return chunks | "MergeBlocks" >> beam.FlatMap(_merge, searched=AsList(searched), spec=self.spec)


def _plan(spec: QuerySpec, partitions: tuple[int, ...]) -> QueryPlan:
    return plan_job(spec, partitions, dim=Manifest.load(files.located(spec.release)).dim)


def _searched(begin: PBegin, spec: QuerySpec, plan: QueryPlan) -> tuple[Any, Any]:
    """Numbers of chunks, and what merging them waits for."""
    prepared: Any = (
        begin
        | "Sources" >> beam.Create(list(plan.sources))
        | "Spread sources" >> beam.Reshuffle()
        | "PrepareQueries" >> beam.Map(_prepare, spec=spec)
    )
    _ = prepared | "Prepared" >> WriteSummary(str(files.located(spec.work) / PREPARED_JSON))
    searched: Any = (
        begin
        | "Searches" >> beam.Create(list(plan.searches))
        | "Spread searches" >> beam.Reshuffle()
        | "SearchPartitions" >> beam.Map(_search, prepared=AsList(prepared), spec=spec)
    )
    chunks: Any = begin | "Chunks" >> beam.Create(list(range(plan.chunks))) | "Spread chunks" >> beam.Reshuffle()
    return chunks, searched


@dataclass
class AnswerFiles(beam.PTransform):
    """PBegin -> a file of answers a chunk in the work folder, and the number of answered queries at `answered.json`.

    Args:
      spec, partitions, plan: see `QueryRelease`. table: what is written of each answer.
    """

    spec: QuerySpec
    partitions: tuple[int, ...]
    plan: QueryPlan
    table: AnswerTable

    def expand(self, input_or_inputs: PBegin) -> PValue:
        chunks, searched = _searched(input_or_inputs, self.spec, self.plan)
        return (
            chunks
            | "MergeAndWrite" >> beam.Map(_write, searched=AsList(searched), spec=self.spec, table=self.table)
            | "Answered" >> WriteSummary(str(files.located(self.spec.work) / ANSWERED_JSON))
        )


def _write(chunk: int, searched: list[int], spec: QuerySpec, table: AnswerTable) -> Outcome:
    path = part_path(files.located(spec.work), chunk)
    counts = write_answers(_searcher(spec), _merge(chunk, searched, spec), table, path)
    count("out-bytes", path.stat().st_size)
    return Outcome(counts, ({"path": path.name},))


@dataclass
class CountAnswers(beam.PTransform):
    """PCollection[Answer] -> the number of answered queries, as a summary at `path`."""

    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return input_or_inputs | "Count" >> beam.Map(_count) | "Summary" >> WriteSummary(self.path)


def _count(answer: Answer) -> Outcome:
    return Outcome(Counts(len(answer), len(answer), 0))
