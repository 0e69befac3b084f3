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
        total, rows = _over_replicas([ops.sum(x, axis=0), ops.cast(ops.shape(x)[0], "float32")])
        # Deviations from the mean, not the difference of two means: that would lose a collapsed model's small value.
        (squares,) = _over_replicas([ops.sum(ops.square(x - ops.divide_no_nan(total, rows)), axis=0)])
        self.std.update_state(ops.mean(ops.sqrt(ops.divide_no_nan(squares, rows))))
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def _over_replicas(sums: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return sums
    return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
