"""Random affine change of whole batches of images, a pure function of (images, seed, step)."""

from __future__ import annotations

import math

import tensorflow as tf

from simpipe.config.models import AugmentConfig


def is_identity(config: AugmentConfig) -> bool:
    """Whether the configuration moves nothing."""
    return not any((config.rotate, config.scale, config.shear, config.translate, config.elastic))


def random_affine(images: tf.Tensor, config: AugmentConfig, *, seed: int, step: tf.Tensor | int) -> tf.Tensor:
    """Rotates, scales, shears and shifts each image on its own; what enters from outside is 0.

    Args:
      images: uint8 or float32 [batch, height, width, channels].
      config: the largest change of each kind, drawn uniformly.
      seed: of the run.
      step: int64[], the number of the batch; the same (seed, step) changes a batch in the same way.

    Returns:
      The same shape and dtype.
    """
    images = tf.convert_to_tensor(images)
    matrix = affine_matrices(tf.shape(images), config, tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)]))
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=matrix,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    moved = tf.ensure_shape(moved, images.shape)
    # Rounded by hand: the operation would cut uint8 off and darken the image a little.
    return tf.cast(tf.round(moved), images.dtype) if images.dtype.is_integer else tf.cast(moved, images.dtype)


def affine_matrices(shape: tf.Tensor, config: AugmentConfig, seed: tf.Tensor) -> tf.Tensor:
    """Random affine changes, one an image: rows of the projective map from output to input pixels, float32[batch, 8].

    Args:
      shape: int32[4], [batch, height, width, channels].
      config: the largest change of each kind, drawn uniformly; about the image's centre.
      seed: int64[2], the key of the draw.
    """
    low_high = [
        math.radians(config.rotate),
        config.scale,
        config.scale,
        math.radians(config.shear),
        config.translate,
        config.translate,
    ]
    draws = tf.random.stateless_uniform(tf.stack([len(low_high), shape[0]]), seed, -1.0, 1.0) * tf.constant(low_high)[:, None]
    angle, scale_x, scale_y, shear, shift_x, shift_y = tf.unstack(draws)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    cos, sin, tan = tf.cos(angle), tf.sin(angle), tf.tan(shear)
    # Inverse of shift · rotation · shear · scale, as the operation asks where each output pixel comes from.
    inverse_x, inverse_y = 1.0 / (1.0 + scale_x), 1.0 / (1.0 + scale_y)
    a, b = inverse_x * (cos + tan * sin), inverse_x * (sin - tan * cos)
    c, d = -inverse_y * sin, inverse_y * cos
    centre_x, centre_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    to_x, to_y = centre_x + shift_x * width, centre_y + shift_y * height
    zero = tf.zeros_like(a)
    return tf.stack([a, b, centre_x - a * to_x - b * to_y, c, d, centre_y - c * to_x - d * to_y, zero, zero], axis=1)
