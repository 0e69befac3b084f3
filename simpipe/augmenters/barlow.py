"""The views of Barlow Twins."""

from __future__ import annotations

import tensorflow as tf

from simpipe.augmenters.augmenter import ImageAugmenter
from simpipe.augmenters.blur import random_blur
from simpipe.augmenters.color import random_color_distortion, random_solarize
from simpipe.augmenters.geometry import random_flip_left_right, random_resized_crop
from simpipe.errors import ConfigError


class BarlowAugmenter(ImageAugmenter):
    """The views of Zbontar et al. 2021, "Barlow Twins", section 2.2, in one form for all views.

    A random window of 8 to 100 % of the image, resized; a flip; brightness (added), contrast, saturation and hue in
    random order; grey; Gaussian blur; solarization. Each is applied to an image with its own probability.

    Input: [batch, height, width, channels] of any numeric dtype; see `value_range`. Output: float32, values 0 to 1.

    Args:
      width: of the views.
      height: of the views.
      flip_probability: of a flip from left to right.
      brightness_multiplier: largest summand, as a share of the range.
      contrast_multiplier: the factor is drawn from 1 ± this.
      saturation_multiplier: the factor is drawn from 1 ± this.
      hue_multiplier: largest turn, as a share of the circle.
      jitter_probability: of these four.
      greyscale_probability: of grey.
      blur_probability: of blur.
      blur_min_sigma: least deviation of the blur, in pixels.
      blur_max_sigma: largest deviation of the blur, in pixels.
      solarize_probability: of solarization.
      solarize_pixel_min: the value of black in which `solarize_thresh` is stated, whatever the images' range.
      solarize_pixel_max: likewise of white.
      solarize_thresh: values from here on are inverted. The paper has 128 of 255; the default is TensorFlow Similarity's.
      num_cpu: accepted and not used: whole batches are augmented at once.
      value_range: (low, high) of the values in; None for 0 to 255 where they are uint8 and 0 to 1 where they are floats.
      seed: the same seed gives the same views; None draws one.

    Raises:
      ConfigError: a probability, a deviation or the range of solarization is impossible.
    """

    def __init__(
        self,
        width: int,
        height: int,
        flip_probability: float = 0.5,
        brightness_multiplier: float = 0.8,
        contrast_multiplier: float = 0.6,
        saturation_multiplier: float = 0.6,
        hue_multiplier: float = 0.2,
        jitter_probability: float = 0.8,
        greyscale_probability: float = 0.2,
        blur_probability: float = 0.2,
        blur_min_sigma: float = 0,
        blur_max_sigma: float = 1,
        solarize_probability: float = 0.2,
        solarize_pixel_min: float = 0,
        solarize_pixel_max: float = 255,
        solarize_thresh: float = 10,
        num_cpu: int | None = None,
        *,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(height, width, value_range=value_range, seed=seed)
        self.flip_probability = flip_probability
        self.brightness_multiplier = brightness_multiplier
        self.contrast_multiplier = contrast_multiplier
        self.saturation_multiplier = saturation_multiplier
        self.hue_multiplier = hue_multiplier
        self.jitter_probability = jitter_probability
        self.greyscale_probability = greyscale_probability
        self.blur_probability = blur_probability
        self.blur_min_sigma = blur_min_sigma
        self.blur_max_sigma = blur_max_sigma
        self.solarize_probability = solarize_probability
        self.solarize_pixel_min = solarize_pixel_min
        self.solarize_pixel_max = solarize_pixel_max
        self.solarize_thresh = solarize_thresh
        self.num_cpu = num_cpu
        for name in ("flip", "jitter", "greyscale", "blur", "solarize"):
            probability = getattr(self, f"{name}_probability")
            if not 0.0 <= probability <= 1.0:
                raise ConfigError(f"BarlowAugmenter: {name}_probability is {probability}", "give 0 to 1")
        if not 0.0 <= blur_min_sigma <= blur_max_sigma:
            raise ConfigError(
                f"BarlowAugmenter: blur_min_sigma is {blur_min_sigma} and blur_max_sigma {blur_max_sigma}",
                "give pixels, at least 0, the least first",
            )
        if not solarize_pixel_min < solarize_pixel_max:
            raise ConfigError(
                f"BarlowAugmenter: solarize_pixel_min is {solarize_pixel_min} and solarize_pixel_max {solarize_pixel_max}",
                "give the values of black and white, black first",
            )

    def view(self, images: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.unstack(tf.random.split(seed, 5))
        images = random_resized_crop(images, self.height, self.width, seed=seeds[0])
        images = random_flip_left_right(images, self.flip_probability, seed=seeds[1])
        images = random_color_distortion(
            images,
            brightness=self.brightness_multiplier,
            contrast=self.contrast_multiplier,
            saturation=self.saturation_multiplier,
            hue=self.hue_multiplier,
            additive=True,
            jitter_probability=self.jitter_probability,
            grayscale_probability=self.greyscale_probability,
            seed=seeds[2],
        )
        images = random_blur(
            images, self.blur_probability, min_sigma=self.blur_min_sigma, max_sigma=self.blur_max_sigma, seed=seeds[3]
        )
        span = self.solarize_pixel_max - self.solarize_pixel_min
        threshold = (self.solarize_thresh - self.solarize_pixel_min) / span
        return random_solarize(images, self.solarize_probability, threshold=threshold, seed=seeds[4])
