"""Wiring of `dedupe`: answers become files of pairs; steps on buckets are spread over workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection, PValue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from simpipe import files
from simpipe.beam.io import Outcome, WriteSummary
from simpipe.beam.metrics import count, timed
from simpipe.dedupe import near_pairs, write_pairs
from simpipe.index.answers import Answer
from simpipe.types import Counts

_FILE_PAIRS = 1 << 20


class _WritePairs(beam.DoFn):
    """Gathers pairs to files of some size. A bundle that is tried again writes others; only those that it reports count."""

    def __init__(self, cutoff: float, folder: str) -> None:
        self._cutoff, self._folder = cutoff, folder

    def start_bundle(self) -> None:
        self._tables: list[pa.Table] = []
        self._truncated = self._rows = self._read = 0

    def process(self, element: Answer) -> Iterator[Outcome]:
        with timed("dedupe-msec"):
            found = near_pairs(element, self._cutoff)
        self._tables.append(found.pairs)
        self._rows += len(found.pairs)
        self._read += len(element)
        self._truncated += found.truncated
        if self._rows >= _FILE_PAIRS:
            yield self._flush()

    def finish_bundle(self) -> Any:
        if self._tables:
            window = GlobalWindow()
            yield WindowedValue(self._flush(), window.max_timestamp(), (window,))

    def _flush(self) -> Outcome:
        path = files.located(self._folder) / f"pairs-{secrets.token_hex(8)}.arrow"
        if self._rows:
            write_pairs(path, self._tables)
            count("work-bytes", path.stat().st_size)
        count("pairs", self._rows)
        record = {"path": path.name, "pairs": self._rows, "truncated": self._truncated}
        counts = Counts(self._read, self._read)
        self.start_bundle()
        return Outcome(counts, (record,))


@dataclass
class CollectEdges(beam.PTransform):
    """PCollection[Answer] -> files of near pairs in `folder`, and their summary at `path`.

    Attributes:
      cutoff: a distance. folder: for the files.
      path: of the summary: counts of items, and a record a file.
    """

    cutoff: float
    folder: str
    path: str

    def expand(self, input_or_inputs: PCollection[Answer]) -> PValue:
        return (
            input_or_inputs
            | "NearPairs" >> beam.ParDo(_WritePairs(self.cutoff, self.folder))
            | "Summary" >> WriteSummary(self.path)
        )


@dataclass
class RunBuckets(beam.PTransform):
    """PBegin -> a step run for each bucket, and a summary at `path`: one record a bucket with its `value`."""

    step: Callable[[int], int]
    buckets: int
    path: str

    def expand(self, input_or_inputs: PBegin) -> PValue:
        return (
            input_or_inputs
            | "Buckets" >> beam.Create(list(range(self.buckets)))
            | "Spread" >> beam.Reshuffle()
            | "Step" >> beam.Map(_bucket, step=self.step)
            | "Summary" >> WriteSummary(self.path)
        )


def _bucket(number: int, step: Any) -> Outcome:
    with timed("dedupe-msec"):
        value = step(number)
    count("buckets", 1)
    return Outcome(Counts(1, 1, 0), ({"path": f"{number:06d}", "value": value},))
