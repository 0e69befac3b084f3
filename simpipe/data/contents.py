"""What an example holds before anything is decoded, and its digest. Imports TensorFlow; loaded only where examples are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from simpipe.data.examples import DatasetInfo
from simpipe.data.parsing import parse_features, parse_metadata
from simpipe.digests import digest_rows
from simpipe.embeddings import vectors_column


def parse_contents(serialized: tf.Tensor, info: DatasetInfo) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, dict[str, Any]]:
    """Features of a batch, the input as it is stored.

    Args:
      serialized: string[n].

    Returns:
      ids string[n], labels int64[n] (-1 where absent), inputs (string[n] of bytes, or float32[n, *shape]), and metadata
      as `parse_metadata` has it.
    """
    metadata = parse_metadata(serialized, info.metadata) if info.metadata else {}
    return *parse_features(serialized, info.input), metadata


def content_table(ids: Any, labels: Any, inputs: Any, metadata: dict[str, Any], info: DatasetInfo) -> pa.Table:
    """Tensors of `parse_contents` as columns id, label (the class's name), digest, and metadata."""
    names = np.array([*info.class_names, None], object)  # index -1: no label
    id_column = pa.array(ids.numpy(), pa.binary()).cast(pa.string())
    label = pa.array(names[labels.numpy()], pa.string())
    extra = {field.name: _column(metadata[field.name], field.type) for field in metadata_fields(info)}
    digest = digest_rows({"label": label, "input": _inputs(inputs.numpy()), **extra})
    return pa.table({"id": id_column, "label": label, "digest": digest, **extra})


def metadata_fields(info: DatasetInfo) -> list[pa.Field]:
    """Arrow fields of the metadata columns."""
    types = {"string": pa.string(), "int64": pa.int64(), "float": pa.float32()}
    return [pa.field(name, types[kind]) for name, kind in info.metadata.items()]


def _inputs(values: np.ndarray) -> pa.Array:
    if values.dtype == object:
        return pa.array(values, pa.large_binary())
    return vectors_column(values.reshape(len(values), -1))


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """A ragged feature with at most one value an example as an Arrow column with nulls."""
    present = values.row_lengths().numpy() > 0
    flat = values.flat_values.numpy()
    filled = np.full(len(present), flat.dtype.type() if flat.dtype != object else b"", flat.dtype)
    filled[present] = flat
    if flat.dtype == object:
        return pa.array(filled, pa.binary(), mask=~present).cast(kind)
    return pa.array(filled, kind, mask=~present)
