"""Wiring of finding changes: units scattered by bucket and joined with the base; then the wanted rows of each unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PBegin, PCollection, PValue

from simpipe import files
from simpipe.beam.embed import finished, outcome
from simpipe.beam.io import Outcome, WriteSummary
from simpipe.beam.metrics import Counter, count, timed
from simpipe.beam.workers import held_once
from simpipe.reindex.detect import ChangesPlan, join_bucket, scatter_dropped, scatter_old_queries, scatter_vectors, wanted_rows
from simpipe.reindex.embed_changes import Part, contents_function, copy_part, import_part, scatter_shard
from simpipe.reindex.units import ExampleUnits, Units, VectorUnits
from simpipe.types import Counts, Reject

_KINDS: tuple[Counter, ...] = ("added", "changed", "deleted", "unchanged")
_SHOWN_DUPLICATES = 5  # of a bucket


def _scan(number: int, units: VectorUnits | ExampleUnits, plan: ChangesPlan) -> Outcome:
    name = f"scan-{number:05d}"
    if isinstance(units, VectorUnits):
        block = units.plan.blocks[number]
        with timed("scan-msec"):
            content = scatter_vectors(units.source, units.plan, block, units.spec, plan)
        count("in-bytes", 4 * units.plan.dim * block.rows)
        counts = Counts(block.rows - content.excluded, len(content.table), len(content.rejects))
        record = {"path": name, "unit": number, "labels": content.labels, "excluded": content.excluded}
        return outcome(files.located(plan.folder), name, [record], counts, content.rejects)
    unit, info = units.shards[number], units.spec.info
    files.verify(files.located(unit.path), files.FileEntry(unit.info.path, unit.info.size, unit.info.sha256))
    parse = held_once("contents", (info.input, tuple(info.metadata.items())), lambda: contents_function(info))
    with timed("scan-msec"):
        counts = scatter_shard(parse, unit, number, info, plan, units.classes)
    count("in-bytes", unit.info.size)
    return outcome(files.located(plan.folder), name, [{"path": name, "unit": number, "excluded": counts.excluded}], counts, [])


def _scatter(work: tuple[str, int], units: Units, plan: ChangesPlan) -> Outcome:
    """Writes one grouped file: of a unit of the source, of old queries, or of ids to drop."""
    kind, number = work
    if kind == "scan" and units is not None:
        return _scan(number, units, plan)
    scatter_old_queries(plan, number) if kind == "old" else scatter_dropped(plan, number)
    return Outcome()


def _join(number: int, scattered: list[Outcome], plan: ChangesPlan) -> Outcome:
    with timed("compare-msec"):
        record, duplicates = join_bucket(plan, number)
    count("duplicates", len(duplicates))
    count("out-bytes", record.get("size", 0))
    found = record.get("items", {})  # nothing was compared where an id came twice
    for kind in _KINDS:
        count(kind, found.get(kind, 0))
    shown = [[reject.id, reject.reason] for reject in duplicates[:_SHOWN_DUPLICATES]]
    return Outcome(records=({**record, "duplicates": len(duplicates), "shown": shown},))


@dataclass
class FindChanges(beam.PTransform):
    """PBegin -> files of changes and a summary `find` in the work folder; see `simpipe.reindex.detect`.

    The summary's counts are those of the scan; it has a record of each unit (`unit`) and of each bucket.
    """

    units: Units
    plan: ChangesPlan

    def expand(self, input_or_inputs: PBegin) -> PValue:
        plan, begin = self.plan, input_or_inputs
        counts = {"scan": len(plan.units), "old": len(plan.old_queries), "drop": len(plan.dropped)}
        work = [(kind, number) for kind, count in counts.items() for number in range(count)]
        scattered: Any = (
            begin
            | "Work" >> beam.Create(work)
            | "Spread work" >> beam.Reshuffle()
            | "Scatter" >> beam.Map(_scatter, units=self.units, plan=plan)
        )
        joined = (
            begin
            | "Buckets" >> beam.Create(list(range(plan.buckets)))
            | "Spread buckets" >> beam.Reshuffle()
            | "Join" >> beam.Map(_join, scattered=AsList(scattered), plan=plan)
        )
        outcomes: Any = (scattered, joined) | "All" >> beam.Flatten()
        # One summary: what a graph costs to build grows with its transforms.
        return outcomes | "Found" >> WriteSummary(str(files.located(plan.work) / "find.json"))


def _embed(part: Part, units: Units, plan: ChangesPlan) -> Iterator[Outcome]:
    folder = files.located(plan.folder)
    if part.group >= len(plan.units):
        yield _written(folder, copy_part(part, plan))
    elif isinstance(units, VectorUnits):
        block = units.plan.blocks[part.group]
        with timed("import-msec"):
            records = import_part(part, units.source, units.plan, block, units.spec, plan)
        yield _written(folder, records)
    elif units is not None:
        yield _embed_shard(part, units, plan)


def _written(folder: Path, records: list[dict[str, Any]]) -> Outcome:
    rows = sum(record["rows"] for record in records)
    return outcome(folder, records[0]["path"], records, Counts(rows, rows), [])


def _embed_shard(part: Part, units: ExampleUnits, plan: ChangesPlan) -> Outcome:
    """The wanted records of a shard through the encoder; what an interrupted run had finished is kept."""
    from simpipe.embed import embed_shard, encode_function
    from simpipe.training.encoder import load_model

    folder, spec, unit = files.located(plan.folder), units.spec, units.shards[part.group]
    out = part.index_file or part.query_file
    assert out is not None
    wanted = wanted_rows(plan, part.group)
    rows = wanted.column("row").to_numpy()
    asked = files.sha256_bytes(b"".join(wanted.column("digest").to_pylist()) + rows.tobytes())
    note = files.located(plan.work) / f"{out}.json"
    saved = finished(note, folder)
    if saved is None or saved["asked"] != asked:
        encode = held_once(
            "encoder", (units.encoder, spec), lambda: encode_function(load_model(files.located(units.encoder))[0], spec)
        )
        files.verify(files.located(unit.path), files.FileEntry(unit.info.path, unit.info.size, unit.info.sha256))
        with timed("embed-msec"):
            counts, rejects = embed_shard(encode, files.located(unit.path), unit.info, spec, out=folder / out, rows=rows)
        entry = files.entry_of(folder / out, folder).to_json()
        saved = {"entry": entry, "asked": asked, "counts": asdict(counts), "rejects": [asdict(reject) for reject in rejects]}
        files.write_json(note, saved)
    counts, rejects = Counts(**saved["counts"]), [Reject(**reject) for reject in saved["rejects"]]
    split = "query" if part.query_file else "index"
    record = {**saved["entry"], "split": split, "rows": counts.written, "rejected": [reject.id for reject in rejects]}
    return outcome(folder, out, [record], counts, rejects)


@dataclass
class EmbedChanges(beam.PTransform):
    """PCollection[Part] -> a summary `embed`; see `simpipe.reindex.embed_changes`."""

    units: Units
    plan: ChangesPlan

    def expand(self, input_or_inputs: PCollection[Part]) -> PValue:
        return (
            input_or_inputs
            | "Spread" >> beam.Reshuffle()
            | "Embed" >> beam.FlatMap(_embed, units=self.units, plan=self.plan)
            | "Embedded" >> WriteSummary(str(files.located(self.plan.work) / "embed.json"))
        )
