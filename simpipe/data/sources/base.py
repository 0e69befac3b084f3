"""What every source of examples offers, and the pieces that they share. No TensorFlow here."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when imported)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe.data.examples import InputSpec
from simpipe.errors import SourceError
from simpipe.types import Reject

IMAGE, VECTOR = "image", "vector"

Problem = tuple[np.ndarray, str, "str | Callable[[int], str]"]
"""Which rows are bad (bool[n]), the code, and the reason (or a function from row to reason)."""


@dataclass(frozen=True)
class SourceBlock:
    """A piece of a source: rows `start` to `stop` of `name` (a file or split), or the named `items`.

    `stop` is None where the number of rows is known only after reading. `part` is a Parquet row group.
    """

    index: int
    name: str = ""
    start: int = 0
    stop: int | None = None
    part: int = 0
    items: tuple[str, ...] = ()

    @property
    def rows(self) -> int | None:
        """How many rows it holds, where that is known before reading."""
        if self.items:
            return len(self.items)
        return None if self.stop is None else self.stop - self.start


class ExampleSource(Protocol):
    """Reads examples block by block; the same block always gives the same rows."""

    @property
    def input(self) -> InputSpec:
        """What the encoder's input looks like."""
        ...

    @property
    def metadata(self) -> tuple[pa.Field, ...]:
        """Metadata columns: string, int64 or float32."""
        ...

    def blocks(self, rows: int) -> list[SourceBlock]:
        """All blocks, of about `rows` rows where the layout allows it, numbered from 0. Called in the driver only."""
        ...

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        """One block: a table of `table_schema` and the rows that were left out; together they are all rows read."""
        ...


def input_type(spec: InputSpec) -> pa.DataType:
    """`fixed_size_list<float>` for encoding `float`, otherwise `large_binary`."""
    return pa.list_(pa.float32(), int(np.prod(spec.shape))) if spec.encoding == "float" else pa.large_binary()


def table_schema(spec: InputSpec, metadata: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns `id`, `label` (null: none), `input` (encoded as `spec` says), `source` (where the row stood), metadata."""
    columns = [("id", pa.string()), ("label", pa.string()), ("input", input_type(spec)), ("source", pa.string())]
    return pa.schema([pa.field(name, kind) for name, kind in columns] + list(metadata))


def row_blocks(name: str, rows: int, total: int, *, first: int = 0, index: int = 0) -> list[SourceBlock]:
    """Row ranges of at most `rows` rows over rows `first` to `first + total` of `name`."""
    starts = range(first, first + total, rows)
    return [SourceBlock(index + i, name, start, min(start + rows, first + total)) for i, start in enumerate(starts)]


def numbered(prefix: str, numbers: np.ndarray, width: int = 0) -> pa.Array:
    """`prefix` followed by each number, padded with zeros to `width`: string[n]."""
    text = pc.utf8_lpad(pa.array(numbers, pa.int64()).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix), text, "")


def as_binary(rows: np.ndarray) -> pa.Array:
    """uint8[n, ...] as large_binary[n], without a copy of the data where it lies in order."""
    data = np.ascontiguousarray(rows, np.uint8)
    offsets = np.arange(len(data) + 1, dtype=np.int64) * (data[0].size if len(data) else 0)
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(data), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def as_floats(rows: np.ndarray) -> pa.Array:
    """float32[n, dim] as fixed_size_list<float>[dim]."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float32()), int(rows.shape[1]))


def as_text(values: pa.Array | pa.ChunkedArray, what: str) -> tuple[pa.Array, np.ndarray]:
    """Ids or labels of any plain type as strings; whole floats lose their `.0`, NaN becomes null.

    Returns:
      string[n], and bool[n]: bytes that are not UTF-8 (null in the first array).

    Raises:
      SourceError: the type has no text form; `what` says which column.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    bad = np.zeros(len(array), bool)
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array).cast(pa.float64())
        if pc.all(pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), 2.0**53))).as_py() is not False:
            array = array.cast(pa.int64())
    try:
        return array.cast(pa.string()), bad
    except pa.ArrowNotImplementedError:  # no stub of ours: so Arrow says that a type (list, struct) has no cast to text
        raise SourceError(f"{what}: type {array.type} has no text form", "name a column of strings or integers") from None
    except pa.ArrowInvalid:
        texts = [_decoded(value) for value in array.to_pylist()]
        bad = np.array([text is None for text in texts]) & array.is_valid().to_numpy(zero_copy_only=False)
        return pa.array(texts, pa.string()), bad


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def sift(table: pa.Table, problems: Sequence[Problem] = ()) -> tuple[pa.Table, list[Reject]]:
    """Splits a table into its good rows and rejects. Null and empty ids are always rejected; the first problem counts.

    Args:
      table: of `table_schema`; the input of a bad row may be null.
      problems: see `Problem`, most telling first.
    """
    missing = table["id"].is_null().to_numpy()
    empty = pc.fill_null(pc.equal(table["id"], ""), False).to_numpy()
    taken = np.zeros(table.num_rows, bool)
    rejects: list[Reject] = []
    every: list[Problem] = [*problems, (missing, "null-id", "the id is null"), (empty, "empty-id", "the id is empty")]
    for mask, code, reason in every:
        rows = np.flatnonzero(mask & ~taken)
        taken |= mask
        if not len(rows):
            continue
        ids, sources = table["id"].take(rows).to_pylist(), table["source"].take(rows).to_pylist()
        for row, name, source in zip(rows.tolist(), ids, sources, strict=True):
            rejects.append(Reject(name or "", source, code, reason if isinstance(reason, str) else reason(row)))
    return (table.filter(pa.array(~taken)) if taken.any() else table), rejects


def not_finite(rows: np.ndarray) -> Problem:
    """The problem of rows that hold NaN or infinity: float[n, dim]."""
    finite = np.isfinite(rows)

    def reason(row: int) -> str:
        column = int(np.flatnonzero(~finite[row])[0])
        return f"value {column} is {rows[row, column]}"

    return np.asarray(~finite.all(axis=1)), "not-finite", reason
