"""Layers that embed several views of an image and take their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class AffineViews(keras.layers.Layer):
    """Each image as it is, and once more for each of some fixed affine changes.

    Input: images [batch, height, width, channels]. Output: the same dtype, [batch * (1 + v), height, width, channels], the
    views of one image after the other; what enters from outside is 0.

    Args:
      matrices: v rows of 8 numbers, the projective map from output to input pixels (as `ImageProjectiveTransformV3`).
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, matrices: Sequence[Sequence[float]], **kwargs: Any) -> None:
        kwargs.setdefault("autocast", False)  # bytes stay bytes
        super().__init__(**kwargs)
        self.matrices = [[float(value) for value in row] for row in matrices]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        views = 1 + len(self.matrices)
        same = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(tf.repeat(inputs, views, axis=0), tf.float32),
            transforms=tf.tile(tf.constant([same, *self.matrices], tf.float32), tf.stack([tf.shape(inputs)[0], 1])),
            output_shape=tf.shape(inputs)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
        moved = tf.ensure_shape(moved, [None, *inputs.shape[1:]])
        return tf.cast(tf.round(moved), inputs.dtype) if inputs.dtype.is_integer else tf.cast(moved, inputs.dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((None, *inputs.shape[1:]), dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "matrices": self.matrices}


@keras.saving.register_keras_serializable(package="simpipe")
class MeanOfViews(keras.layers.Layer):
    """The mean of each example's embeddings, scaled to length one.

    Input: float[batch * views, dim], the views of one example after the other. Output: float[batch, dim].

    Args:
      views: of each example.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, views: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.views = views

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        means = ops.mean(ops.reshape(inputs, (-1, self.views, inputs.shape[-1])), axis=1)
        return ops.normalize(means, axis=-1, order=2)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((None, inputs.shape[-1]), dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "views": self.views}
