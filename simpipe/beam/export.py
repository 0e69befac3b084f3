"""Wiring of `export`: one element a store file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.metrics import count, count_read, timed
from simpipe.beam.workers import held_once
from simpipe.exports.contract import Kind, contents_of
from simpipe.exports.unit import target_of, write_unit
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest

WORK = ".work"  # of an export, until it is complete
SUMMARY_JSON = "items.json"


@dataclass(frozen=True)
class ExportSpec:
    """Everything a worker needs; small, travels with each element. `base`: folder of the release. `folder`: of the export."""

    base: str
    folder: str
    kind: Kind
    store_files: int


def _export(number: int, spec: ExportSpec) -> Outcome:
    source, folder = files.located(spec.base), files.located(spec.folder)
    base = held_once("exported", spec.base, lambda: Searcher(source, Manifest.load(source)))
    target = target_of(spec.kind)
    with timed("export-msec"):
        done = write_unit(base, number, folder, target, target.plan(contents_of(base)))
    write_rejects(folder / WORK, f"{number:05d}", done.rejects)
    count_read(done.counts)
    count("out-items", done.counts.written)
    count("out-bytes", sum(record["size"] for record in done.records))
    return Outcome(done.counts, done.records, done.rejects[:SHOWN_REJECTS])


@dataclass
class ExportItems(beam.PTransform):
    """PBegin -> files of a target, and a summary in the work folder."""

    spec: ExportSpec

    def expand(self, input_or_inputs: PBegin) -> Any:
        return (
            input_or_inputs
            | "Store files" >> beam.Create(list(range(self.spec.store_files)))
            | "Spread store files" >> beam.Reshuffle()
            | "ExportItems" >> beam.Map(_export, spec=self.spec)
            | "Exported" >> WriteSummary(str(files.located(self.spec.folder) / WORK / SUMMARY_JSON))
        )
