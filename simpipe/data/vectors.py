"""Ready-made vectors (npy, npz, Parquet) as blocks of an embeddings data set. No model and no TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.config.models import VectorsSource
from simpipe.embeddings import vectors_column
from simpipe.errors import SourceError
from simpipe.index.distance import bad_rows
from simpipe.index.route import vector_rejects
from simpipe.types import RESERVED, Reject

BLOCK_ROWS = 65_536
_SUFFIXES = (".npy", ".npz", ".parquet")


@dataclass(frozen=True)
class VectorBlock:
    """A work item: rows [first, first + rows) of an array, or row group `group` of a Parquet file."""

    number: int
    path: str
    first: int
    rows: int
    group: int = -1


@dataclass(frozen=True)
class VectorPlan:
    """The blocks of a source, its dim, and the types of its metadata columns."""

    blocks: tuple[VectorBlock, ...]
    dim: int
    rows: int
    metadata: tuple[pa.Field, ...]


def source_files(source: VectorsSource) -> list[Path]:
    """The data files of a source: one file, or the Parquet files of a folder in name order.

    Raises:
      SourceError: nothing is there, or its kind is unknown.
    """
    path = files.located(source.path)
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not found or not found[0].exists():
        raise SourceError(f"source.path: {path} does not exist, or is a folder without Parquet files", "set source.path")
    if found[0].suffix not in _SUFFIXES:
        raise SourceError(f"source.path: {path}: unknown kind of file", f"give one of {', '.join(_SUFFIXES)}")
    return found


def plan_vectors(source: VectorsSource) -> VectorPlan:
    """Splits a source into blocks, from headers only.

    Raises:
      SourceError: wrong shape or type, missing columns or arrays, lengths that differ, or nothing there.
    """
    found = source_files(source)
    taken = sorted(set(source.metadata) & RESERVED)
    if taken:
        raise SourceError(f"source.metadata: column name {taken[0]!r} is taken by items themselves", "rename the column")
    if source.metadata and found[0].suffix != ".parquet":
        raise SourceError(f"source.metadata: {found[0].name} holds no columns", "give the vectors as Parquet with their metadata")
    if found[0].suffix == ".parquet":
        return _plan_parquet(source, found)
    vectors = _array(str(found[0]), source.vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise SourceError(
            f"{found[0]}: holds {vectors.dtype}{list(vectors.shape)}, not numbers of shape [n, dim]",
            "save one row a vector: all of the same dim",
        )
    for name, field in ((source.ids, "source.ids"), (source.labels, "source.labels")):
        values = _strings(str(found[0]), name)
        if values is not None and len(values) != len(vectors):
            raise SourceError(f"{field}: {name} holds {len(values)} values for {len(vectors)} vectors", "give one a vector")
    starts = range(0, len(vectors), BLOCK_ROWS)
    blocks = tuple(VectorBlock(i, str(found[0]), first, min(BLOCK_ROWS, len(vectors) - first)) for i, first in enumerate(starts))
    return _not_empty(VectorPlan(blocks, vectors.shape[1], len(vectors), ()), found[0])


def _plan_parquet(source: VectorsSource, found: list[Path]) -> VectorPlan:
    blocks: list[VectorBlock] = []
    dim = 0
    metadata: tuple[pa.Field, ...] = ()
    for path in found:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            for column, field in _columns(source):
                if column not in schema.names:
                    raise SourceError(
                        f"{path}: no column {column!r} ({field}); there are {', '.join(schema.names)}", f"set {field}"
                    )
            kind = schema.field(source.vectors).type
            if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                raise SourceError(f"{path}: column {source.vectors!r} holds {kind}, not lists of numbers", "set source.vectors")
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                dim = dim or _first_length(file, group, source.vectors, kind)
                blocks.append(VectorBlock(len(blocks), str(path), first, rows, group))
                first += rows
            metadata = metadata or tuple(schema.field(name) for name in source.metadata)
    return _not_empty(VectorPlan(tuple(blocks), dim, sum(block.rows for block in blocks), metadata), found[0])


def _first_length(file: pq.ParquetFile, group: int, column: str, kind: pa.DataType) -> int:
    """The length of the first list of a row group that is no null; 0 where there is none."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[column]):
        lengths = pc.list_value_length(batch.column(0)).drop_null()
        if len(lengths):
            return lengths[0].as_py()
    return 0


def _columns(source: VectorsSource) -> Iterator[tuple[str, str]]:
    yield source.vectors, "source.vectors"
    if source.ids:
        yield source.ids, "source.ids"
    if source.labels:
        yield source.labels, "source.labels"
    for name in source.metadata:
        yield name, "source.metadata"


def _not_empty(plan: VectorPlan, path: Path) -> VectorPlan:
    if plan.rows == 0 or plan.dim == 0:
        raise SourceError(f"{path}: holds no vectors", "give a source with at least one vector")
    return plan


def read_block(source: VectorsSource, plan: VectorPlan, block: VectorBlock) -> tuple[pa.Table, list[Reject]]:
    """Reads and checks one block.

    Returns:
      A table with id, label, embedding float32[dim] as given, and metadata columns; and the rejected rows: null or
      empty id, wrong dimension, NaN, zero norm under cosine. Rows in the table plus rejects are the block's rows.
    """
    table, _, rejects = read_rows(source, plan, block)
    return table, rejects


def read_rows(
    source: VectorsSource, plan: VectorPlan, block: VectorBlock, rows: np.ndarray | None = None
) -> tuple[pa.Table, np.ndarray, list[Reject]]:
    """Like `read_block`, of some rows of the block only.

    Args:
      rows: int64[m], ascending; None: all.

    Returns:
      The table, where its rows stand in the block (int64[n]), and the rejects.
    """
    name = Path(block.path).name
    if block.group >= 0:
        table, vectors, position, rejects = _read_parquet(source, plan, block, name, rows)
    else:
        whole = slice(block.first, block.first + block.rows)
        position = np.arange(block.rows) if rows is None else rows
        given = _array(block.path, source.vectors)
        vectors = np.asarray(given[whole if rows is None else block.first + rows], np.float32)
        ids, labels = _texts(_strings(block.path, source.ids), block), _texts(_strings(block.path, source.labels), block)
        table = pa.table(
            {
                "id": ids if ids is not None else _row_ids(Path(block.path).stem, block.first, whole.stop),
                "label": labels if labels is not None else pa.nulls(block.rows, pa.string()),
            }
        )
        table = table if rows is None else table.take(pa.array(rows))
        rejects = []
    empty = pc.fill_null(pc.equal(pc.utf8_length(table.column("id")), 0), True).to_numpy(zero_copy_only=False)
    not_finite, zero = bad_rows(vectors, source.distance)
    numbers = block.first + position
    rejects = rejects + [
        Reject("", f"{name} row {numbers[row]}", "no-id", "the id is null or empty") for row in np.flatnonzero(empty)
    ]
    rejects += vector_rejects(table.column("id"), not_finite & ~empty, zero & ~empty, source=name, numbers=numbers)
    bad = empty | not_finite | zero
    if bad.any():
        good = np.flatnonzero(~bad)
        table, vectors, position = table.take(pa.array(good)), vectors[good], position[good]
    return table.add_column(2, "embedding", vectors_column(vectors)), position, rejects


def _read_parquet(
    source: VectorsSource, plan: VectorPlan, block: VectorBlock, name: str, rows: np.ndarray | None
) -> tuple[pa.Table, np.ndarray, np.ndarray, list[Reject]]:
    with pq.ParquetFile(files.located(block.path)) as file:
        raw = file.read_row_group(block.group, columns=[column for column, _ in _columns(source)])
    position = np.arange(len(raw)) if rows is None else rows
    raw = raw if rows is None else raw.take(pa.array(rows))
    lists = raw.column(source.vectors).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ids = (
        raw.column(source.ids).cast(pa.string())
        if source.ids
        else _row_ids(Path(block.path).stem, block.first, block.first + block.rows).take(pa.array(position))
    )
    wrong = lengths != plan.dim
    rejects = [
        Reject(
            str(ids[int(row)]),
            f"{name} row {block.first + position[row]}",
            "wrong-dimension",
            f"dim {lengths[row]}, the first vector has {plan.dim}",
        )
        for row in np.flatnonzero(wrong)
    ]
    good = np.flatnonzero(~wrong)
    flat = pc.list_flatten(lists if not rejects else lists.take(pa.array(good))).cast(pa.float32())
    flat = pc.fill_null(flat, float("nan")) if flat.null_count else flat
    vectors = flat.to_numpy(zero_copy_only=False).reshape(len(good), plan.dim)
    labels = raw.column(source.labels).cast(pa.string()) if source.labels else pa.nulls(len(raw), pa.string())
    columns: dict[str, Any] = {"id": ids, "label": labels}
    columns |= {column: raw.column(column) for column in source.metadata}
    table = pa.table(columns)
    return table if not rejects else table.take(pa.array(good)), vectors, position[good], rejects


def _row_ids(stem: str, first: int, stop: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(first, stop)).cast(pa.string()), width=9, padding="0")
    return pc.binary_join_element_wise(stem, numbers, "-")


def _array(path: str, name: str) -> np.ndarray:
    """An array of a `.npy` (memory-mapped) or `.npz` file; once a process for each state of the file."""
    return _read_array(path, name, _state(path))


def _state(path: str) -> tuple[int, int]:
    """Tells one content of a file from another, as the key of the step does."""
    about = files.located(path).stat()
    return about.st_size, about.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _read_array(path: str, name: str, state: tuple[int, int]) -> np.ndarray:
    try:
        loaded = np.load(files.located(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SourceError(f"{path}: NumPy cannot read it ({error})", "save plain numbers with numpy.save, no objects") from None
    if isinstance(loaded, np.ndarray):
        return loaded
    if name not in loaded.files:
        raise SourceError(f"{path}: no array {name!r}; there are {', '.join(loaded.files)}", "set source.vectors, ids and labels")
    try:
        return loaded[name]
    except ValueError as error:
        raise SourceError(f"{path}: array {name!r}: {error}", "save plain numbers or strings, no objects") from None


def _strings(path: str, name: str | None) -> np.ndarray | pa.Array | None:
    """Ids or labels: an array of the same `.npz`, a `.npy` file (memory-mapped), or a text file with one value a line."""
    if name is None:
        return None
    if Path(path).suffix == ".npz":
        values = _array(path, name)
    else:
        side = files.located(name)
        if not side.exists():
            raise SourceError(f"source.ids or source.labels: {side}: no such file", "name a .npy or text file")
        if side.suffix != ".npy":
            return _read_lines(str(side), _state(str(side)))
        values = _array(str(side), "")
    if values.ndim != 1:
        raise SourceError(f"{name}: has shape {list(values.shape)}, not [n]", "save one value a vector")
    return values


@functools.lru_cache(maxsize=2)
def _read_lines(path: str, state: tuple[int, int]) -> pa.Array:
    return pa.array(files.located(path).read_text(encoding="utf-8").splitlines(), pa.string())


def _texts(values: Any, block: VectorBlock) -> pa.Array | None:
    """A block's ids or labels as Arrow strings; None where there are none."""
    if values is None:
        return None
    if not isinstance(values, np.ndarray):
        return values.slice(block.first, block.rows)
    return pa.array(np.ascontiguousarray(values[block.first : block.first + block.rows])).cast(pa.string())


def find_ids(source: VectorsSource, ids: list[str]) -> dict[str, list[str]]:
    """Where ids stand in a source: id -> `FILE row N`, …; a pass over all ids, for error messages."""
    places: dict[str, list[str]] = {name: [] for name in ids}
    for block in plan_vectors(source).blocks:
        names, where = _ids_of(source, block)
        hits = np.flatnonzero(pc.is_in(names, pa.array(ids, pa.string())).to_numpy(zero_copy_only=False))
        for row in hits:
            places[str(names[int(row)])].append(f"{where.name} row {block.first + int(row)}")
    return places


def _ids_of(source: VectorsSource, block: VectorBlock) -> tuple[Any, Path]:
    """The ids of a block as Arrow strings, and the file they stand in."""
    path = files.located(block.path)
    if source.ids is None:
        return _row_ids(path.stem, block.first, block.first + block.rows), path
    if block.group >= 0:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(block.group, columns=[source.ids]).column(0).cast(pa.string()), path
    return _texts(_strings(block.path, source.ids), block), path if path.suffix == ".npz" else files.located(source.ids)
