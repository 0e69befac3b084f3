"""Wiring of `unload`: one element a store file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin

from simpipe import files
from simpipe.beam.io import Outcome, WriteSummary
from simpipe.beam.metrics import count, count_read, timed
from simpipe.beam.workers import held_once
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.unload import dropped_ids, unload_bucket
from simpipe.types import Counts


@dataclass(frozen=True)
class UnloadSpec:
    """Everything a worker needs; small, travels with each element.

    Attributes:
      base: folder of the release. names: of the files to write, one a store file. folder: where they go.
      delta, changes: items that are left out; None: none.
    """

    base: str
    folder: str
    names: tuple[str, ...]
    delta: str | None
    changes: ChangesInfo | None


def _unload(number: int, spec: UnloadSpec) -> Outcome:
    source, folder = files.located(spec.base), files.located(spec.folder)
    base = held_once("unloaded", spec.base, lambda: Searcher(source, Manifest.load(source)))
    dropped = None
    if spec.delta is not None and spec.changes is not None:
        dropped = dropped_ids(files.located(spec.delta), spec.changes, number)
    path = folder / spec.names[number]
    with timed("unload-msec"):
        read, left_out = unload_bucket(base, number, path, dropped=dropped)
    counts = Counts(read, read - left_out, 0, left_out)
    record = {**files.entry_of(path, folder).to_json(), "split": "index", "rows": read - left_out}
    count_read(counts)
    count("out-items", counts.written)
    count("out-bytes", record["size"])
    return Outcome(counts, (record,))


@dataclass
class UnloadItems(beam.PTransform):
    """PBegin -> embeddings files of the items of a release, and the summary `unload` in the work folder."""

    spec: UnloadSpec

    def expand(self, input_or_inputs: PBegin) -> Any:
        return (
            input_or_inputs
            | "Store files" >> beam.Create(list(range(len(self.spec.names))))
            | "Spread store files" >> beam.Reshuffle()
            | "UnloadItems" >> beam.Map(_unload, spec=self.spec)
            | "Unloaded" >> WriteSummary(str(files.located(self.spec.folder) / ".work" / "unload.json"))
        )
