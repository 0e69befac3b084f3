"""Images of any range of values to 0 to 1."""

from __future__ import annotations

import tensorflow as tf

from simpipe.errors import ConfigError

_SLACK = 1e-3  # of the range; a resized image overshoots a little


def check_range(value_range: tuple[float, float] | None) -> None:
    """Raises ConfigError where the range is not (low, high) with low < high."""
    if value_range is not None and (len(value_range) != 2 or not value_range[0] < value_range[1]):
        raise ConfigError(f"value_range is {value_range}", "give (low, high), for example (0, 255) or (0, 1)")


def to_unit(images: tf.Tensor, value_range: tuple[float, float] | None) -> tf.Tensor:
    """float32 images with values 0 to 1.

    Args:
      images: any numeric dtype.
      value_range: (low, high); None for 0 to the dtype's largest value (integers) or 0 to 1 (floats).

    Raises:
      ConfigError: floats outside the range: without this check images of 0 to 255 that are taken for 0 to 1 would come
        out white. In a graph it is `tf.errors.InvalidArgumentError`.
    """
    low, high = value_range or (0, images.dtype.max if images.dtype.is_integer else 1)
    unit = (tf.cast(images, tf.float32) - low) / (high - low)
    if images.dtype.is_floating:
        inside = tf.reduce_all((unit >= -_SLACK) & (unit <= 1 + _SLACK))
        stated = value_range or "0 to 1 (the range of floats)"
        message, cure = f"values lie outside value_range {stated}", "state the images' range, for example value_range=(0, 255)"
        if tf.executing_eagerly() and not inside:
            raise ConfigError(message, cure)
        with tf.control_dependencies([tf.debugging.Assert(inside, [f"{message}; {cure}"])]):
            unit = tf.identity(unit)
    return tf.clip_by_value(unit, 0.0, 1.0)
