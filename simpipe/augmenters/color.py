"""Changes of colour of whole batches, pure functions of (images, seed). Images: float32[batch, height, width, channels]
with values 0 to 1; saturation, hue and grey need three channels and leave others as they are."""

from __future__ import annotations

import tensorflow as tf

from simpipe.augmenters.chance import chosen, per_image


def random_color_distortion(
    images: tf.Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    additive: bool,
    jitter_probability: float,
    grayscale_probability: float,
    seed: tf.Tensor,
) -> tf.Tensor:
    """`color_jitter` and then grey, each for an image with its probability."""
    seeds = tf.unstack(tf.random.split(seed, 3))
    jittered = color_jitter(
        images,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        additive=additive,
        seed=seeds[0],
    )
    images = tf.where(chosen(images, jitter_probability, seed=seeds[1]), jittered, images)
    return random_grayscale(images, grayscale_probability, seed=seeds[2])


def color_jitter(
    images: tf.Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    additive: bool,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, each by its own draw and in a random order for each image.

    Args:
      images: see the module.
      brightness: factor drawn from 1 ± brightness, or with `additive` a summand from ± brightness.
      contrast: factor of the distance from each channel's mean, from 1 ± contrast.
      saturation: factor of the saturation, from 1 ± saturation.
      hue: turn of the hue, from ± hue of the full circle.
      additive: see `brightness`.
      seed: int[2].

    Returns:
      The same shape; values are cut to 0 to 1 after each change.
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    summand = per_image(images, seed=seeds[0], low=-brightness, high=brightness)
    factor = _factor(images, brightness, seed=seeds[0])
    scale, shift = (tf.ones_like(factor), summand) if additive else (factor, tf.zeros_like(factor))
    contrasts = _factor(images, contrast, seed=seeds[1])
    saturations = _factor(images, saturation, seed=seeds[2])
    turns = per_image(images, seed=seeds[3], low=-hue, high=hue)
    order = tf.argsort(tf.random.stateless_uniform(tf.stack([4, tf.shape(images)[0]]), seeds[4]), axis=0)[:, :, None, None, None]
    colored = images.shape[-1] == 3 and bool(saturation or hue)
    for kind in tf.unstack(order, num=4):
        # Brightness (0) and contrast (1) are affine, saturation (2) and hue (3) a change of HSV; others get the identity.
        mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        slope = tf.where(kind == 0, scale, tf.where(kind == 1, contrasts, 1.0))
        offset = tf.where(kind == 0, shift, tf.where(kind == 1, mean * (1.0 - contrasts), 0.0))
        images = tf.clip_by_value(images * slope + offset, 0.0, 1.0)
        if colored:
            turned = _turn(images, tf.where(kind == 2, saturations, 1.0), tf.where(kind == 3, turns, 0.0))
            images = tf.where(kind >= 2, turned, images)
    return images


def random_grayscale(images: tf.Tensor, probability: float, *, seed: tf.Tensor) -> tf.Tensor:
    """Takes the colour out of each image with the given probability; the number of channels stays."""
    if images.shape[-1] != 3:
        return images
    return tf.where(chosen(images, probability, seed=seed), tf.image.rgb_to_grayscale(images), images)


def random_solarize(images: tf.Tensor, probability: float, *, threshold: float, seed: tf.Tensor) -> tf.Tensor:
    """Inverts the values from `threshold` (0 to 1) upwards of each image with the given probability."""
    inverted = tf.where(images < threshold, images, 1.0 - images)
    return tf.where(chosen(images, probability, seed=seed), inverted, images)


def _factor(images: tf.Tensor, spread: float, *, seed: tf.Tensor) -> tf.Tensor:
    return per_image(images, seed=seed, low=max(1.0 - spread, 0.0), high=1.0 + spread)


def _turn(images: tf.Tensor, saturations: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = tf.split(tf.image.rgb_to_hsv(images), 3, axis=-1)
    hsv = [tf.math.floormod(hue + turns, 1.0), tf.clip_by_value(saturation * saturations, 0.0, 1.0), value]
    return tf.clip_by_value(tf.image.hsv_to_rgb(tf.concat(hsv, axis=-1)), 0.0, 1.0)
