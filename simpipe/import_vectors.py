"""Import of one block of ready-made vectors into an embeddings data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.config.models import VectorsSource
from simpipe.data.examples import shard_name
from simpipe.data.vectors import VectorBlock, VectorPlan, read_block
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


def import_block(
    source: VectorsSource, plan: VectorPlan, block: VectorBlock, spec: ImportSpec, folder: Path
) -> tuple[list[dict[str, Any]], Counts, list[Reject]]:
    """Writes one block as `index-…parquet` and `query-…parquet`.

    Returns:
      File records (with rows excluded by class and label counts), counts without the excluded rows, rejects.
    """
    table, rejects = read_block(source, plan, block)
    labels = table.column("label").value_counts().to_pylist()
    before = len(table)
    if spec.classes is not None:
        table = table.filter(pc.is_in(table.column("label"), pa.array(sorted(spec.classes), pa.string())))
    held = holdout(table.column("id"), spec.fraction, spec.seed)
    kind = schema(plan.dim, distance=source.distance, encoder=NO_ENCODER, metadata=list(plan.metadata))
    records = []
    for split, rows in (("index", np.flatnonzero(~held)), ("query", np.flatnonzero(held))):
        path = folder / shard_name(split, block.number, len(plan.blocks), ".parquet")
        part = table.take(rows).cast(kind)
        with files.replacing(path) as temporary, open_writer(temporary, kind) as writer:
            writer.write_table(_whole(part), row_group_size=row_group_rows(plan.dim))
        records.append({**files.entry_of(path, folder).to_json(), "split": split, "rows": pq.read_metadata(path).num_rows})
    excluded = before - len(table)
    records[0]["excluded"] = excluded
    records[0]["labels"] = {entry["values"]: entry["counts"] for entry in labels if entry["values"] is not None}
    written = sum(record["rows"] for record in records)
    return records, Counts(block.rows - excluded, written, len(rejects)), rejects


def _whole(table: pa.Table) -> pa.Table:
    return table.combine_chunks() if len(table) else table
