"""Wiring of `embed` and `import`: one shard or block an element, one Parquet file out of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection, PValue

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, write_rejects
from simpipe.beam.metrics import count, count_read, timed
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
    excluded = sum(record.get("excluded", 0) for record in records)
    # Blocks of ready-made vectors leave excluded rows out of their counts.
    count_read(Counts(counts.read + excluded - counts.excluded, counts.written, counts.rejected, excluded))
    count("out-items", counts.written)
    count("out-bytes", sum(record.get("size", 0) for record in records))
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
        encode = held_once(
            "encoder", (self._encoder, spec), lambda: encode_function(load_model(files.located(self._encoder))[0], spec)
        )
        folder = files.located(self._folder)
        note = folder / ".work" / f"{element.out}.json"
        saved = finished(note, folder)
        if saved is None:
            shard = files.located(element.shard)
            with timed("embed-msec"):
                files.verify(shard, files.FileEntry(element.info.path, element.info.size, element.info.sha256))
                counts, rejects = embed_shard(encode, shard, element.info, spec, out=folder / element.out)
            entry = files.entry_of(folder / element.out, folder).to_json()
            saved = {"entry": entry, "counts": asdict(counts), "rejects": [asdict(reject) for reject in rejects]}
            files.write_json(note, saved)
        count("in-bytes", element.info.size)
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
    with timed("import-msec"):
        records, counts, rejects = import_block(source, plan, block, spec, files.located(folder))
    count("in-bytes", 4 * plan.dim * block.rows)
    return outcome(files.located(folder), f"block-{block.number:05d}", records, counts, rejects)


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
