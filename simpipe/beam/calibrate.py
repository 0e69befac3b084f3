"""Wiring of calibration: answered blocks are counted where they are made, and counts merge in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection, PValue

from simpipe import files
from simpipe.beam.metrics import count, timed
from simpipe.beam.workers import held_once
from simpipe.calibration.counts import LABEL, Accumulator, CalibrationCounts, CountSpec, count_answer
from simpipe.index.answers import Answer


class MergeCounts(beam.CombineFn):
    """Merges `CalibrationCounts`; the result does not depend on bundles or their order."""

    def __init__(self, max_distinct: int) -> None:
        self._max_distinct = max_distinct

    def create_accumulator(self) -> Accumulator:
        return Accumulator(self._max_distinct)

    def add_input(self, mutable_accumulator: Accumulator, element: CalibrationCounts) -> Accumulator:
        return mutable_accumulator.add([element])

    def merge_accumulators(self, accumulators: Iterable[Accumulator]) -> Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.add([accumulator.result()])
        return merged

    def compact(self, accumulator: Accumulator) -> Accumulator:
        accumulator.result()
        return accumulator

    def extract_output(self, accumulator: Accumulator) -> CalibrationCounts:
        return accumulator.result()


def write_labels(labels: pa.Array | pa.ChunkedArray, path: Path) -> None:
    """The labels of the index for the workers: they read them once, and no job carries them."""
    with files.replacing(path) as temporary:
        pq.write_table(pa.table({LABEL: labels}), temporary)


def _read_labels(path: str) -> pa.Array:
    return pq.read_table(files.located(path), columns=[LABEL]).column(LABEL).combine_chunks()


def _count(answer: Answer, spec: CountSpec, labels: str) -> CalibrationCounts:
    known = held_once("index labels", labels, lambda: _read_labels(labels))
    with timed("calibrate-msec"):
        counts = count_answer(answer, spec, known)
    count("labelled", counts.labelled)
    count("open-set", counts.open_set)
    return counts


def _write(counts: CalibrationCounts, path: str) -> None:
    counts.save(files.located(path))


@dataclass
class CollectCalibration(beam.PTransform):
    """PCollection[Answer] -> `CalibrationCounts` over all of them, written to `path`.

    Args:
      spec: what is counted. labels: file of the labels that indexed items carry, see `write_labels`.
      path: of the result, read by `CalibrationCounts.load`.
    """

    spec: CountSpec
    labels: str
    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return (
            input_or_inputs
            | "CountPairs" >> beam.Map(_count, spec=self.spec, labels=self.labels)
            | "MergeCounts" >> beam.CombineGlobally(MergeCounts(self.spec.max_distinct))
            | "WriteCounts" >> beam.Map(_write, path=self.path)
        )
