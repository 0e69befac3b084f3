"""Embedding of one shard: decoding, batching and the model run in C++; one Parquet file comes out.

TensorFlow is imported only when called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.data.examples import DatasetInfo, ShardInfo
from simpipe.embeddings import open_writer, row_group_rows, schema, vectors_column
from simpipe.errors import ContractError
from simpipe.index.distance import bad_rows
from simpipe.index.route import vector_rejects
from simpipe.types import Counts, Reject

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class EmbedSpec:
    """What embedding needs to know, the same for all shards."""

    info: DatasetInfo
    dim: int
    distance: str
    encoder: str
    batch_size: int


def encode_function(model: Any, spec: EmbedSpec) -> Callable[[tf.Tensor], tuple[Any, ...]]:
    """A compiled function from serialized examples string[n] to ids, labels, embeddings float32[n, dim] and metadata."""
    import tensorflow as tf

    from simpipe.data.parsing import parse_batch, parse_metadata

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(serialized: tf.Tensor) -> tuple[Any, ...]:
        ids, labels, inputs = parse_batch(serialized, spec.info.input)
        metadata = parse_metadata(serialized, spec.info.metadata) if spec.info.metadata else {}
        return ids, labels, tf.cast(model(inputs, training=False), tf.float32), metadata

    return encode


def embed_shard(
    encode: Callable[..., Any], shard: Path, shard_info: ShardInfo, spec: EmbedSpec, *, out: Path
) -> tuple[Counts, list[Reject]]:
    """Embeds one shard into one Parquet file, which appears complete or not at all.

    Args:
      encode: from `encode_function`; shared by all shards of a worker.
      shard: the TFRecord file.
      shard_info: its record in `dataset.json`.
      out: the Parquet file.

    Returns:
      Counts, and the examples left out because their embedding is not finite or has no direction.

    Raises:
      ContractError: the shard is truncated, corrupt, or holds another number of examples; names file and record.
    """
    import tensorflow as tf

    from simpipe.data.parsing import open_records

    names = np.array([*spec.info.class_names, None], object)  # index -1: no label
    kind = schema(spec.dim, distance=spec.distance, encoder=spec.encoder, metadata=metadata_fields(spec.info))
    group = row_group_rows(spec.dim)
    records = open_records(shard, spec.info.compression).batch(spec.batch_size).prefetch(4)
    rejects: list[Reject] = []
    read = 0
    held: list[pa.Table] = []
    with files.replacing(out) as temporary, open_writer(temporary, kind) as writer:
        try:
            for batch in records:
                *tensors, metadata = encode(batch)
                ids, labels, vectors = (tensor.numpy() for tensor in tensors)
                extra = [_column(metadata[name], kind.field(name).type) for name in spec.info.metadata]
                table, bad = _table([ids, names[labels], vectors], extra, kind, shard.name, read)
                read += len(ids)
                rejects += bad
                held.append(table)
                if sum(map(len, held)) >= group:
                    writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=group)
                    held = []
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            first = str(error.message).splitlines()[0][:160]
            raise ContractError(
                f"{shard}: cannot be read after record {read} ({first})",
                "the shard is truncated or corrupt: restore it, or run `simpipe shard` again",
            ) from None
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=group)
    if read != shard_info.num_examples:
        out.unlink()
        raise ContractError(f"{shard}: {read} records, dataset.json says {shard_info.num_examples}", "run `simpipe shard` again")
    return Counts(read, pq.read_metadata(out).num_rows, len(rejects)), rejects


def metadata_fields(info: DatasetInfo) -> list[pa.Field]:
    """Arrow fields of the metadata columns."""
    types = {"string": pa.string(), "int64": pa.int64(), "float": pa.float32()}
    return [pa.field(name, types[kind]) for name, kind in info.metadata.items()]


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """A ragged feature with at most one value an example as an Arrow column with nulls."""
    present = values.row_lengths().numpy() > 0
    flat = values.flat_values.numpy()
    filled = np.full(len(present), flat.dtype.type() if flat.dtype != object else b"", flat.dtype)
    filled[present] = flat
    if flat.dtype == object:
        return pa.array(filled, pa.binary(), mask=~present).cast(kind)
    return pa.array(filled, kind, mask=~present)


def _table(
    columns: list[np.ndarray], extra: list[pa.Array], kind: pa.Schema, source: str, first: int
) -> tuple[pa.Table, list[Reject]]:
    ids, labels, vectors = columns
    id_column = pa.array(ids, pa.binary()).cast(pa.string())
    not_finite, zero = bad_rows(vectors, "cosine")  # an embedding without direction is useless under any distance
    table = pa.table([id_column, pa.array(labels, pa.string()), vectors_column(vectors), *extra], schema=kind)
    bad = not_finite | zero
    if not bad.any():
        return table, []
    rejects = vector_rejects(id_column, not_finite, zero, source=source, first_row=first, unit="record")
    return table.take(np.flatnonzero(~bad)), rejects
