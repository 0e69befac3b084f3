"""Wiring of jobs over all queries: partitions search, blocks merge, small sums come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection, PValue

from simpipe import files
from simpipe.beam.io import Outcome, WriteSummary
from simpipe.beam.workers import held_once
from simpipe.calibration import PairCounts
from simpipe.errors import ContractError
from simpipe.evaluators import EvaluationSums, evaluate_block
from simpipe.index.query import Answer, Partial, QuerySpec, merge_partials, search_partition
from simpipe.index.searcher import Searcher, open_release
from simpipe.matchers import match_labels
from simpipe.types import Counts

Key = tuple[int, int]


def _search(number: int, spec: QuerySpec) -> Iterator[tuple[Key, Partial]]:
    # The searcher holds one partition at a time here: a worker's memory is that of the partition it works on.
    searcher: Searcher = held_once("searcher", (spec.release, number), lambda: open_release(spec.release))
    yield from search_partition(searcher, spec, number)
    if spec.work:
        (Path(spec.work) / f"partition-{number:05d}.done").touch()


def _merge(element: tuple[Key, Iterable[Partial]], spec: QuerySpec) -> Answer:
    key, partials = element
    answer = merge_partials(spec, key, partials)
    Metrics.counter("simpipe", "in-items").inc(len(answer.ids))
    return answer


@dataclass
class QueryRelease(beam.PTransform):
    """PBegin -> PCollection[Answer], one a query block; see `simpipe.index.query`.

    Args:
      spec: the job. partitions: numbers of the partitions that hold items.
    """

    spec: QuerySpec
    partitions: tuple[int, ...]

    def expand(self, input_or_inputs: PBegin) -> PValue:
        return (
            input_or_inputs
            | "Partitions" >> beam.Create(list(self.partitions))
            | "Spread" >> beam.Reshuffle()
            | "SearchPartitions" >> beam.FlatMap(_search, spec=self.spec)
            | "GroupByBlock" >> beam.GroupByKey()
            | "MergeBlocks" >> beam.Map(_merge, spec=self.spec)
        )


@dataclass
class CountAnswers(beam.PTransform):
    """PCollection[Answer] -> the number of answered queries, as a summary at `path`."""

    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return input_or_inputs | "Count" >> beam.Map(_count) | "Summary" >> WriteSummary(self.path)


def _count(answer: Answer) -> Outcome:
    return Outcome(Counts(len(answer.ids), len(answer.ids), 0))


class _Sum(beam.CombineFn):
    """Adds mergeable values."""

    def __init__(self, zero: Callable[[], Any], add: Callable[[list[Any]], Any]) -> None:
        self._zero = zero
        self._add = add

    def create_accumulator(self) -> Any:
        return self._zero()

    def add_input(self, mutable_accumulator: Any, element: Any) -> Any:
        return self._add([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        return self._add(list(accumulators))

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator


def _no_pairs() -> PairCounts:
    return PairCounts.merge([])


def _pairs(answer: Answer, matcher: str) -> PairCounts:
    labelled = np.flatnonzero(answer.labels != None)  # noqa: E711  element by element
    labels, distances = match_labels(answer.found.take(labelled), matcher)
    return PairCounts.of(distances, labels == answer.labels[labelled])


def _write_pairs(pairs: PairCounts, path: str) -> None:
    with files.replacing(Path(path)) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, distances=pairs.distances, hits=pairs.hits, total=pairs.total, unmatched=pairs.unmatched)


def read_pairs(path: Path) -> PairCounts:
    with np.load(path, allow_pickle=False) as data:
        return PairCounts(data["distances"], data["hits"], data["total"], int(data["unmatched"]))


@dataclass
class CollectPairs(beam.PTransform):
    """PCollection[Answer] -> counts of (distance, hit) over all labelled queries, written to `path`."""

    matcher: str
    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return (
            input_or_inputs
            | "Match" >> beam.Map(_pairs, matcher=self.matcher)
            | "MergePairs" >> beam.CombineGlobally(_Sum(_no_pairs, PairCounts.merge))
            | "WritePairs" >> beam.Map(_write_pairs, path=self.path)
        )


def _add_sums(parts: list[EvaluationSums]) -> EvaluationSums:
    total = EvaluationSums()
    for part in parts:
        total = total + part
    return total


def _evaluate(answer: Answer, k: int, recall_at: tuple[int, ...], counts: Mapping[str, int], calibration: Any) -> EvaluationSums:
    if answer.exact is None:
        raise ContractError("evaluation needs exact neighbors beside those found", "ask with QuerySpec(exact=True)")
    return evaluate_block(
        answer.labels,
        answer.found,
        answer.exact,
        k=k,
        recall_at=recall_at,
        items_of_label=counts,
        calibration=calibration,
    )


def _write_sums(sums: EvaluationSums, path: str) -> None:
    rows = [[true, matched, count] for (true, matched), count in sums.confusion.items()]
    about = {"queries": sums.queries, "labelled": sums.labelled, "metrics": sums.metrics()}
    files.write_json(Path(path), {**about, "confusion": sorted(rows, key=lambda row: (row[0], row[1] is None, row[1] or ""))})


@dataclass
class CollectMetrics(beam.PTransform):
    """PCollection[Answer] -> evaluation sums over all queries, written as JSON to `path`."""

    k: int
    recall_at: tuple[int, ...]
    items_of_label: dict[str, int]
    calibration: dict[str, Any]
    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return (
            input_or_inputs
            | "Evaluate"
            >> beam.Map(_evaluate, k=self.k, recall_at=self.recall_at, counts=self.items_of_label, calibration=self.calibration)
            | "MergeSums" >> beam.CombineGlobally(_Sum(EvaluationSums, _add_sums))
            | "WriteSums" >> beam.Map(_write_sums, path=self.path)
        )
