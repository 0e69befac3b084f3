"""Crops and flips of whole batches, pure functions of (images, seed)."""

from __future__ import annotations

import math

import tensorflow as tf

from simpipe.augmenters.chance import chosen
from simpipe.augmenters.resample import cubic_weights, separable

AREA = (0.08, 1.0)  # Szegedy et al. 2015, "Going Deeper with Convolutions", section 6
ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def random_resized_crop(
    images: tf.Tensor, height: int, width: int, *, seed: tf.Tensor, area: tuple[float, float] = AREA
) -> tf.Tensor:
    """Crops each image to a window of its own and resizes it, bicubic.

    Args:
      images: float32[batch, height, width, channels] with values 0 to 1.
      height: of the result.
      width: of the result.
      seed: int[2].
      area: the window's share of the image, drawn uniformly; its aspect ratio is the result's times 3/4 to 4/3.

    Returns:
      float32[batch, height, width, channels] with values 0 to 1.
    """
    windows = random_windows(tf.shape(images), height=height, width=width, seed=seed, area=area)
    return crop(images, windows, height=height, width=width)


def random_windows(shape: tf.Tensor, *, height: int, width: int, seed: tf.Tensor, area: tuple[float, float] = AREA) -> tf.Tensor:
    """Random windows inside the images: float32[batch, 4] of (top, left, height, width) in pixels.

    Of ten draws each image takes the first that fits inside it; where none does, the largest window in the middle.
    """
    seeds = tf.unstack(tf.random.split(seed, 3))
    full_height, full_width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    draws = tf.stack([shape[0], _ATTEMPTS])
    pixels = tf.random.stateless_uniform(draws, seeds[0], *area) * full_height * full_width
    # Of the logarithm, so that wide and tall are as likely.
    low, high = (math.log(ratio * width / height) for ratio in ASPECT)
    aspect = tf.exp(tf.random.stateless_uniform(draws, seeds[1], low, high))
    heights, widths = tf.sqrt(pixels / aspect), tf.sqrt(pixels * aspect)
    fits = (heights <= full_height) & (widths <= full_width)
    first = tf.argmax(fits, axis=1)
    heights, widths = (tf.gather(sides, first, batch_dims=1) for sides in (heights, widths))
    place = tf.random.stateless_uniform(tf.stack([2, shape[0]]), seeds[2])
    top, left = place[0] * tf.maximum(full_height - heights, 0.0), place[1] * tf.maximum(full_width - widths, 0.0)
    whole = centre_window(shape, height=height, width=width, proportion=1.0)
    return tf.where(tf.reduce_any(fits, axis=1)[:, None], tf.stack([top, left, heights, widths], axis=1), whole)


def centre_window(shape: tf.Tensor, *, height: int, width: int, proportion: float) -> tf.Tensor:
    """The window in the middle with the result's aspect ratio: float32[batch, 4] of (top, left, height, width).

    It keeps `proportion` of the side that is cropped less.
    """
    full_height, full_width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    window_height = proportion * tf.minimum(full_height, full_width * height / width)
    window_width = window_height * width / height
    # Rounding can make a window longer than the image by a hair.
    window_height, window_width = tf.minimum(window_height, full_height), tf.minimum(window_width, full_width)
    window = [(full_height - window_height) / 2, (full_width - window_width) / 2, window_height, window_width]
    return tf.tile(tf.stack(window)[None], tf.stack([shape[0], 1]))


def crop(images: tf.Tensor, windows: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Each image's window, resized: float32[batch, height, width, channels], values 0 to 1 as those of `images`."""
    shape = tf.shape(images)
    rows = cubic_weights(windows[:, 0], windows[:, 2], height, shape[1])
    columns = cubic_weights(windows[:, 1], windows[:, 3], width, shape[2])
    return tf.clip_by_value(separable(images, rows, columns), 0.0, 1.0)  # cubic weights overshoot


def resize(images: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """The whole images at the wanted size, without a crop."""
    if tuple(images.shape[1:3]) == (height, width):
        return images
    shape = tf.shape(images)
    whole = tf.cast(tf.stack([0, 0, shape[1], shape[2]]), tf.float32)
    return crop(images, tf.tile(whole[None], tf.stack([shape[0], 1])), height=height, width=width)


def random_flip_left_right(images: tf.Tensor, probability: float, *, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors each image with the given probability."""
    return tf.where(chosen(images, probability, seed=seed), tf.reverse(images, axis=[2]), images)
