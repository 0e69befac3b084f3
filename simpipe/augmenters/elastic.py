"""Random elastic change of whole batches of images (Simard et al. 2003), a pure function of (images, seed, step)."""

from __future__ import annotations

import tensorflow as tf

_STREAM = 0xE1A5  # apart from the draws of `random_affine` and `turn_classes`
GRID = 5  # points a side whose shifts are drawn; between them shifts are smooth


def random_elastic(images: tf.Tensor, strength: float, *, seed: int, step: tf.Tensor | int) -> tf.Tensor:
    """Shifts each part of an image a little, neighboring parts alike, as no two hands draw a stroke alike.

    Shifts are drawn from a normal distribution at `GRID` x `GRID` points and interpolated by cubic splines between them;
    pixels are interpolated linearly. What would come from outside repeats the border.

    Args:
      images: uint8 or float32 [batch, height, width, channels].
      strength: standard deviation of the shifts, as a share of each side.
      seed: of the run.
      step: int64[], the number of the batch; the same (seed, step) changes a batch in the same way.

    Returns:
      The same shape and dtype.
    """
    images = tf.convert_to_tensor(images)
    batch, (height, width) = tf.shape(images)[0], (int(side or 0) for side in images.shape[1:3])
    draw = tf.stack([tf.cast(seed, tf.int64) + _STREAM, tf.cast(step, tf.int64)])
    shifts = tf.random.stateless_normal(tf.stack([batch, GRID, GRID, 2]), draw) * (
        strength * tf.constant([height, width], tf.float32)
    )
    shifts = tf.image.resize(shifts, (height, width), method="bicubic")
    rows = tf.clip_by_value(tf.range(height, dtype=tf.float32)[:, None] + shifts[..., 0], 0.0, height - 1.0)
    columns = tf.clip_by_value(tf.range(width, dtype=tf.float32) + shifts[..., 1], 0.0, width - 1.0)
    # The pixel above and to the left, one before the last at most, and how far beyond it.
    top = tf.minimum(tf.floor(rows), max(height - 2, 0))
    left = tf.minimum(tf.floor(columns), max(width - 2, 0))
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    corner = (tf.range(batch)[:, None, None] * height + tf.cast(top, tf.int32)) * width + tf.cast(left, tf.int32)
    pixels = tf.reshape(tf.cast(images, tf.float32), (-1, images.shape[3]))

    def at(below: int, beside: int) -> tf.Tensor:
        return tf.gather(pixels, corner + (below * width if height > 1 else 0) + (beside if width > 1 else 0))

    moved = (at(0, 0) * (1 - right) + at(0, 1) * right) * (1 - down) + (at(1, 0) * (1 - right) + at(1, 1) * right) * down
    moved = tf.ensure_shape(moved, images.shape)
    return tf.cast(tf.round(moved), images.dtype) if images.dtype.is_integer else tf.cast(moved, images.dtype)
