"""A function of one serialized record, applied to whole batches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.samplers.arguments import as_labels

_LOG = logging.getLogger(__name__)


class RecordParser:
    """Batches from `deserialize(serialized) -> example`.

    Where TensorFlow can vectorise the function, and gives the same values for the sample, a batch is parsed in
    one call; otherwise record by record, in parallel. Labels are vectorised on their own: what they do not need, such as
    decoding an image, is left out.

    Args:
      deserialize: of one record, string[] -> a structure of tensors.
      label_of: picks the label from an example.
      sample: string[m], some records.
      parallelism: parallel calls.

    Raises:
      SamplerError: an example has no label where `label_of` looks for it.
    """

    def __init__(
        self,
        deserialize: Callable[[Any], Any],
        *,
        label_of: Callable[[Any], Any],
        sample: np.ndarray,
        parallelism: int,
    ) -> None:
        self._deserialize, self._parallelism = deserialize, parallelism

        def label(serialized: tf.Tensor) -> Any:
            return label_of(deserialize(serialized))

        # Outside of the tracing below, which would wrap the error.
        example: Any = tf.function(deserialize).get_concrete_function(tf.TensorSpec((), tf.string)).structured_outputs
        kind = label_of(example)
        self._vectorised = _agrees(deserialize, sample)
        spec = [tf.TensorSpec((None,), tf.string)]
        if self._vectorised or _agrees(label, sample):
            self._labels = tf.function(lambda serialized: tf.vectorized_map(label, serialized, False), input_signature=spec)
        else:
            output = tf.TensorSpec(kind.shape, kind.dtype)
            self._labels = tf.function(
                lambda serialized: tf.map_fn(label, serialized, fn_output_signature=output), input_signature=spec
            )

    def labels(self, serialized: tf.Tensor) -> np.ndarray:
        """int64[n] or str[n] of string[n]."""
        return as_labels(self._labels(serialized).numpy(), name="the label of deserialization_fn")

    def batches(self, serialized: tf.data.Dataset, batch: int) -> tf.data.Dataset:
        """Examples of a data set of string[batch]."""
        if self._vectorised:
            return serialized.map(
                lambda records: tf.vectorized_map(self._deserialize, records, False), num_parallel_calls=self._parallelism
            )
        single = serialized.unbatch().map(self._deserialize, num_parallel_calls=self._parallelism)
        return single.batch(batch, drop_remainder=True)


def _agrees(function: Callable[[Any], Any], sample: np.ndarray) -> bool:
    """Whether the vectorised function gives what the function gives one by one."""
    records = tf.constant(sample, tf.string)
    try:
        whole = tf.function(lambda: tf.vectorized_map(function, records, False)).get_concrete_function()
        together = tf.nest.flatten(whole())
    except Exception as error:  # it tells only by failing
        _LOG.debug("records are parsed one by one: %s", error)
        return False
    single = tf.function(function).get_concrete_function(tf.TensorSpec((), tf.string))
    alone = [tf.nest.flatten(single(record)) for record in records]
    return all(
        isinstance(column, tf.Tensor)
        and len(column) == len(alone)
        and all(_equal(column[row].numpy(), parts[place]) for row, parts in enumerate(alone))
        for place, column in enumerate(together)
    )


def _equal(left: Any, right: Any) -> bool:
    right = right.numpy() if isinstance(right, tf.Tensor) else None
    if right is None or np.shape(left) != np.shape(right):
        return False
    if np.asarray(left).dtype.kind == "f":
        return bool(np.allclose(left, right, rtol=1e-6, atol=1e-6, equal_nan=True))
    return bool(np.all(left == right))
