"""Which images of a batch a change is applied to."""

from __future__ import annotations

import tensorflow as tf


def chosen(images: tf.Tensor, probability: float, *, seed: tf.Tensor) -> tf.Tensor:
    """bool[batch, 1, 1, 1]: True with the given probability, for each image on its own."""
    return per_image(images, seed=seed) < probability


def per_image(images: tf.Tensor, *, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """A uniform draw for each image: float32[batch, 1, 1, 1]."""
    return tf.random.stateless_uniform(tf.stack([tf.shape(images)[0], 1, 1, 1]), seed, low, high)
