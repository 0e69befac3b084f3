"""Wiring of `embed` and `import`: one shard or block an element, one Parquet file out of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, PValue

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, write_rejects
from simpipe.beam.workers import held_once
from simpipe.config.models import VectorsSource
from simpipe.data.examples import ShardInfo
from simpipe.data.vectors import VectorBlock, VectorPlan
from simpipe.embed import EmbedSpec
from simpipe.errors import ContractError
from simpipe.import_vectors import ImportSpec, import_block
from simpipe.types import Counts, Reject


@dataclass(frozen=True)
class EmbedItem:
    """One shard to embed: its path, record and split, and the Parquet file's name."""

    shard: str
    info: ShardInfo
    split: str
    out: str


def outcome(folder: Path, name: str, records: list[dict[str, Any]], counts: Counts, rejects: list[Reject]) -> Outcome:
    """Writes the item's rejects, counts it, and makes its outcome."""
    write_rejects(folder, name, rejects)
    Metrics.counter("simpipe", "in-items").inc(counts.read)
    Metrics.counter("simpipe", "out-items").inc(counts.written)
    Metrics.counter("simpipe", "rejected").inc(counts.rejected)
    Metrics.counter("simpipe", "out-bytes").inc(sum(record.get("size", 0) for record in records))
    return Outcome(counts, tuple(records), tuple(rejects[:SHOWN_REJECTS]))


class _EmbedShardFn(beam.DoFn):
    """Loads the encoder once a worker; TensorFlow is imported there and nowhere else."""

    def __init__(self, spec: EmbedSpec, encoder: str, folder: str) -> None:
        self._spec = spec
        self._encoder = encoder
        self._folder = folder

    def process(self, element: EmbedItem) -> Iterator[Outcome]:
        from simpipe.embed import embed_shard, encode_function
        from simpipe.training.encoder import load_model

        spec = self._spec
        encode = held_once("encoder", (self._encoder, spec), lambda: encode_function(load_model(Path(self._encoder))[0], spec))
        folder = Path(self._folder)
        note = folder / ".work" / f"{element.out}.json"
        saved = finished(note, folder)
        if saved is None:
            started = time.monotonic()
            files.verify(Path(element.shard), files.FileEntry(element.info.path, element.info.size, element.info.sha256))
            counts, rejects = embed_shard(encode, Path(element.shard), element.info, spec, out=folder / element.out)
            Metrics.distribution("simpipe", "embed-msec").update(int(1000 * (time.monotonic() - started)))
            entry = files.entry_of(folder / element.out, folder).to_json()
            saved = {"entry": entry, "counts": asdict(counts), "rejects": [asdict(reject) for reject in rejects]}
            files.write_json(note, saved)
        counts, rejects = Counts(**saved["counts"]), [Reject(**reject) for reject in saved["rejects"]]
        record = {**saved["entry"], "split": element.split, "rows": counts.written}
        yield outcome(folder, element.out, [record], counts, rejects)


def finished(note: Path, folder: Path) -> dict[str, Any] | None:
    """What an interrupted run noted of a shard that it had finished, if the file is still as it was then."""
    try:
        saved = files.read_json(note)
        entry = files.FileEntry.from_json(saved["entry"])
        files.verify(files.inside(folder, entry.path), entry)
    except ContractError:
        return None
    return saved


@dataclass
class EmbedShards(beam.PTransform):
    """PCollection[EmbedItem] -> PCollection[Outcome]; see `simpipe.embed.embed_shard`."""

    spec: EmbedSpec
    encoder: str
    folder: str

    def expand(self, input_or_inputs: PCollection[EmbedItem]) -> PValue:
        return (
            input_or_inputs
            | "Spread" >> beam.Reshuffle()
            | "Embed" >> beam.ParDo(_EmbedShardFn(self.spec, self.encoder, self.folder))
        )


def _import(block: VectorBlock, source: VectorsSource, plan: VectorPlan, spec: ImportSpec, folder: str) -> Outcome:
    records, counts, rejects = import_block(source, plan, block, spec, Path(folder))
    return outcome(Path(folder), f"block-{block.number:05d}", records, counts, rejects)


@dataclass
class ImportBlocks(beam.PTransform):
    """PCollection[VectorBlock] -> PCollection[Outcome]; see `simpipe.import_vectors.import_block`."""

    source: VectorsSource
    plan: VectorPlan
    spec: ImportSpec
    folder: str

    def expand(self, input_or_inputs: PCollection[VectorBlock]) -> PValue:
        return (
            input_or_inputs
            | "Spread" >> beam.Reshuffle()
            | "Import" >> beam.Map(_import, source=self.source, plan=self.plan, spec=self.spec, folder=self.folder)
        )
