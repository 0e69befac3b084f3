"""What a user indexes beside an item (`data`), as a column of the store: arrays as `.npy` bytes, anything else as JSON.

Nothing is pickled: an object that is neither is refused by name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.errors import QueryError

DATA_COLUMN = "data"
KIND = pa.large_binary()  # offsets of 64 bits: pictures of many items pass 2 GiB
_NPY = b"\x93NUMPY"
_KINDS = "biufcSUmM"  # dtypes that are no Python objects


def encode_payload(data: Sequence[Any]) -> pa.Array:
    """large_binary[n]; null where there is no data. Arrays of one shape and dtype are encoded as one block.

    Raises:
      QueryError: a value can't be stored; names its row and type.
    """
    first = np.asarray(data[0]) if len(data) and isinstance(data[0], (np.ndarray, np.generic)) else None
    if first is None or first.dtype.kind not in _KINDS or not first.nbytes or not _all_like(first, data):
        return pa.array([_encode(value, row) for row, value in enumerate(data)], KIND)
    stacked = np.stack(data).astype(first.dtype, copy=False)  # stack makes the byte order native, the header keeps it
    rows = np.ascontiguousarray(stacked).reshape(len(data), -1).view(np.uint8)
    whole = np.frombuffer(_npy(first), np.uint8)
    header = whole[: len(whole) - first.nbytes]  # the same for all
    block = np.empty((len(rows), len(whole)), np.uint8)
    block[:, : len(header)], block[:, len(header) :] = header, rows
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * block.shape[1]
    return pa.Array.from_buffers(KIND, len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def _all_like(first: np.ndarray, data: Sequence[Any]) -> bool:
    arrays = (np.ndarray, np.generic)
    return all(isinstance(value, arrays) and value.dtype == first.dtype and value.shape == first.shape for value in data)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return buffer.getvalue()


def _encode(value: Any, row: int) -> bytes | None:
    if value is None:
        return None
    cure = "index arrays, numbers, strings, or lists and dicts of them"
    if isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).dtype.kind in _KINDS:
        return _npy(np.asarray(value))
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise QueryError(f"data of row {row}: a {type(value).__name__} can't be saved ({error})", cure) from None


def decode_payload(value: bytes | None) -> Any:
    """The value that `encode_payload` stored; a scalar comes back as a scalar.

    Raises:
      ValueError: the bytes are damaged.
    """
    if value is None:
        return None
    if value[:6] == _NPY:
        array = np.load(io.BytesIO(value), allow_pickle=False)
        return array if array.ndim else array[()]
    return json.loads(value)


def decode_column(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The values of a whole column; one that holds arrays of one shape and dtype is read as one block."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [value for chunk in chunks for value in _decode_chunk(chunk.cast(KIND))]


def _decode_chunk(chunk: Any) -> list[Any]:
    if not len(chunk) or chunk.null_count:
        return [decode_payload(value) for value in chunk.to_pylist()]
    _, offset_buffer, data_buffer = chunk.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(chunk) + 1, chunk.offset * 8)
    width = int(offsets[1] - offsets[0])
    first = chunk[0].as_py()
    if first[:6] != _NPY or (np.diff(offsets) != width).any():
        return [decode_payload(value) for value in chunk.to_pylist()]
    block = np.frombuffer(data_buffer, np.uint8, width * len(chunk), offsets[0]).reshape(len(chunk), width)
    array = np.load(io.BytesIO(first), allow_pickle=False)
    header = width - array.nbytes
    # In column order a row's bytes mean something else; `encode_payload` writes none.
    if not array.nbytes or not array.flags.c_contiguous or (block[:, :header] != block[0, :header]).any():
        return [decode_payload(value) for value in chunk.to_pylist()]
    return list(np.ascontiguousarray(block[:, header:]).view(array.dtype).reshape(len(chunk), *array.shape))
