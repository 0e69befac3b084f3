"""Resampling of each image of a batch with weights of its own: two matrix products instead of a loop over images."""

from __future__ import annotations

import tensorflow as tf

_CUBIC = -0.5  # Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing"


def separable(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Weighted sums along height and then along width.

    Args:
      images: float32[batch, height, width, channels].
      rows: float32[batch, new height, height].
      columns: float32[batch, new width, width].

    Returns:
      float32[batch, new height, new width, channels].
    """
    shape = tf.shape(images)
    batch, width, channels, new_height, new_width = shape[0], shape[2], shape[3], tf.shape(rows)[1], tf.shape(columns)[1]
    x = tf.matmul(rows, tf.reshape(images, [batch, shape[1], width * channels]))
    x = tf.transpose(tf.reshape(x, [batch, new_height, width, channels]), [0, 2, 1, 3])
    x = tf.matmul(columns, tf.reshape(x, [batch, width, new_height * channels]))
    x = tf.transpose(tf.reshape(x, [batch, new_width, new_height, channels]), [0, 2, 1, 3])
    return tf.ensure_shape(x, [images.shape[0], rows.shape[1], columns.shape[1], images.shape[-1]])


def cubic_weights(begin: tf.Tensor, length: tf.Tensor, size: int, source: tf.Tensor) -> tf.Tensor:
    """Bicubic interpolation of a window, widened against aliasing where it shrinks (`tf.image.resize`, antialias=True).

    Args:
      begin: float32[batch], where each window begins, in pixels.
      length: float32[batch], of each window.
      size: pixels of the result.
      source: int32[], pixels of the images.

    Returns:
      float32[batch, size, source]; rows sum to 1.
    """
    scale = (length / size)[:, None]
    centres = begin[:, None] + (tf.range(size, dtype=tf.float32) + 0.5) * scale - 0.5
    distance = _distances(centres, source) / tf.maximum(scale, 1.0)[:, :, None]
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    weights = tf.where(distance < 1, near, tf.where(distance < 2, far, 0.0))
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def gaussian_weights(sigma: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Gaussian blur; beyond the border nothing counts, so that it does not darken.

    Args:
      sigma: float32[batch], in pixels; 0 leaves an image as it is.
      size: int32[], pixels.

    Returns:
      float32[batch, size, size]; rows sum to 1.
    """
    distance = _distances(tf.range(tf.cast(size, tf.float32))[None], size)
    weights = tf.exp(-0.5 * (distance / tf.maximum(sigma, 1e-2)[:, None, None]) ** 2)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _distances(centres: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.abs(centres[:, :, None] - tf.range(tf.cast(size, tf.float32)))
