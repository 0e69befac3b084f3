"""Vertex AI Vector Search: JSON lines as its batch import reads them, and the metadata file that an index is created from.

The layout is from Google's pages "Input data format and structure", "Filter vector matches" and "Index configuration
parameters": files directly under one folder, named `.json`, not compressed, at most 5,000; an id once. They publish no limit on
the length of an id, or on the number or length of restricts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrow import pc
from simpipe.errors import ConfigError
from simpipe.exports import columns
from simpipe.exports.contract import Contents, Finished, Place, Plan, Written
from simpipe.exports.json_text import comma_joined, json_text, quoted
from simpipe.gcs import SCHEME
from simpipe.items import ItemBlock
from simpipe.types import Reject

DATA = "data"
PATTERN = f"{DATA}/items-*.json"
INDEX_JSON = "index.json"
MOST_FILES = 5000
_FILE_BYTES = 1 << 30  # of vectors; their text is about three times as long
_GIB = 1 << 30
_SHARDS = (("SHARD_SIZE_SMALL", 2 * _GIB), ("SHARD_SIZE_MEDIUM", 20 * _GIB), ("SHARD_SIZE_LARGE", 50 * _GIB))
_MEASURES = {
    "cosine": ("DOT_PRODUCT_DISTANCE", "UNIT_L2_NORM"),
    "inner_product": ("DOT_PRODUCT_DISTANCE", "NONE"),
    "euclidean": ("SQUARED_L2_DISTANCE", "NONE"),
    "squared_euclidean": ("SQUARED_L2_DISTANCE", "NONE"),
    "manhattan": ("L1_DISTANCE", "NONE"),
}
_SIGN = "see by one query whether the service's score grows or falls with nearness"
DISTANCES = {
    "cosine": f"from the dot product q·v of unit vectors: distance = 1 - q·v ({_SIGN})",
    "inner_product": f"from the dot product q·v: distance = -(q·v) ({_SIGN})",
    "euclidean": "the service's score is squared: distance = sqrt(score)",
    "squared_euclidean": "the service's score is the distance",
    "manhattan": "the service's score is the distance",
}


@dataclass(frozen=True)
class _Role:
    """What a column becomes: `restricts`, or a number under the given name. `note`: in words."""

    place: str
    note: str


def plan(contents: Contents) -> Plan:
    """How each column is carried.

    Raises:
      ConfigError: more files than the service reads.
    """
    rows = max(1, _FILE_BYTES // (4 * contents.dim))
    most = contents.store_files + contents.items // rows
    if most > MOST_FILES:
        raise ConfigError(
            f"--to vertex: up to {most:,} files for {contents.items:,} vectors of dim {contents.dim} "
            f"({contents.vector_bytes:,} bytes) in {contents.store_files:,} store files; the service reads {MOST_FILES:,}",
            "build with fewer build.store_files",
        )
    carried = {"id": "id", "label": "restricts, namespace label; crowding_tag"}
    left_out = {}
    for field in contents.fields:
        role = _role(columns.plain_type(field.type))
        if role is None:
            left_out[field.name] = f"{field.type}: neither text nor a number"
        else:
            carried[field.name] = role.note
    return Plan(contents, rows, carried, left_out)


def _role(kind: pa.DataType) -> _Role | None:
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return _Role("restricts", "restricts" if pa.types.is_string(kind) else 'restricts, "true" or "false"')
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return _Role("restricts", "restricts, a token a value")
    if pa.types.is_integer(kind):
        return _Role("value_int", "numeric_restricts, value_int")
    if columns.is_temporal(kind):
        return _Role("value_int", f"numeric_restricts, value_int: {columns.since(kind)}")
    if pa.types.is_floating(kind):
        place = "value_double" if pa.types.is_float64(kind) else "value_float"
        return _Role(place, f"numeric_restricts, {place}; NaN is left out")
    return None


def write(blocks: Iterator[ItemBlock], place: Place, plan: Plan) -> Written:
    """Writes `data/items-NAME.json`, an item a line."""
    path = place.folder / DATA / f"items-{place.name}.json"
    items, rejects = 0, []
    with files.replacing(path) as temporary, open(temporary, "wb") as sink:
        for block in blocks:
            text, found = lines(block, plan)
            rejects += found
            for chunk in pa.chunked_array([text]).chunks:
                sink.write(_bytes_of(chunk))
            items += len(text)
    return Written((path,), items, tuple(rejects))


def lines(block: ItemBlock, plan: Plan) -> tuple[Any, list[Reject]]:
    """The lines of a block: string[n], with their ends; and items that cannot be said, which are left out."""
    table = block.table
    ids = columns.plain(table.column("id"))
    tokens, numbers, bad = [], [], np.zeros(len(table), bool)
    reasons: dict[int, str] = {}

    def refuse(rows: np.ndarray, column: str, why: str) -> None:
        bad[rows] = True
        for row in np.flatnonzero(rows).tolist():
            reasons.setdefault(row, f"column {column}: {why}")

    refuse(columns.byte_lengths(ids) == 0, "id", "empty")
    for name in ("label", *(field.name for field in plan.contents.fields if field.name in plan.carried)):
        values = columns.plain(table.column(name))
        role = _role(values.type)
        assert role is not None
        if role.place == "restricts":
            tokens.append(_restrict(name, values))
            continue
        numbers.append(_number(name, role.place, values, refuse))
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(block.vectors.reshape(-1)), block.vectors.shape[1])
    label = columns.plain(table.column("label"))
    crowding = pc.coalesce(_joined(',"crowding_tag":', quoted(label)), "")
    text = _joined(
        *('{"id":', quoted(ids), ',"embedding":', json_text(embedding)),
        *(',"restricts":[', comma_joined(tokens, len(table)), '],"numeric_restricts":[', comma_joined(numbers, len(table)), "]"),
        *(crowding, "}\n"),
    )
    names = ids.take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    rejects = [Reject(name, "", "vertex-limit", reasons[row]) for name, row in zip(names, sorted(reasons), strict=True)]
    return (text.filter(pa.array(~bad)) if bad.any() else text), rejects


def _restrict(name: str, values: Any) -> Any:
    """Token restricts of a column: string[n], null where there is no value."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.string())
    if pa.types.is_list(values.type):
        flat = values.flatten()
        known = pc.is_valid(flat)
        parents = pc.list_parent_indices(values).filter(known).to_numpy()
        counts = np.bincount(parents, minlength=len(values))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        tokens = pc.binary_join(pa.ListArray.from_arrays(offsets, quoted(flat.filter(known))), ",")
        tokens = pc.if_else(pa.array(counts > 0), tokens, pa.scalar(None, pa.string()))
    else:
        tokens = quoted(values)
    return _joined(f'{{"namespace":{json.dumps(name, ensure_ascii=False)},"allow":[', tokens, "]}")


def _number(name: str, place: str, values: Any, refuse: Callable[[np.ndarray, str, str], None]) -> Any:
    """Numeric restricts of a column: string[n], null where there is no value."""
    if pa.types.is_floating(values.type):
        values = values.cast(pa.float32()) if pa.types.is_float16(values.type) else columns.without_nan(values)
        values = columns.without_nan(values)
        refuse(columns.infinite(values), name, "an infinite number, which JSON cannot say")
    elif columns.is_temporal(values.type):
        values = columns.as_integers(values)
    elif pa.types.is_uint64(values.type):
        refuse(columns.beyond_int64(values), name, f"beyond {np.iinfo(np.int64).max}, the largest value_int")
    start = f'{{"namespace":{json.dumps(name, ensure_ascii=False)},"{place}":'
    return _joined(start, values.cast(pa.string()), "}")


def _joined(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _bytes_of(text: Any) -> Any:
    """The bytes of all rows of a string array, one after the other."""
    if not len(text):
        return b""
    _, offset_buffer, data = text.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1]
    return memoryview(data)[int(offsets[0]) : int(offsets[-1])]


def finish(folder: Path, plan: Plan, records: Sequence[Mapping[str, Any]], *, memory: int) -> Finished:
    """Writes `index.json`, the metadata file for the creation of an index; beside the data, which may have no foreign files."""
    del records, memory
    contents = plan.contents
    measure, norm = _MEASURES[contents.distance]
    remote = str(folder).startswith(SCHEME)
    where = f"{folder}/{DATA}" if remote else "gs://BUCKET/FOLDER/data"
    shard = next((name for name, most in _SHARDS if contents.vector_bytes <= most), _SHARDS[-1][0])
    config = {
        "dimensions": contents.dim,
        "approximateNeighborsCount": 150,
        "shardSize": shard,
        "distanceMeasureType": measure,
        "featureNormType": norm,
        "algorithmConfig": {"treeAhConfig": {"leafNodeEmbeddingCount": 1000}},
    }
    files.write_json(folder / INDEX_JSON, {"contentsDeltaUri": where, "isCompleteOverwrite": True, "config": config})
    copy = () if remote else (f"copy {DATA}/ to Cloud Storage, and name that folder as contentsDeltaUri of {INDEX_JSON}",)
    return Finished(
        (folder / INDEX_JSON,),
        reading=("import json", "items = [json.loads(line) for line in open(PATH)]  # each file of data/"),
        notes=(*copy, "gcloud ai indexes create --metadata-file=index.json --display-name=NAME --region=REGION"),
    )
