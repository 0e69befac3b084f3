"""A layer that shows whether a self-supervised model collapses."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_EPSILON = 1e-12


@keras.saving.register_keras_serializable(package="simpipe")
class ActivationStdLoggingLayer(keras.layers.Layer):
    """Passes its input on and logs how far the rows spread, under its own name.

    The logged value is the standard deviation over the batch of the rows scaled to length one, averaged over the
    features and over the steps of the epoch. Chen and He 2021, "Exploring Simple Siamese Representation Learning",
    section 4.1: rows spread over the sphere give `1 / sqrt(features)`, a collapsed model gives 0. Under
    `tf.distribute` it is that of the global batch.

    Input and output: float[batch, ..., features].

    Args:
      name: of the layer and of the value in the logs.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.std = keras.metrics.Mean(name=name, dtype="float32")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.stop_gradient(ops.cast(inputs, "float32"))
        x = x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _EPSILON))
        mean, square = _global_means(ops.sum(x, axis=0), ops.sum(ops.square(x), axis=0), ops.shape(x)[0])
        self.std.update_state(ops.mean(ops.sqrt(ops.maximum(square - ops.square(mean), 0.0))))
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def _global_means(total: Any, total_square: Any, rows: Any) -> tuple[Any, Any]:
    """Sums over this replica's rows -> means over all replicas' rows."""
    sums = [total, total_square, ops.cast(rows, "float32")]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    total, total_square, rows = sums
    return ops.divide_no_nan(total, rows), ops.divide_no_nan(total_square, rows)
