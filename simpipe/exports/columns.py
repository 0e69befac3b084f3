"""Columns of any type, as a target takes them: plain Arrow arrays, and what of them a JSON number cannot say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc

_LARGEST = np.iinfo(np.int64).max


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries and 64-bit offsets."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def plain(column: pa.ChunkedArray | pa.Array) -> Any:
    """One array of a column, of `plain_type`."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    kind = plain_type(column.type)
    return column if column.type == kind else column.cast(kind)


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_temporal(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) and not pa.types.is_interval(kind)


def since(kind: pa.DataType) -> str:
    """What the integers of a temporal type count."""
    unit = getattr(kind, "unit", "day" if pa.types.is_date32(kind) else "ms")
    name = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "day": "days"}[unit]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return f"{name} since 1970-01-01" + (" UTC" if getattr(kind, "tz", None) else "")
    return name if pa.types.is_duration(kind) else f"{name} of the day"


def as_integers(values: Any) -> Any:
    """A temporal array as int64."""
    whole = pa.int32() if values.type.bit_width == 32 else pa.int64()
    return values.cast(whole).cast(pa.int64())


def without_nan(values: Any) -> Any:
    """Floats with null for NaN."""
    nan = pc.fill_null(pc.is_nan(values), False)
    return pc.if_else(nan, pa.scalar(None, values.type), values)


def infinite(values: Any) -> np.ndarray:
    """bool[n]: infinite floats."""
    return _mask(pc.is_inf(values))


def beyond_int64(values: Any) -> np.ndarray:
    """bool[n]: of uint64, what no int64 holds."""
    return _mask(pc.greater(values, pa.scalar(_LARGEST, pa.uint64())))


def byte_lengths(values: Any) -> np.ndarray:
    """int64[n] of a string array; 0 of null."""
    return pc.fill_null(pc.binary_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def list_lengths(values: Any) -> np.ndarray:
    """int64[n] of a list array; 0 of null."""
    return pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def any_in_list(lists: Any, bad: np.ndarray) -> np.ndarray:
    """bool[n]: lists of which a value is bad; `bad`: bool of the flattened values."""
    out = np.zeros(len(lists), bool)
    out[pc.list_parent_indices(lists).to_numpy()[bad]] = True
    return out


def _mask(found: Any) -> np.ndarray:
    return pc.fill_null(found, False).to_numpy(zero_copy_only=False)
