"""Import of one block of ready-made vectors into an embeddings data set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.config.models import VectorsSource
from simpipe.data.examples import shard_name
from simpipe.data.vectors import VectorBlock, VectorPlan, read_rows
from simpipe.digests import digest_rows
from simpipe.embeddings import NO_ENCODER, open_writer, row_group_rows, schema
from simpipe.ids import holdout
from simpipe.types import Counts, Reject


@dataclass(frozen=True)
class ImportSpec:
    """What import needs to know, the same for all blocks.

    Attributes:
      fraction, seed: of the held-out queries.
      classes: labels to keep, or None for all.
    """

    fraction: float
    seed: int
    classes: frozenset[str] | None


@dataclass(frozen=True)
class Content:
    """What a block holds that is taken.

    Attributes:
      table: as an embeddings file, with digests. held: bool[n], rows that are held out as queries.
      position: int64[n], where the rows stand in the block.
      labels: how many rows each label has, before classes are chosen. excluded_ids: of rows of other classes.
      rejects: bad rows.
    """

    table: pa.Table
    held: np.ndarray
    position: np.ndarray
    labels: dict[str, int]
    excluded_ids: pa.Array
    rejects: list[Reject]

    @property
    def excluded(self) -> int:
        return len(self.excluded_ids)


def block_content(
    source: VectorsSource, plan: VectorPlan, block: VectorBlock, spec: ImportSpec, rows: np.ndarray | None = None
) -> Content:
    """Reads a block, or some rows of it (int64[m], ascending)."""
    table, position, rejects = read_rows(source, plan, block, rows)
    labels = {entry["values"]: entry["counts"] for entry in table.column("label").value_counts().to_pylist()}
    excluded = pa.array([], pa.string())
    if spec.classes is not None:
        chosen = pc.fill_null(pc.is_in(table.column("label"), pa.array(sorted(spec.classes), pa.string())), False)
        excluded = pa.concat_arrays([excluded, *table.column("id").filter(pc.invert(chosen)).chunks])
        table, position = table.filter(chosen), position[chosen.to_numpy(zero_copy_only=False)]
    kind = embeddings_schema(source, plan)
    plain = table.cast(pa.schema([field for field in kind if field.name != "digest"]))
    digest = digest_rows({name: plain.column(name) for name in plain.column_names if name != "id"})
    table = plain.add_column(3, kind.field("digest"), digest).cast(kind)
    held = holdout(table.column("id"), spec.fraction, spec.seed)
    named = {name: count for name, count in labels.items() if name is not None}
    return Content(table, held, position, named, excluded, rejects)


def embeddings_schema(source: VectorsSource, plan: VectorPlan) -> pa.Schema:
    """Of files that are imported from this source."""
    return schema(plan.dim, distance=source.distance, encoder=NO_ENCODER, metadata=list(plan.metadata), digests=True)


def named_classes(wanted: tuple[str, ...] | Literal["all"]) -> frozenset[str] | None:
    """Class names of a list, ranges written out; None for `all`. Missing ones are refused after the pass."""
    if wanted == "all":
        return None
    names: set[str] = set()
    for item in wanted:
        span = re.fullmatch(r"(\d+)-(\d+)", item)
        names |= {item} | ({str(number) for number in range(int(span[1]), int(span[2]) + 1)} if span else set())
    return frozenset(names)


def import_block(
    source: VectorsSource, plan: VectorPlan, block: VectorBlock, spec: ImportSpec, folder: Path
) -> tuple[list[dict[str, Any]], Counts, list[Reject]]:
    """Writes one block as `index-…parquet` and `query-…parquet`.

    Returns:
      File records (with rows excluded by class and label counts), counts without the excluded rows, rejects.
    """
    content = block_content(source, plan, block, spec)
    records = []
    for split, rows in (("index", np.flatnonzero(~content.held)), ("query", np.flatnonzero(content.held))):
        path = folder / shard_name(split, block.number, len(plan.blocks), ".parquet")
        write_embeddings(content.table.take(rows), path)
        records.append({**files.entry_of(path, folder).to_json(), "split": split, "rows": pq.read_metadata(path).num_rows})
    records[0]["excluded"] = content.excluded
    records[0]["labels"] = content.labels
    written = sum(record["rows"] for record in records)
    return records, Counts(block.rows - content.excluded, written, len(content.rejects)), content.rejects


def write_embeddings(table: pa.Table, path: Path) -> None:
    """Writes one embeddings file, which appears complete or not at all."""
    dim = table.schema.field("embedding").type.list_size
    with files.replacing(path) as temporary, open_writer(temporary, table.schema) as writer:
        writer.write_table(_whole(table), row_group_size=row_group_rows(dim))


def _whole(table: pa.Table) -> pa.Table:
    return table.combine_chunks() if len(table) else table
