"""Wiring of finding changes: units scattered by bucket and joined with the base; then the wanted rows of each unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList, PBegin, PCollection, PValue

from simpipe import files
from simpipe.beam.embed import finished, outcome
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.workers import held_once
from simpipe.reindex.detect import ChangesPlan, join_bucket, scatter_dropped, scatter_old_queries, scatter_vectors, wanted_rows
from simpipe.reindex.embed_changes import Part, contents_function, copy_part, import_part, scatter_shard
from simpipe.reindex.units import ExampleUnits, Units, VectorUnits
from simpipe.types import Counts, Reject


def _scan(number: int, units: VectorUnits | ExampleUnits, plan: ChangesPlan) -> Outcome:
    name = f"scan-{number:05d}"
    if isinstance(units, VectorUnits):
        block = units.plan.blocks[number]
        content = scatter_vectors(units.source, units.plan, block, units.spec, plan)
        counts = Counts(block.rows - content.excluded, len(content.table), len(content.rejects))
        record = {"path": name, "labels": content.labels, "excluded": content.excluded}
        return outcome(Path(plan.folder), name, [record], counts, content.rejects)
    unit, info = units.shards[number], units.spec.info
    files.verify(Path(unit.path), files.FileEntry(unit.info.path, unit.info.size, unit.info.sha256))
    parse = held_once("contents", (info.input, tuple(info.metadata.items())), lambda: contents_function(info))
    counts = scatter_shard(parse, unit, number, info, plan, units.classes)
    return outcome(Path(plan.folder), name, [{"path": name, "excluded": counts.excluded}], counts, [])


def _old(number: int, plan: ChangesPlan) -> int:
    return scatter_old_queries(plan, number)


def _dropped(number: int, plan: ChangesPlan) -> int:
    return scatter_dropped(plan, number)


def _join(number: int, scanned: list[Outcome], old: list[int], dropped: list[int], plan: ChangesPlan) -> Outcome:
    record, duplicates = join_bucket(plan, number)
    present, rejects = record["present"], tuple(duplicates[:SHOWN_REJECTS])
    return Outcome(Counts(present, present - len(duplicates), len(duplicates)), (record,), rejects)


@dataclass
class FindChanges(beam.PTransform):
    """PBegin -> files of changes and two summaries (`scan`, `join`) in the work folder; see `simpipe.reindex.detect`."""

    units: Units
    plan: ChangesPlan

    def expand(self, input_or_inputs: PBegin) -> tuple[Any, ...]:
        plan, begin, work = self.plan, input_or_inputs, Path(self.plan.work)
        scanned: Any = (
            begin
            | "Units" >> beam.Create(list(range(len(plan.units))))
            | "Spread units" >> beam.Reshuffle()
            | "Scan" >> beam.Map(_scan, units=self.units, plan=plan)
        )
        old: Any = (
            begin | "Query files" >> beam.Create(list(range(len(plan.old_queries)))) | "OldQueries" >> beam.Map(_old, plan=plan)
        )
        dropped: Any = (
            begin | "Files of ids" >> beam.Create(list(range(len(plan.dropped)))) | "Dropped" >> beam.Map(_dropped, plan=plan)
        )
        sides = {"scanned": AsList(scanned), "old": AsList(old), "dropped": AsList(dropped)}
        joined = (
            begin
            | "Buckets" >> beam.Create(list(range(plan.buckets)))
            | "Spread buckets" >> beam.Reshuffle()
            | "Join" >> beam.Map(_join, **sides, plan=plan)
        )
        return (
            scanned | "Scanned" >> WriteSummary(str(work / "scan.json")),
            joined | "Joined" >> WriteSummary(str(work / "join.json")),
        )


def _embed(part: Part, units: Units, plan: ChangesPlan) -> Iterator[Outcome]:
    folder = Path(plan.folder)
    if part.group >= len(plan.units):
        yield _written(folder, copy_part(part, plan))
    elif isinstance(units, VectorUnits):
        block = units.plan.blocks[part.group]
        yield _written(folder, import_part(part, units.source, units.plan, block, units.spec, plan))
    elif units is not None:
        yield _embed_shard(part, units, plan)


def _written(folder: Path, records: list[dict[str, Any]]) -> Outcome:
    rows = sum(record["rows"] for record in records)
    return outcome(folder, records[0]["path"], records, Counts(rows, rows), [])


def _embed_shard(part: Part, units: ExampleUnits, plan: ChangesPlan) -> Outcome:
    """The wanted records of a shard through the encoder; what an interrupted run had finished is kept."""
    from simpipe.embed import embed_shard, encode_function
    from simpipe.training.encoder import load_model

    folder, spec, unit = Path(plan.folder), units.spec, units.shards[part.group]
    out = part.index_file or part.query_file
    assert out is not None
    wanted = wanted_rows(plan, part.group)
    rows = wanted.column("row").to_numpy()
    asked = files.sha256_bytes(b"".join(wanted.column("digest").to_pylist()) + rows.tobytes())
    note = Path(plan.work) / f"{out}.json"
    saved = finished(note, folder)
    if saved is None or saved["asked"] != asked:
        encode = held_once("encoder", (units.encoder, spec), lambda: encode_function(load_model(Path(units.encoder))[0], spec))
        files.verify(Path(unit.path), files.FileEntry(unit.info.path, unit.info.size, unit.info.sha256))
        counts, rejects = embed_shard(encode, Path(unit.path), unit.info, spec, out=folder / out, rows=rows)
        entry = files.entry_of(folder / out, folder).to_json()
        saved = {"entry": entry, "asked": asked, "counts": asdict(counts), "rejects": [asdict(reject) for reject in rejects]}
        files.write_json(note, saved)
    counts, rejects = Counts(**saved["counts"]), [Reject(**reject) for reject in saved["rejects"]]
    Metrics.counter("simpipe", "embedded").inc(counts.written)
    split = "query" if part.query_file else "index"
    record = {**saved["entry"], "split": split, "rows": counts.written, "rejected": [reject.id for reject in rejects]}
    write_rejects(folder, out, rejects)
    return Outcome(counts, (record,), tuple(rejects[:SHOWN_REJECTS]))


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
            | "Embedded" >> WriteSummary(str(Path(self.plan.work) / "embed.json"))
        )
