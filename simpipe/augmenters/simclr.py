"""SimCLR's views."""

from __future__ import annotations

import tensorflow as tf

from simpipe.augmenters.augmenter import ImageAugmenter
from simpipe.augmenters.color import random_color_distortion
from simpipe.augmenters.geometry import centre_window, crop, random_flip_left_right, random_resized_crop, resize
from simpipe.errors import ConfigError

_JITTER, _GREY, _FLIP = 0.8, 0.2, 0.5  # probabilities


class SimCLRAugmenter(ImageAugmenter):
    """The views of Chen et al. 2020, "A Simple Framework for Contrastive Learning", appendix A, without blur.

    In training: a random window of 8 to 100 % of the image, resized; a flip (probability 0.5); with probability 0.8
    brightness, contrast and saturation by ± 0.8 and hue by ± 0.2, in random order, times `jitter_strength`; grey with
    probability 0.2. Otherwise the middle of the image, resized.

    Input: [batch, height, width, channels] of any numeric dtype; see `value_range`. Output: float32, values 0 to 1.

    Args:
      height: of the views.
      width: of the views.
      is_training: False for the views of evaluation.
      color_distort: whether colours change.
      jitter_strength: factor of the changes of colour.
      crop: False resizes the whole image.
      eval_crop_proportion: share of the less cropped side that evaluation keeps.
      flip: whether images are flipped.
      version: "v2" multiplies the brightness (SimCLR v2), "v1" adds to it.
      num_cpu: accepted and not used: whole batches are augmented at once.
      jitter_stength: the misspelt name of `jitter_strength` in TensorFlow Similarity.
      value_range: (low, high) of the values in; None for 0 to 255 where they are uint8 and 0 to 1 where they are floats.
      seed: the same seed gives the same views; None draws one.

    Raises:
      ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        height: int,
        width: int,
        is_training: bool = True,
        color_distort: bool = True,
        jitter_strength: float = 1.0,
        crop: bool = True,
        eval_crop_proportion: float = 0.875,
        flip: bool = True,
        version: str = "v2",
        num_cpu: int | None = None,
        *,
        jitter_stength: float | None = None,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(height, width, value_range=value_range, seed=seed)
        if version not in ("v1", "v2"):
            raise ConfigError(f"SimCLRAugmenter: version {version!r} is unknown", "use 'v1' or 'v2'")
        if not 0.0 < eval_crop_proportion <= 1.0:
            raise ConfigError(f"SimCLRAugmenter: eval_crop_proportion is {eval_crop_proportion}", "give a share above 0, up to 1")
        self.is_training = is_training
        self.color_distort = color_distort
        self.jitter_strength = jitter_strength if jitter_stength is None else jitter_stength
        if not 0.0 <= 0.2 * self.jitter_strength <= 0.5:
            raise ConfigError(f"SimCLRAugmenter: jitter_strength is {self.jitter_strength}", "give 0 to 2.5")
        self.crop = crop
        self.eval_crop_proportion = eval_crop_proportion
        self.flip = flip
        self.version = version
        self.num_cpu = num_cpu

    @property
    def jitter_stength(self) -> float:
        """The misspelt name of `jitter_strength`."""
        return self.jitter_strength

    def view(self, images: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        if not self.is_training:
            return self._evaluation_view(images)
        seeds = tf.unstack(tf.random.split(seed, 3))
        if self.crop:
            images = random_resized_crop(images, self.height, self.width, seed=seeds[0])
        else:
            images = resize(images, height=self.height, width=self.width)
        if self.flip:
            images = random_flip_left_right(images, _FLIP, seed=seeds[1])
        if self.color_distort:
            strength = self.jitter_strength
            images = random_color_distortion(
                images,
                brightness=0.8 * strength,
                contrast=0.8 * strength,
                saturation=0.8 * strength,
                hue=0.2 * strength,
                additive=self.version == "v1",
                jitter_probability=_JITTER,
                grayscale_probability=_GREY,
                seed=seeds[2],
            )
        return images

    def _evaluation_view(self, images: tf.Tensor) -> tf.Tensor:
        if not self.crop:
            return resize(images, height=self.height, width=self.width)
        window = centre_window(tf.shape(images), height=self.height, width=self.width, proportion=self.eval_crop_proportion)
        return crop(images, window, height=self.height, width=self.width)
