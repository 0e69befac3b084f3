"""Rows become `tf.train.Example` records of a shard. TensorFlow is imported only where records are made."""

# pyright: reportAttributeAccessIssue=false
# (protobuf makes its members when imported)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from simpipe.data.examples import InputSpec, ShardInfo
from simpipe.data.record_writer import RecordWriter, finish_shard

_SLICE = 1024
CLASS_INDEX = "class index"


def write_rows(path: Path, rows: pa.Table, *, input: InputSpec, compression: Literal["", "gzip"], folder: Path) -> ShardInfo:
    """Writes a shard and its sidecar, rows in the order of the table. The same rows give the same bytes.

    Args:
      path: of the shard, in `folder`.
      rows: columns `id`, `class index`, `input`, and metadata columns (string, int64 or float32).
      input: gives the input feature its name.
      folder: the data set's.
    """
    classes = rows[CLASS_INDEX].to_numpy()
    first = np.ones(len(classes), bool)
    first[1:] = classes[1:] != classes[:-1]
    with RecordWriter(path, compression) as writer:
        for record, begins_class in zip(serialize(rows, input), first.tolist(), strict=True):
            if begins_class:
                writer.class_boundary()
            writer.write(record)
    begins = np.flatnonzero(first)
    runs = np.diff(np.append(begins, len(classes)))
    return finish_shard(writer, folder, list(zip(classes[begins].tolist(), runs.tolist(), strict=True)))


def serialize(rows: pa.Table, spec: InputSpec) -> Iterator[bytes]:
    """Each row as a serialized `tf.train.Example`, byte for byte the same every time.

    Features: `id` (bytes), `label` (int64 class index, -1 without one), the input, and metadata (absent where null).

    Args:
      rows: see `write_rows`; a column `source` is left out.
      spec: gives the input feature its name.
    """
    from tensorflow.core.example import example_pb2

    places = {"id": "id", "label": CLASS_INDEX, spec.name: "input"}
    places |= {name: name for name in rows.column_names if name not in {"id", "label", "input", "source", CLASS_INDEX}}
    for start in range(0, rows.num_rows, _SLICE):
        part = rows.slice(start, _SLICE)
        columns = [(name, *_kind(part.schema.field(column).type), _values(part[column])) for name, column in places.items()]
        for row in range(part.num_rows):
            example = example_pb2.Example()
            features = example.features.feature
            for name, kind, many, values in columns:
                value = values[row]
                if value is None:
                    continue
                held = getattr(features[name], kind).value
                if many:
                    held.extend(value)
                else:
                    held.append(value)
            yield example.SerializeToString(deterministic=True)


def _kind(column: pa.DataType) -> tuple[str, bool]:
    """The field of `tf.train.Feature` that holds such values, and whether a row has several."""
    if pa.types.is_integer(column):
        return "int64_list", False
    if pa.types.is_fixed_size_list(column):
        return "float_list", True
    return ("float_list" if pa.types.is_floating(column) else "bytes_list"), False


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; strings as UTF-8 bytes."""
    return (column.cast(pa.binary()) if pa.types.is_string(column.type) else column).to_pylist()
