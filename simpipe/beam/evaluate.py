"""Wiring of `evaluate`: answers become sums, and sums one set of files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection, PValue

from simpipe import files
from simpipe.beam.metrics import count, timed
from simpipe.beam.workers import held_once
from simpipe.evaluators import EvaluationRules, EvaluationSums, LabelItems, evaluate_block
from simpipe.index.answers import Answer

_LEAST_ROWS, _MOST_PARTS = 1 << 16, 256  # that are merged at once


def _evaluate(answer: Answer, rules: EvaluationRules, items: str) -> EvaluationSums:
    known = held_once("label-items", items, lambda: LabelItems.load(items))
    with timed("evaluate-msec"):
        sums = evaluate_block(answer, known, rules)
    count("labelled", sums.labelled)
    count("open-set", sums.open_set)
    count("exact-queries", sums.exact_queries)
    return sums


class MergeSums(beam.CombineFn):
    """Merges sums. They are kept until their tables are as long as those merged before: the cost a block stays the same."""

    def __init__(self, rules: EvaluationRules) -> None:
        self._rules = rules

    def create_accumulator(self) -> list[EvaluationSums]:
        return []

    def add_input(self, mutable_accumulator: list[EvaluationSums], element: EvaluationSums) -> list[EvaluationSums]:
        return _merged([*mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[list[EvaluationSums]]) -> list[EvaluationSums]:
        return _merged([part for parts in accumulators for part in parts])

    def compact(self, accumulator: list[EvaluationSums]) -> list[EvaluationSums]:
        return [EvaluationSums.merge(accumulator)] if accumulator else []

    def extract_output(self, accumulator: list[EvaluationSums]) -> EvaluationSums:
        return EvaluationSums.merge(accumulator) if accumulator else EvaluationSums.empty(self._rules)


def _merged(parts: list[EvaluationSums]) -> list[EvaluationSums]:
    if len(parts) > 1 and (len(parts) > _MOST_PARTS or sum(part.rows for part in parts[1:]) > max(_LEAST_ROWS, parts[0].rows)):
        return [EvaluationSums.merge(parts)]
    return parts


def _save(sums: EvaluationSums, folder: str) -> None:
    sums.save(files.located(folder))


@dataclass
class CollectMetrics(beam.PTransform):
    """PCollection[Answer] -> evaluation sums over all queries, written to `folder`; see `EvaluationSums.save`.

    Attributes:
      rules: what is measured. items: a file of indexed items a label, see `LabelItems.save`. folder: that all workers see.
    """

    rules: EvaluationRules
    items: str
    folder: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return (
            input_or_inputs
            | "Evaluate" >> beam.Map(_evaluate, rules=self.rules, items=self.items)
            | "MergeSums" >> beam.CombineGlobally(MergeSums(self.rules))
            | "WriteSums" >> beam.Map(_save, folder=self.folder)
        )
