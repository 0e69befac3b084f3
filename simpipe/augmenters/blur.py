"""Gaussian blur of some images of a batch."""

from __future__ import annotations

import tensorflow as tf

from simpipe.augmenters.chance import chosen
from simpipe.augmenters.resample import gaussian_weights, separable


def random_blur(images: tf.Tensor, probability: float, *, min_sigma: float, max_sigma: float, seed: tf.Tensor) -> tf.Tensor:
    """Blurs each image with the given probability, by a deviation drawn uniformly.

    Args:
      images: float32[batch, height, width, channels].
      probability: 0 to 1.
      min_sigma: least deviation, in pixels.
      max_sigma: largest deviation, in pixels.
      seed: int[2].

    Returns:
      The same shape.
    """
    seeds = tf.unstack(tf.random.split(seed, 2))
    # The chosen ones alone: blur costs more than all else together.
    rows = tf.where(chosen(images, probability, seed=seeds[0])[:, 0, 0, 0])
    some = tf.gather(images, rows[:, 0])
    sigma = tf.random.stateless_uniform(tf.shape(images)[:1], seeds[1], min_sigma, max_sigma)
    sigma, shape = tf.gather(sigma, rows[:, 0]), tf.shape(images)
    blurred = separable(some, gaussian_weights(sigma, shape[1]), gaussian_weights(sigma, shape[2]))
    return tf.tensor_scatter_nd_update(images, rows, blurred)
