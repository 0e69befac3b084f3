"""Milvus: Parquet files as its bulk import reads them, and the schema of the collection that they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.errors import ConfigError, ContractError
from simpipe.exports import columns
from simpipe.exports.contract import Contents, Finished, Place, Plan, Written
from simpipe.exports.json_text import json_text, objects
from simpipe.exports.milvus_schema import (
    META,
    MOST_BYTES,
    MOST_DIM,
    MOST_VALUES,
    MilvusField,
    arrow_schema,
    collection_schema,
    fields_of,
)
from simpipe.items import ItemBlock
from simpipe.types import Reject

DATA = "data"
PATTERN = f"{DATA}/items-*.parquet"
SCHEMA_JSON = "schema.json"
MOST_FILES = 1024  # a request; more take several
MOST_FILE_BYTES = 16_000_000_000
_FILE_BYTES = 1 << 30  # of vectors, far below what the service reads: metadata may be larger
_FILE_ROWS = 1 << 22
_METRICS = {"cosine": "COSINE", "inner_product": "IP", "euclidean": "L2", "squared_euclidean": "L2"}
DISTANCES = {
    "cosine": "COSINE gives cos, larger is nearer: distance = 1 - score",
    "inner_product": "IP gives q·v, larger is nearer: distance = -score",
    "euclidean": "L2 gives the squared distance: distance = sqrt(score)",
    "squared_euclidean": "L2 gives the distance",
}


def plan(contents: Contents) -> Plan:
    """How each column is carried.

    Raises:
      ConfigError: a distance that Milvus does not know, or more dimensions than it holds.
    """
    if contents.distance not in _METRICS:
        raise ConfigError(
            f"--to milvus: release {contents.release} has the distance {contents.distance}; Milvus knows none such",
            "use --to numpy",
        )
    if contents.dim > MOST_DIM:
        raise ConfigError(f"--to milvus: dim {contents.dim}, and Milvus holds {MOST_DIM}", "use --to numpy")
    fields, dynamic, left_out = fields_of(contents.item_schema)
    carried = {field.name: f"{field.type}{f' of {field.element}' if field.element else ''}" for field in fields}
    carried = {field.name: carried[field.name] + (f", {field.note}" if field.note else "") for field in fields}
    carried |= dict.fromkeys(dynamic, f"JSON, in the dynamic field {META}")
    return Plan(contents, min(_FILE_ROWS, max(1, _FILE_BYTES // (4 * contents.dim))), carried, left_out)


def write(blocks: Iterator[ItemBlock], place: Place, plan: Plan) -> Written:
    """Writes `data/items-NAME.parquet`."""
    path = place.folder / DATA / f"items-{place.name}.parquet"
    fields, dynamic, _ = fields_of(plan.contents.item_schema)
    kind = arrow_schema(fields, bool(dynamic))
    items, rejects, longest = 0, [], {}
    with files.replacing(path) as temporary, pq.ParquetWriter(temporary, kind, compression="zstd") as writer:
        for block in blocks:
            table, found, lengths = converted(block, fields, dynamic, kind)
            writer.write_table(table)
            items += len(table)
            rejects += found
            longest = {name: max(longest.get(name, 0), value) for name, value in lengths.items()}
    return Written((path,), items, tuple(rejects), longest)


def converted(
    block: ItemBlock, fields: Sequence[MilvusField], dynamic: Sequence[str], kind: pa.Schema
) -> tuple[pa.Table, list[Reject], dict[str, int]]:
    """A block as Milvus takes it.

    Returns:
      The table, items that break a limit (left out of it), and the longest values by field.
    """
    reasons: dict[int, str] = {}
    longest: dict[str, int] = {}
    out: dict[str, Any] = {}
    for field in fields:
        out[field.name] = _value(field, columns.plain(block.table.column(field.name)), reasons, longest)
    offsets = np.arange(len(block) + 1, dtype=np.int32) * block.vectors.shape[1]
    out["embedding"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(block.vectors).reshape(-1)))
    if dynamic:
        members = [(name, _text(block.table.column(name))) for name in dynamic]
        out[META] = objects(members, len(block))
        _refuse(reasons, columns.byte_lengths(out[META]) > MOST_BYTES, META, f"more than {MOST_BYTES} bytes")
    ids = columns.plain(block.table.column("id"))
    _refuse(reasons, columns.byte_lengths(ids) == 0, "id", "empty")
    table = pa.table(out).cast(kind)
    if reasons:
        keep = np.ones(len(block), bool)
        keep[list(reasons)] = False
        table = table.filter(pa.array(keep))
    rejects = [Reject(ids[row].as_py(), "", "milvus-limit", reasons[row]) for row in sorted(reasons)]
    return table, rejects, longest


def _text(column: Any) -> Any:
    """JSON of a column; null where it is null, so that the member is left out."""
    values = columns.plain(column)
    return pc.if_else(values.is_valid(), json_text(values), pa.scalar(None, pa.string()))


def _value(field: MilvusField, values: Any, reasons: dict[int, str], longest: dict[str, int]) -> Any:
    """A column in the type of its field. Rows that cannot be said get into `reasons`, and null here."""
    if not pa.types.is_list(values.type):
        scalar, bad = _scalars(values)
        for why, rows in bad:
            _refuse(reasons, rows, field.name, why)
        if field.type == "VARCHAR":
            longest[field.name] = int(columns.byte_lengths(scalar).max(initial=0))
        return scalar
    flat = values.flatten()
    scalar, bad = _scalars(flat)
    gone = ~scalar.is_valid().to_numpy(zero_copy_only=False)
    for why, rows in [*bad, ("a list with null or NaN in it", gone)]:
        _refuse(reasons, columns.any_in_list(values, rows), field.name, why)
    lengths = columns.list_lengths(values)
    _refuse(reasons, lengths > MOST_VALUES, field.name, f"more than {MOST_VALUES} values")
    longest[f"{field.name}[]"] = int(lengths.max(initial=0))
    if field.element == "VARCHAR":
        longest[field.name] = int(columns.byte_lengths(scalar).max(initial=0))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    mask = values.is_null() if values.null_count else None
    return pa.ListArray.from_arrays(offsets, scalar, mask=mask)


def _scalars(values: Any) -> tuple[Any, list[tuple[str, np.ndarray]]]:
    """Plain values without NaN and in signed integers, and which of them cannot be said, by reason."""
    kind = values.type
    if pa.types.is_string(kind):
        return values, [(f"text of more than {MOST_BYTES} bytes", columns.byte_lengths(values) > MOST_BYTES)]
    if pa.types.is_floating(kind):
        values = columns.without_nan(values.cast(pa.float32()) if pa.types.is_float16(kind) else values)
        return values, [("an infinite number", columns.infinite(values))]
    if columns.is_temporal(kind):
        return columns.as_integers(values), []
    if pa.types.is_uint64(kind):
        beyond = columns.beyond_int64(values)
        kept = pc.if_else(pa.array(beyond), pa.scalar(None, kind), values)
        return kept.cast(pa.int64()), [(f"beyond {np.iinfo(np.int64).max}", beyond)]
    return values, []


def _refuse(reasons: dict[int, str], rows: np.ndarray, column: str, why: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        reasons.setdefault(row, f"column {column}: {why}")


def finish(folder: Path, plan: Plan, records: Sequence[Mapping[str, Any]], *, memory: int) -> Finished:
    """Writes `schema.json`: the collection's schema, whose texts are as long as the longest, rounded up.

    Raises:
      ContractError: a file is larger than what the service reads, which takes metadata of kilobytes an item.
    """
    del memory
    for record in records:
        if record["size"] > MOST_FILE_BYTES:
            message = f"{folder / record['path']}: {record['size']:,} bytes of {record['items']:,} items"
            raise ContractError(f"{message}; Milvus reads files of {MOST_FILE_BYTES:,}", "build with more build.store_files")
    contents = plan.contents
    fields, dynamic, _ = fields_of(contents.item_schema)
    longest: dict[str, int] = {}
    for record in records:
        for name, value in record["longest"].items():
            longest[name] = max(longest.get(name, 0), value)
    about = f"items of simpipe release {contents.release}"
    schema = collection_schema(fields, dim=contents.dim, dynamic=bool(dynamic), longest=longest, about=about)
    files.write_json(folder / SCHEMA_JSON, schema)
    several = (f"an import request takes {MOST_FILES} files: make several",) if len(records) > MOST_FILES else ()
    metric = _METRICS[contents.distance]
    return Finished(
        (folder / SCHEMA_JSON,),
        reading=(
            "import json, pymilvus",
            "from pymilvus.bulk_writer import bulk_import",
            f'schema = pymilvus.CollectionSchema.construct_from_dict(json.load(open(f"{{OUT}}/{SCHEMA_JSON}")))',
            "client = pymilvus.MilvusClient(URL)",
            "index = client.prepare_index_params()",
            f'index.add_index("embedding", index_type="FLAT", metric_type="{metric}")  # exact; or HNSW and others',
            "client.create_collection(NAME, schema=schema, index_params=index)",
            "bulk_import(URL, NAME, files=[[path] for path in PATHS])  # of data/, in the server's bucket",
        ),
        notes=several,
    )
