"""The embeddings of what was added or changed: only the wanted rows of each block or shard are imported or embedded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.config.models import VectorsSource
from simpipe.data.examples import DatasetInfo, shard_name
from simpipe.data.vectors import VectorBlock, VectorPlan
from simpipe.embed import open_selected, unreadable
from simpipe.errors import ContractError, SourceError
from simpipe.grouped import GroupedWriter
from simpipe.import_vectors import ImportSpec, block_content, write_embeddings
from simpipe.reindex.detect import PRESENT, ChangesPlan, wanted_rows, write_left_out, write_present
from simpipe.reindex.units import ClassFilter, ShardUnit
from simpipe.types import Counts

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Part:
    """A unit with wanted rows, and the files of items and of queries that it becomes (None: it has none of them)."""

    group: int
    items: int
    queries: int
    index_file: str | None
    query_file: str | None


def plan_parts(wanted: list[list[int]]) -> list[Part]:
    """Numbers the files of wanted rows.

    Args:
      wanted: [group, items, queries], groups may come several times.
    """
    counts: dict[int, np.ndarray] = {}
    for group, items, queries in wanted:
        counts.setdefault(group, np.zeros(2, np.int64))[:] += (items, queries)
    totals = [sum(bool(count[place]) for count in counts.values()) for place in range(2)]
    numbers, parts = [0, 0], []
    for group in sorted(counts):
        names: list[str | None] = []
        for place, split in enumerate(("index", "query")):
            there = bool(counts[group][place])
            names.append(shard_name(split, numbers[place], totals[place], ".parquet") if there else None)
            numbers[place] += there
        parts.append(Part(group, int(counts[group][0]), int(counts[group][1]), *names))
    return parts


def scatter_shard(
    parse: Callable[..., Any], unit: ShardUnit, number: int, info: DatasetInfo, plan: ChangesPlan, classes: ClassFilter
) -> Counts:
    """Writes the ids and digests of a shard of examples by bucket; nothing is decoded or embedded.

    Args:
      parse: a compiled `parse_contents`. number: of the unit.

    Returns:
      Counts; excluded are examples of classes that are not indexed.

    Raises:
      ContractError: the shard is truncated, corrupt, or holds another number of examples.
    """
    import tensorflow as tf

    from simpipe.data.contents import content_table

    path = files.located(unit.path)
    read = written = 0
    with (
        files.replacing(plan.grouped("scan", number), flush=False) as temporary,
        GroupedWriter(temporary, PRESENT, plan.buckets) as out,
    ):
        try:
            for batch in open_selected(path, unit.info, info, None).batch(1024).prefetch(4):
                ids, labels, inputs, metadata = parse(batch)
                table = content_table(ids, labels, inputs, metadata, info)
                row = np.arange(read, read + len(table))
                read += len(table)
                chosen = _chosen(table, classes)
                write_left_out(out, plan, table.column("id").filter(pa.array(~chosen)), unit=number)
                table, row = table.filter(pa.array(chosen)), row[chosen]
                write_present(out, plan, table, np.full(len(table), unit.split == "query"), row, unit=number)
                written += len(table)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise unreadable(path, read, error) from None
    if read != unit.info.num_examples:
        raise ContractError(f"{path}: {read} records, dataset.json says {unit.info.num_examples}", "run `simpipe shard` again")
    return Counts(read, written, 0, read - written)


def _chosen(table: pa.Table, classes: ClassFilter) -> np.ndarray:
    if classes.names is None:
        return np.ones(len(table), bool)
    label = table.column("label")
    named = pc.is_in(label, value_set=pa.array(sorted(classes.names), pa.string())).to_numpy()
    return np.where(label.is_null().to_numpy(), classes.unlabelled, named)


def contents_function(info: DatasetInfo) -> Callable[[tf.Tensor], tuple[Any, ...]]:
    """`parse_contents`, compiled."""
    import tensorflow as tf

    from simpipe.data.contents import parse_contents

    return tf.function(lambda records: parse_contents(records, info), input_signature=[tf.TensorSpec([None], tf.string)])


def import_part(
    part: Part, source: VectorsSource, vectors: VectorPlan, block: VectorBlock, spec: ImportSpec, plan: ChangesPlan
) -> list[dict[str, Any]]:
    """Imports the wanted rows of one block; returns file records.

    Raises:
      SourceError: the block is not as it was a moment ago.
    """
    wanted = wanted_rows(plan, part.group)
    rows = wanted.column("row").to_numpy()
    content = block_content(source, vectors, block, spec, rows)
    if not np.array_equal(content.position, rows) or not content.table.column("digest").equals(wanted.column("digest")):
        raise SourceError(f"{block.path}: changed while it was read", "run again when the source is at rest")
    return _write_splits(part, content.table, content.held, files.located(plan.folder))


def copy_part(part: Part, plan: ChangesPlan) -> list[dict[str, Any]]:
    """Copies held-out queries that are as they were from the base's embeddings; returns file records."""
    wanted = wanted_rows(plan, part.group)
    path = plan.old_queries[part.group - len(plan.units)].verified()
    table = pq.read_table(path).take(wanted.column("row").combine_chunks())
    return _write_splits(part, table, np.ones(len(table), bool), files.located(plan.folder))


def _write_splits(part: Part, table: pa.Table, held: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    records = []
    for split, name, rows in (("index", part.index_file, ~held), ("query", part.query_file, held)):
        if name is not None:
            write_embeddings(table.filter(pa.array(rows)), folder / name)
            records.append({**files.entry_of(folder / name, folder).to_json(), "split": split, "rows": int(rows.sum())})
    return records
