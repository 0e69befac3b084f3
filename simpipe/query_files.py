"""Files of queries: what of them is read together, and which rows can be asked.

A file is Parquet with columns `embedding` (a list of numbers), `id`, or both; `label` and metadata columns are optional. A
row without an embedding is asked with the vector of the indexed item of its id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.errors import ConfigError, QueryError
from simpipe.index.distance import bad_rows
from simpipe.types import Reject

_CHUNK_ROWS = 1 << 16
_CHUNK_BYTES = 32 << 20
_READ_ROWS = 1 << 13
_OWN = ("id", "label", "embedding")

_REASONS = {
    "null": "the embedding holds a null",
    "no-query": "neither an embedding nor an id",
    "wrong-dim": "the embedding has dim {found}, the release has dim {dim}",
    "not-finite": "the embedding holds NaN or infinite values",
    "zero-norm": "the embedding has zero norm, no direction for cosine",
    "unknown-id": "no embedding, and no item of this id in the release",
}
_CODES = ("", *_REASONS)
Stored = Callable[[pa.Array], tuple[np.ndarray, pa.Array, np.ndarray]]


@dataclass(frozen=True)
class Chunk:
    """`rows` rows of a file that are prepared and merged together. `number`: its place among all chunks of a job."""

    number: int
    rows: int


@dataclass(frozen=True)
class Source:
    """Whole row groups of a file, which one worker reads.

    Attributes:
      number: its place among all sources of a job.
      path: of the file. name: what rejects call it. prefix: before the name of a query without an id.
      groups: row groups. first_row: of the first one. chunks: they are cut into, in order.
    """

    number: int
    path: str
    name: str
    prefix: str
    groups: tuple[int, ...]
    first_row: int
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)


@dataclass(frozen=True)
class QueryRows:
    """Rows of a file that can be asked.

    Attributes:
      ids: string[n]. labels: string[n]. table: metadata columns. vectors: float32[n, dim], not yet prepared.
      own: bool[n], whether the id is one (else it is the row's number): an item of this id is the query itself.
    """

    ids: pa.Array
    labels: pa.Array
    table: pa.Table
    vectors: np.ndarray
    own: np.ndarray

    def take(self, rows: np.ndarray) -> QueryRows:
        at = pa.array(rows)
        return QueryRows(self.ids.take(at), self.labels.take(at), self.table.take(at), self.vectors[rows], self.own[rows])


def plan_sources(paths: Sequence[str], columns: Sequence[str], *, dim: int, block: int) -> list[Source]:
    """Cuts files into what workers read, from their footers alone.

    Args:
      paths: Parquet files. columns: metadata columns that each must have.
      dim: of the release. block: queries of a block; chunks are multiples of it.

    Raises:
      QueryError: a file is no Parquet, or has neither `embedding` nor `id`. ConfigError: it lacks a metadata column.
    """
    return cut_sources(paths, [_groups(path, columns) for path in paths], dim=dim, block=block)


def cut_sources(paths: Sequence[str], row_groups: Sequence[Sequence[int]], *, dim: int, block: int) -> list[Source]:
    """Cuts files into what workers read.

    Args:
      row_groups: of each file, the rows of each. Others: see `plan_sources`.
    """
    most = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * dim)) // block) * block
    names = _names(paths)
    sources: list[Source] = []
    chunks = 0
    for path, name, groups in zip(paths, names, row_groups, strict=True):
        first, start = 0, 0
        while start < len(groups):
            end, rows = start, 0
            while end < len(groups) and (rows == 0 or rows + groups[end] <= most):
                rows, end = rows + groups[end], end + 1
            cuts = [min(most, rows - at) for at in range(0, rows, most)]
            if rows:
                members = tuple(Chunk(chunks + i, cut) for i, cut in enumerate(cuts))
                prefix = f"{name} " if len(paths) > 1 else ""
                sources.append(Source(len(sources), path, name, prefix, tuple(range(start, end)), first, members))
                chunks += len(cuts)
            first, start = first + rows, end
    return sources


def _names(paths: Sequence[str]) -> list[str]:
    """Files by name, or by their paths below what these have in common, where names repeat."""
    short = [Path(path).name for path in paths]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [Path(os.path.relpath(path, common)).as_posix() for path in paths]


def _groups(path: str, columns: Sequence[str]) -> list[int]:
    """Rows of each row group, after a look at the schema."""
    try:
        with pq.ParquetFile(files.located(path)) as file:
            schema, about = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError) as error:
        raise QueryError(f"{path}: cannot be read as Parquet ({error})", "give Parquet files of queries") from None
    there = ", ".join(schema.names)
    if "embedding" not in schema.names and "id" not in schema.names:
        raise QueryError(f"{path}: neither a column `embedding` nor `id` (there are: {there})", "name the columns so")
    for column in columns:
        if column not in schema.names:
            raise ConfigError(
                f"{path}: no column {column!r} (there are: {there})", "name a metadata column that all queries have"
            )
    if "embedding" in schema.names and not _is_vectors(schema.field("embedding").type):
        kind = schema.field("embedding").type
        raise QueryError(f"{path}: column `embedding` is {kind}", "give lists of numbers")
    for column in ("id", "label"):
        if column in schema.names and not _is_text(schema.field(column).type):
            raise QueryError(f"{path}: column `{column}` is {schema.field(column).type}", "give strings or numbers")
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


def _is_text(kind: pa.DataType) -> bool:
    """Whether values of a type can be written as text."""
    try:
        pa.array([], kind).cast(pa.string())
    except pa.ArrowException:
        return False
    return True


def _is_vectors(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def read_tables(source: Source, columns: Sequence[str]) -> Iterator[tuple[pa.Table, int, Chunk]]:
    """Tables of a source with the row that each begins at and the chunk that it belongs to, in order.

    Raises:
      QueryError: the file is damaged, or has null among lists of fixed size, which Arrow cannot read.
    """
    with pq.ParquetFile(files.located(source.path)) as file:
        wanted = list(dict.fromkeys(name for name in (*_OWN, *columns) if name in file.schema_arrow.names))
        batches = file.iter_batches(batch_size=_READ_ROWS, row_groups=list(source.groups), columns=wanted)
        left = iter(source.chunks)
        chunk, at = next(left), source.first_row
        room = chunk.rows
        while (batch := _next(batches, source)) is not None:
            table = pa.Table.from_batches([batch])
            while len(table):
                if not room:
                    chunk = next(left)
                    room = chunk.rows
                part, table = table.slice(0, room), table.slice(room)
                yield part, at, chunk
                at, room = at + len(part), room - len(part)


def _next(batches: Iterator[pa.RecordBatch], source: Source) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (pa.ArrowException, OSError) as error:
        cure = (
            "write the file again; where some rows have no embedding, as lists of variable size: pyarrow.list_(pyarrow.float32())"
        )
        raise QueryError(f"{source.path}: cannot be read ({error})", cure) from None


def check_rows(
    table: pa.Table, source: Source, first: int, columns: Sequence[str], *, dim: int, distance: str, stored: Stored
) -> tuple[QueryRows, list[Reject]]:
    """Rows that can be asked, and those that cannot, one by one.

    Args:
      table: of `read_tables`. first: the row that it begins at. columns: metadata columns.
      dim, distance: of the release.
      stored: of ids string[m]: vectors float32[m, dim], labels string[m] and whether there is such an item bool[m].
    """
    n = len(table)
    ids, labels = _text(table, "id", source), _text(table, "label", source)
    own = ids.is_valid().to_numpy(zero_copy_only=False)
    vectors, code, dims = _vectors(table, dim)
    named = pa.array(np.arange(first, first + n)).cast(pa.string())
    named = pc.binary_join_element_wise(f"{source.prefix}row", named, " ")
    absent = code == _CODES.index("no-query")
    asked = np.flatnonzero(absent & own)
    if len(asked):
        found, theirs, known = stored(ids.take(pa.array(asked)))
        vectors[asked[known]] = found[known]
        code[asked] = np.where(known, 0, _CODES.index("unknown-id"))
        if "label" not in table.schema.names:
            labels = pc.replace_with_mask(labels, pa.array(np.isin(np.arange(n), asked)), theirs)
    not_finite, zero = bad_rows(vectors, distance)
    code[(code == 0) & not_finite] = _CODES.index("not-finite")
    code[(code == 0) & zero] = _CODES.index("zero-norm")
    ids = pc.coalesce(ids, named)
    bad = np.flatnonzero(code)
    rejects = [
        Reject(name, f"{source.name} row {first + row}", _CODES[code[row]], _reason(_CODES[code[row]], int(dims[row]), dim))
        for row, name in zip(bad.tolist(), ids.take(pa.array(bad)).to_pylist(), strict=True)
    ]
    rows = QueryRows(ids, labels, table.select(list(columns)), vectors, own)
    return (rows.take(np.flatnonzero(code == 0)) if len(bad) else rows), rejects


def _reason(code: str, found: int, dim: int) -> str:
    return _REASONS[code].format(found=found, dim=dim)


def _text(table: pa.Table, column: str, source: Source) -> pa.Array:
    if column not in table.schema.names:
        return pa.nulls(len(table), pa.string())
    try:
        return table.column(column).combine_chunks().cast(pa.string())
    except pa.ArrowInvalid as error:
        raise QueryError(f"{source.path}: column `{column}` is no text ({error})", "give strings or numbers") from None


def _vectors(table: pa.Table, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors float32[n, dim] (zeros where there is none), int8[n] places in `_CODES`, and the dims of the lists int64[n]."""
    n = len(table)
    missing = _CODES.index("no-query")
    if "embedding" not in table.schema.names:
        return np.zeros((n, dim), np.float32), np.full(n, missing, np.int8), np.zeros(n, np.int64)
    lists = table.column("embedding").combine_chunks()
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    dims = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    code = np.where(there, np.where(dims == dim, 0, _CODES.index("wrong-dim")), missing).astype(np.int8)
    good = np.flatnonzero(code == 0)
    values = (lists if len(good) == n else lists.take(pa.array(good))).flatten()
    nulls = values.null_count > 0
    flat = np.asarray(values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32).reshape(len(good), dim)
    if nulls:
        code[good[values.is_null().to_numpy(zero_copy_only=False).reshape(len(good), dim).any(axis=1)]] = _CODES.index("null")
    if len(good) == n and not nulls:
        return flat, code, dims
    vectors = np.zeros((n, dim), np.float32)
    vectors[good] = flat
    return vectors, code, dims
