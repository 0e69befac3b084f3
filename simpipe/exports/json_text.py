"""JSON text of Arrow columns, a whole column at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.exports.columns import infinite, is_list, is_temporal, plain, without_nan

_SPECIAL = r'[\x00-\x1f"\\]'  # what a JSON string escapes
_NULL = "null"


def can_be_text(kind: pa.DataType) -> bool:
    """Whether `json_text` takes a type: no bytes."""
    if pa.types.is_dictionary(kind) or is_list(kind):
        return can_be_text(kind.value_type)
    if pa.types.is_struct(kind):
        return all(can_be_text(kind.field(place).type) for place in range(kind.num_fields))
    simple = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, is_temporal, pa.types.is_null)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or any(fits(kind) for fits in simple)


def json_text(values: pa.ChunkedArray | pa.Array) -> Any:
    """A JSON value a row: string[n]; `null` for null, NaN and infinite values.

    Floats have the fewest digits that read back as the same float32 or float64. Times are strings (ISO 8601 with a space),
    decimals too.
    """
    values = plain(values)
    kind = values.type
    if pa.types.is_null(kind):
        return pa.array([_NULL] * len(values), pa.string())
    if pa.types.is_string(kind):
        return pc.fill_null(quoted(values), _NULL)
    if is_list(kind):
        # Rows that are null must have no values of their own in what is joined.
        rows = pa.ListArray.from_arrays(_offsets(values), json_text(values.flatten()))
        return _known(values, _join("[", pc.binary_join(rows, ","), "]"))
    if pa.types.is_struct(kind):
        parts = [_join(f"{json.dumps(kind.field(place).name, ensure_ascii=False)}:", json_text(pc.struct_field(values, [place])))
                 for place in range(kind.num_fields)]  # fmt: skip
        return _known(values, _join("{", comma_joined(parts, len(values)), "}"))
    if pa.types.is_floating(kind):
        values = values.cast(pa.float32()) if pa.types.is_float16(kind) else values
        values = pc.if_else(pa.array(infinite(values)), pa.scalar(None, values.type), without_nan(values))
    text = values.cast(pa.string())
    if is_temporal(kind) or pa.types.is_decimal(kind):
        text = quoted(text)
    return pc.fill_null(text, _NULL)


def quoted(values: Any) -> Any:
    """JSON strings of a string array; null stays null."""
    special = pc.fill_null(pc.match_substring_regex(values, _SPECIAL), False).to_numpy(zero_copy_only=False)
    if not special.any():
        return _join('"', values, '"')
    places = np.flatnonzero(special)  # few: most text needs no escape
    escaped = [json.dumps(text, ensure_ascii=False) for text in values.take(pa.array(places)).to_pylist()]
    return pc.replace_with_mask(_join('"', values, '"'), pa.array(special), pa.array(escaped, pa.string()))


def objects(members: Sequence[tuple[str, Any]], rows: int) -> Any:
    """JSON objects: string[rows], of members by name, each of JSON text; a null member is left out of its object."""
    parts = [_join(f"{json.dumps(name, ensure_ascii=False)}:", text) for name, text in members]
    return _join("{", comma_joined(parts, rows), "}")


def comma_joined(parts: Sequence[Any], rows: int) -> Any:
    """Rows of several string arrays with commas between them, nulls left out: string[rows]."""
    if not parts:
        return pa.array([""] * rows, pa.string())
    # Arrow (25) drops rows whose values are all null, whatever `null_handling` says: an empty first value keeps them.
    start = pa.array([""] * rows, pa.string())
    return pc.utf8_slice_codeunits(pc.binary_join_element_wise(start, *parts, ",", null_handling="skip"), 1)


def _join(*parts: Any) -> Any:
    """Pieces and arrays next to each other; null where one is."""
    return pc.binary_join_element_wise(*parts, "")


def _known(values: Any, text: Any) -> Any:
    return pc.if_else(pc.is_valid(values), text, _NULL)


def _offsets(lists: Any) -> Any:
    """int32[n + 1] of lists whose null rows have no values."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
