"""Routing: the embeddings of one file, grouped by partition for the indexes and by bucket for the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.embeddings import Block, iterate_blocks, vectors_column
from simpipe.errors import ConfigError
from simpipe.grouped import GroupedWriter, read_group, writing
from simpipe.groups import Members
from simpipe.ids import bucket_of
from simpipe.index.distance import bad_rows, prepare
from simpipe.index.router import Router, sample_rows
from simpipe.types import Counts, Reject

_BLOCK_ROWS = 65_536
SAMPLE_COLUMNS = ["id", "embedding"]
ID_ROWS = pa.schema([("id", pa.string()), ("file", pa.int32()), ("row", pa.int64())])


@dataclass(frozen=True)
class RouteSpec:
    """What routing needs to know, the same for all files."""

    dim: int
    distance: str
    partitions: int
    store_files: int
    metadata: tuple[str, ...]
    column: str | None = None  # that routes, where one does


@dataclass(frozen=True)
class Routed:
    """What became of the rows of one embeddings file.

    Attributes:
      counts: written are items routed, excluded those that another item represents.
      copies: spilled rows, written beside the items. representatives: of groups, among the items.
      rejects: rows that are not finite, or of zero norm under cosine.
    """

    counts: Counts
    copies: int
    representatives: int
    rejects: list[Reject]


def count_values(path: Path, column: str) -> dict[str, int]:
    """How often each value of a metadata column stands in one embeddings file.

    Raises:
      ConfigError: there is no such column, or a value is missing.
    """
    counts: dict[str, int] = {}
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise ConfigError(f"build.router.column: {path.name} has no column {column!r}", "name a metadata column")
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=[column]):
            for entry in routing_values(pa.Table.from_batches([batch]), column, path.name).value_counts().to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return counts


def routing_values(table: pa.Table, column: str, source: str) -> pa.ChunkedArray:
    """A metadata column as strings.

    Raises:
      ConfigError: a value is missing.
    """
    values = table.column(column).cast(pa.string())
    if values.null_count:
        raise ConfigError(f"build.router.column: {source} has items without {column!r}", "give every item a value")
    return values


def sample_file(path: Path, spec: RouteSpec, *, share: float, seed: int, members: Members | None = None) -> pa.Table:
    """The routing sample of one embeddings file: columns id, embedding (prepared), about `share` of the good rows.

    Items that another one of `members` represents are not drawn.
    """
    parts = []
    for block in iterate_blocks(path, _BLOCK_ROWS, SAMPLE_COLUMNS):
        ids = block.table.column("id")
        not_finite, zero = bad_rows(block.vectors, spec.distance)
        rows = np.flatnonzero(sample_rows(ids, share=share, seed=seed) & ~not_finite & ~zero)
        if members is not None:
            rows = rows[~members.find(ids.take(pa.array(rows)))[0]]
        vectors = prepare(block.vectors[rows], spec.distance)
        parts.append(pa.table({"id": ids.take(rows), "embedding": vectors_column(vectors)}))
    return pa.concat_tables([no_sample(spec.dim), *parts])


def no_sample(dim: int) -> pa.Table:
    """A sample without rows."""
    return pa.table({"id": pa.array([], pa.string()), "embedding": vectors_column(np.empty((0, dim), np.float32))})


def save_sample(sample: pa.Table, *, work: Path, number: int) -> None:
    """Writes a file's sample to `sample-NNNNN.arrow` in the work folder."""
    with writing(_sample_path(work, number), sample.schema, 1) as writer:
        writer.write(sample, np.zeros(len(sample), np.int64))


def load_samples(numbers: Sequence[int], *, work: Path, dim: int) -> pa.Table:
    """The samples of some files, in the order of `numbers`."""
    return read_group([_sample_path(work, number) for number in numbers], 0, 1) if numbers else no_sample(dim)


def _sample_path(work: Path, number: int) -> Path:
    return work / f"sample-{number:05d}.arrow"


def route_file(path: Path, router: Router, spec: RouteSpec, *, work: Path, number: int, members: Members | None = None) -> Routed:
    """Writes `route-NNNNN.arrow` (by partition) and `store-NNNNN.arrow` (by bucket of the id) for one embeddings file.

    Args:
      path: a Parquet file of the embeddings data set.
      router: where vectors go.
      work: the build's work folder.
      number: the file's place in the list of files.
      members: of groups of near duplicates: only the representative of each is routed. None: everything is.
    """
    rejects: list[Reject] = []
    read = copies = written = excluded = representatives = 0
    with (
        files.replacing(work / f"route-{number:05d}.arrow") as route_path,
        files.replacing(work / f"store-{number:05d}.arrow") as store_path,
    ):
        writers: list[GroupedWriter] = []
        for block in iterate_blocks(path, _BLOCK_ROWS):
            read += len(block.table)
            rows, bad = _good_rows(block, spec.distance)
            rejects += bad
            if members is not None:
                represented, represents = members.find(block.table.column("id"))
                excluded += int(represented[rows].sum())
                representatives += int(represents[rows].sum())
                rows = rows[~represented[rows]]
            table = block.table if len(rows) == len(block.table) else block.table.take(rows)
            vectors = prepare(block.vectors[rows], spec.distance)
            rows += block.first_row
            ids = table.column("id")
            values = None if spec.column is None else routing_values(table, spec.column, path.name)
            partition, (again, where) = router.route(ids, vectors, values)
            route = pa.table({"id": ids, "label": table.column("label"), "embedding": vectors_column(vectors)})
            store = _store_rows(table, partition, rows, spec.metadata, number)
            if not writers:
                writers = [
                    GroupedWriter(route_path, route.schema, spec.partitions),
                    GroupedWriter(store_path, store.schema, spec.store_files),
                ]
            copies, written = copies + len(again), written + len(rows)
            if len(again):
                # One table, so that the block stays one group of record batches.
                route, spilled = pa.concat_tables([route, route.take(again)]), np.concatenate([partition, where])
            else:
                spilled = partition
            writers[0].write(route, spilled)
            writers[1].write(store, bucket_of(ids, spec.store_files))
        for writer in writers:
            writer.close()
        if not writers:  # an embeddings file without rows
            route_path.touch()
            store_path.touch()
    return Routed(Counts(read, written, len(rejects), excluded), copies, representatives, rejects)


def route_query_ids(path: Path, spec: RouteSpec, *, work: Path, number: int) -> int:
    """Writes `query-NNNNN.arrow`: the ids of a file of queries by bucket, so that an id in two splits is found.

    Returns:
      How many.
    """
    rows = 0
    with (
        files.replacing(work / f"query-{number:05d}.arrow") as temporary,
        pq.ParquetFile(path) as file,
        GroupedWriter(temporary, ID_ROWS, spec.store_files) as writer,
    ):
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=["id"]):
            ids = pa.Table.from_batches([batch]).column("id")
            place = np.full(len(ids), number, np.int32)
            table = pa.table([ids, place, np.arange(rows, rows + len(ids))], schema=ID_ROWS)
            writer.write(table, bucket_of(ids, spec.store_files))
            rows += len(ids)
    return rows


def _good_rows(block: Block, distance: str) -> tuple[np.ndarray, list[Reject]]:
    """Rows of a block that may be indexed: int64[m]; and rejects for the others."""
    not_finite, zero = bad_rows(block.vectors, distance)
    ids = block.table.column("id")
    numbers = np.arange(block.first_row, block.first_row + len(not_finite))
    rejects = vector_rejects(ids, not_finite, zero, source=block.source, numbers=numbers)
    return np.flatnonzero(~(not_finite | zero)), rejects


def vector_rejects(
    ids: Any, not_finite: np.ndarray, zero: np.ndarray, *, source: str, numbers: np.ndarray, unit: str = "row"
) -> list[Reject]:
    """Rejects for rows with NaN or infinite values and for rows of zero norm.

    Args:
      ids: Arrow strings [n].
      not_finite: bool[n]. zero: bool[n].
      source: the file's name; numbers: int64[n], where the rows stand in it; unit: what the file counts.
    """
    rejects = []
    for row in np.flatnonzero(not_finite | zero):
        code, reason = (
            ("not-finite", "the vector holds NaN or infinite values")
            if not_finite[row]
            else ("zero-norm", "the vector has zero norm, no direction for cosine")
        )
        rejects.append(Reject(str(ids[int(row)]), f"{source} {unit} {numbers[row]}", code, reason))
    return rejects


def _store_rows(table: pa.Table, partition: np.ndarray, rows: np.ndarray, metadata: tuple[str, ...], number: int) -> pa.Table:
    """Rows of the store; `file` and `row` say where an item came from, should its id come twice."""
    columns: dict[str, Any] = {
        "id": table.column("id"),
        "label": table.column("label"),
        "partition": pa.array(partition.astype(np.int32)),
        "file": pa.array(np.full(len(table), number, np.int32)),
        "row": pa.array(rows),
    }
    digest = ("digest",) if "digest" in table.column_names else ()
    return pa.table({**columns, **{name: table.column(name) for name in (*digest, *metadata)}})
