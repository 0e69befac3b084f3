"""Which field of a Milvus collection a column becomes, by the limits that Milvus publishes.

From "Milvus Limits", "Prepare Source Data" and the import's own reader of Parquet: names of letters, digits and underscores
that begin with none of the digits, 255 characters at most; 64 fields; VARCHAR of 65,535 bytes; 32,768 dimensions; 4,096 values
an array; no NaN and no infinite values. Nullable fields came with Milvus 2.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from simpipe.exports import columns
from simpipe.exports.json_text import can_be_text

MOST_FIELDS = 64
MOST_BYTES = 65_535
MOST_DIM = 32_768
MOST_VALUES = 4096
META = "$meta"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_OWN = frozenset(("RowID", "Timestamp", META, "embedding", "id", "label"))
# Numbers of pymilvus's DataType.
_CODES = {"BOOL": 1, "INT8": 2, "INT16": 3, "INT32": 4, "INT64": 5, "FLOAT": 10, "DOUBLE": 11, "VARCHAR": 21, "ARRAY": 22}
_FLOAT_VECTOR = 101


@dataclass(frozen=True)
class MilvusField:
    """A field: its Milvus type, the Arrow type it is written as, the type of an array's values, and a word on it."""

    name: str
    type: str
    kind: pa.DataType
    element: str | None = None
    note: str = ""


def _scalar(kind: pa.DataType) -> tuple[str, pa.DataType, str] | None:
    types = pa.types
    if types.is_string(kind):
        return "VARCHAR", pa.string(), ""
    if types.is_boolean(kind):
        return "BOOL", kind, ""
    if columns.is_temporal(kind):
        return "INT64", pa.int64(), columns.since(kind)
    if types.is_integer(kind):
        # Unsigned ones go into the next larger type: Milvus has none.
        bits = kind.bit_width if types.is_signed_integer(kind) else min(64, 2 * kind.bit_width)
        return f"INT{bits}", {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits], ""
    if types.is_floating(kind):
        return ("DOUBLE", kind, "NaN is null") if types.is_float64(kind) else ("FLOAT", pa.float32(), "NaN is null")
    return None


def field_of(name: str, kind: pa.DataType) -> MilvusField | None:
    """The field that a column becomes; None where there is none for its name or type."""
    if name in _OWN - {"id", "label"} or not _NAME.fullmatch(name):
        return None
    kind = columns.plain_type(kind)
    if pa.types.is_list(kind):
        inner = _scalar(kind.value_type)
        return None if inner is None else MilvusField(name, "ARRAY", pa.list_(inner[1]), inner[0], inner[2])
    scalar = _scalar(kind)
    return None if scalar is None else MilvusField(name, scalar[0], scalar[1], note=scalar[2])


def fields_of(schema: pa.Schema) -> tuple[list[MilvusField], list[str], dict[str, str]]:
    """Fields of items (id, label, metadata), columns that go to the dynamic field, and why others are left out."""
    fields, dynamic, left_out = [], [], {}
    for column in schema:
        found = field_of(column.name, column.type)
        if found is not None and len(fields) < MOST_FIELDS - 2:  # embedding and the dynamic field
            fields.append(found)
        elif can_be_text(columns.plain_type(column.type)):
            dynamic.append(column.name)
        else:
            left_out[column.name] = f"{column.type}: no field of Milvus holds bytes"
    return fields, dynamic, left_out


def arrow_schema(fields: Sequence[MilvusField], dynamic: bool) -> pa.Schema:
    """Of the Parquet files; lists have no fixed size, which importers before Milvus 2.6 do not read."""
    own = [pa.field(field.name, field.kind) for field in fields]
    meta = [pa.field(META, pa.string())] if dynamic else []
    return pa.schema([*own, pa.field("embedding", pa.list_(pa.float32())), *meta])


def collection_schema(
    fields: Sequence[MilvusField], *, dim: int, dynamic: bool, longest: Mapping[str, int], about: str
) -> dict[str, Any]:
    """What `pymilvus.CollectionSchema.construct_from_dict` reads.

    Args:
      longest: by field, bytes of the longest text; for an array `NAME[]` is the most values.
    """
    described = []
    for field in fields:
        params: dict[str, int] = {}
        if "VARCHAR" in (field.type, field.element):
            params["max_length"] = _room(longest.get(field.name, 0), MOST_BYTES)
        record: dict[str, Any] = {"name": field.name, "description": field.note, "type": _CODES[field.type]}
        if field.element is not None:
            record["element_type"] = _CODES[field.element]
            params["max_capacity"] = _room(longest.get(f"{field.name}[]", 0), MOST_VALUES)
        if field.name == "id":
            record |= {"is_primary": True, "auto_id": False}
        else:
            record["nullable"] = True
        described.append({**record, "params": params})
    vector = {"name": "embedding", "description": "", "type": _FLOAT_VECTOR, "params": {"dim": dim}}
    return {"auto_id": False, "description": about, "fields": [*described, vector], "enable_dynamic_field": dynamic}


def _room(needed: int, most: int) -> int:
    """A power of two, 64 at least: room for later values; a large one makes importers reserve memory."""
    return min(most, max(64, 1 << (needed - 1).bit_length() if needed else 64))
