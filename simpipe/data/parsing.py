"""Serialized `tf.train.Example` to tensors, whole batches at a time. Imports TensorFlow; loaded only where examples are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from simpipe.data.examples import InputSpec


def open_records(path: Path | str, compression: str) -> tf.data.TFRecordDataset:
    """Serialized records of one shard; `compression` is `""` or `"gzip"`."""
    return tf.data.TFRecordDataset(os.fspath(path), compression_type="GZIP" if compression else "", buffer_size=8 << 20)


def parse_batch(serialized: tf.Tensor, spec: InputSpec) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes a batch of serialized examples in C++.

    Args:
      serialized: string[n].
      spec: what the input looks like.

    Returns:
      ids string[n], labels int64[n] (-1 where absent), inputs of `spec.dtype` [n, *spec.shape].
    """
    ids, labels, inputs = parse_features(serialized, spec)
    return ids, labels, decode_inputs(inputs, spec)


def parse_features(serialized: tf.Tensor, spec: InputSpec) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Like `parse_batch`, with the inputs as they are stored: string[n] of bytes, or float32[n, *shape]."""
    feature = tf.io.FixedLenFeature(spec.shape, tf.float32) if spec.encoding == "float" else tf.io.FixedLenFeature([], tf.string)
    parsed: Any = tf.io.parse_example(
        serialized,
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
            spec.name: feature,
        },
    )
    return parsed["id"], parsed["label"], parsed[spec.name]


def parse_metadata(serialized: tf.Tensor, types: Mapping[str, str]) -> dict[str, tf.RaggedTensor]:
    """Metadata features of a batch: name -> ragged [n, 0 or 1 value]; an example without the feature has a null there.

    Args:
      serialized: string[n].
      types: name -> `string`, `int64` or `float`, from `dataset.json`.
    """
    parsed: Any = tf.io.parse_example(
        serialized, {name: tf.io.RaggedFeature(tf.dtypes.as_dtype(kind)) for name, kind in types.items()}
    )
    return parsed


def decode_inputs(values: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """The input feature of a batch as an array of `spec.dtype` [n, *spec.shape]."""
    if spec.encoding == "float":
        return values
    if spec.encoding == "raw":
        size = int(tf.TensorShape(spec.shape).num_elements() or 0) * tf.dtypes.as_dtype(spec.dtype).size
        # `decode_raw` would cut longer values off and fill shorter ones up, in silence.
        message = f"feature {spec.name!r} does not have the {size} bytes of {spec.dtype} {list(spec.shape)}"
        fits = tf.debugging.assert_equal(tf.strings.length(values), size, message)
        with tf.control_dependencies([] if fits is None else [fits]):
            values = tf.identity(values)
        flat = tf.io.decode_raw(values, tf.dtypes.as_dtype(spec.dtype), fixed_length=size)
        return tf.reshape(flat, (-1, *spec.shape))

    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(data, channels=spec.shape[2], expand_animations=False)
        image = tf.image.resize(image, spec.shape[:2], method="area", antialias=True)
        return tf.cast(tf.round(image), tf.uint8)

    return tf.map_fn(one, values, fn_output_signature=tf.TensorSpec(spec.shape, tf.uint8))
