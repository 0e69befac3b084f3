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
    """A compiled function from serialized examples string[n] to embeddings float32[n, dim] and what `parse_contents` gives."""
    import tensorflow as tf

    from simpipe.data.contents import parse_contents
    from simpipe.data.parsing import decode_inputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(serialized: tf.Tensor) -> tuple[Any, ...]:
        contents = parse_contents(serialized, spec.info)
        inputs = decode_inputs(contents[2], spec.info.input)
        return tf.cast(model(inputs, training=False), tf.float32), *contents

    return encode


def embedding_schema(spec: EmbedSpec) -> pa.Schema:
    """Of embedded files."""
    from simpipe.data.contents import metadata_fields

    return schema(spec.dim, distance=spec.distance, encoder=spec.encoder, metadata=metadata_fields(spec.info), digests=True)


def embed_shard(
    encode: Callable[..., Any],
    shard: Path,
    shard_info: ShardInfo,
    spec: EmbedSpec,
    *,
    out: Path,
    rows: np.ndarray | None = None,
) -> tuple[Counts, list[Reject]]:
    """Embeds one shard into one Parquet file, which appears complete or not at all.

    Args:
      encode: from `encode_function`; shared by all shards of a worker.
      shard: the TFRecord file.
      shard_info: its record in `dataset.json`.
      out: the Parquet file.
      rows: int64[m], ascending: embeds these records only; None: all.

    Returns:
      Counts, and the examples left out because their embedding is not finite or has no direction.

    Raises:
      ContractError: the shard is truncated, corrupt, or holds another number of examples; names file and record.
    """
    import tensorflow as tf

    kind = embedding_schema(spec)
    group = row_group_rows(spec.dim)
    records = open_selected(shard, shard_info, spec.info, rows).batch(spec.batch_size).prefetch(4)
    rejects: list[Reject] = []
    read = 0
    held: list[pa.Table] = []
    numbers = np.arange(shard_info.num_examples) if rows is None else rows
    with files.replacing(out) as temporary, open_writer(temporary, kind) as writer:
        try:
            for batch in records:
                vectors, *contents = encode(batch)
                table, bad = _table(vectors.numpy(), contents, spec, kind, shard.name, numbers[read : read + len(vectors)])
                read += len(vectors)
                rejects += bad
                held.append(table)
                if sum(map(len, held)) >= group:
                    writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=group)
                    held = []
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise unreadable(shard, read, error) from None
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=group)
    if read != len(numbers):
        out.unlink()
        raise ContractError(f"{shard}: {read} records, dataset.json says {len(numbers)}", "run `simpipe shard` again")
    return Counts(read, pq.read_metadata(out).num_rows, len(rejects)), rejects


def open_selected(shard: Path, shard_info: ShardInfo, info: DatasetInfo, rows: np.ndarray | None) -> tf.data.Dataset:
    """Serialized records of a shard: all, or those with the numbers `rows`."""
    import tensorflow as tf

    from simpipe.data.parsing import open_records

    records = open_records(shard, info.compression)
    if rows is None:
        return records
    wanted = np.zeros(shard_info.num_examples, bool)
    wanted[rows] = True
    both: Any = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(wanted))
    return both.filter(lambda _, chosen: chosen).map(lambda record, _: record)


def unreadable(shard: Path, read: int, error: Any) -> ContractError:
    """The error for a shard that TensorFlow could not read after `read` records."""
    first = str(error.message).splitlines()[0][:160]
    return ContractError(
        f"{shard}: cannot be read after record {read} ({first})",
        "the shard is truncated or corrupt: restore it, or run `simpipe shard` again",
    )


def _table(
    vectors: np.ndarray, contents: list[Any], spec: EmbedSpec, kind: pa.Schema, source: str, numbers: np.ndarray
) -> tuple[pa.Table, list[Reject]]:
    from simpipe.data.contents import content_table

    ids, labels, inputs, metadata = contents
    held = content_table(ids, labels, inputs, metadata, spec.info)
    not_finite, zero = bad_rows(vectors, "cosine")  # an embedding without direction is useless under any distance
    table = held.add_column(2, "embedding", vectors_column(vectors)).cast(kind)
    bad = not_finite | zero
    if not bad.any():
        return table, []
    rejects = vector_rejects(table.column("id"), not_finite, zero, source=source, numbers=numbers, unit="record")
    return table.take(np.flatnonzero(~bad)), rejects
