"""What every augmenter offers, and what those over whole batches of images share."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from simpipe.augmenters.value_range import check_range, to_unit
from simpipe.errors import ConfigError


class Augmenter(ABC):
    """Makes views of examples. Samplers call it as `augmenter(x, y, num_augmentations_per_example, is_warmup)`."""

    @abstractmethod
    def augment(self, x: Any, y: Any, num_augmentations_per_example: int, is_warmup: bool) -> list[Any]:
        """Views of a batch.

        Args:
          x: a batch of examples.
          y: their labels.
          num_augmentations_per_example: how many views.
          is_warmup: whether the sampler still warms up.

        Returns:
          One batch a view, each with the examples in the order of `x`.
        """

    def __call__(self, x: Any, y: Any = None, num_augmentations_per_example: int = 2, is_warmup: bool = True) -> list[Any]:
        """See `augment`."""
        return self.augment(x, y, num_augmentations_per_example, is_warmup)


class ImageAugmenter(Augmenter):
    """Augments whole batches of images at once; subclasses define one view by `view`.

    Args:
      height: of the views.
      width: of the views.
      value_range: (low, high) of the values in; None derives it: 0 to the largest value of an integer type (255 for
        uint8), and 0 to 1 for floats.
      seed: the same seed gives the same views call by call; None draws one.
    """

    def __init__(self, height: int, width: int, *, value_range: tuple[float, float] | None, seed: int | None) -> None:
        if height < 1 or width < 1:
            raise ConfigError(f"views of {height} x {width} pixels", "give a height and a width of at least 1")
        check_range(value_range)
        self.height = height
        self.width = width
        self.value_range = value_range
        self.seed = secrets.randbits(62) if seed is None else seed
        self._generator: tf.random.Generator | None = None
        # A graph takes half the processor time that single calls take, and a third for small images.
        self._compiled: Any = tf.function(lambda images, seed: self.view(images, seed=seed), reduce_retracing=True)

    @abstractmethod
    def view(self, images: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """One view, a pure function.

        Args:
          images: float32[batch, height, width, channels] with values 0 to 1.
          seed: int[2].

        Returns:
          float32[batch, self.height, self.width, channels] with values 0 to 1.
        """

    def augment(self, x: Any, y: Any = None, num_augmentations_per_example: int = 2, is_warmup: bool = True) -> list[tf.Tensor]:
        """Views of a batch of images; each call draws anew.

        Args:
          x: [batch, height, width, channels], or a list of images of one shape; see `value_range`.
          y: not used.
          num_augmentations_per_example: how many views.
          is_warmup: not used.

        Returns:
          A list of float32[batch, self.height, self.width, channels] with values 0 to 1, one a view.

        Raises:
          ConfigError: the images' shape is wrong, or values lie outside `value_range` (in a graph, such as a
            `tf.data` map, the latter is `tf.errors.InvalidArgumentError`).
        """
        with tf.device("/cpu:0"):  # input pipelines run there, and leave the accelerator's memory alone
            return self.views(x, num_augmentations_per_example, seed=self._next_seed())

    def views(self, x: Any, num_views: int = 2, *, seed: Any) -> list[tf.Tensor]:
        """Views as a pure function of images and seed, for `tf.data` pipelines that must repeat exactly.

        Args:
          x: see `augment`.
          num_views: how many.
          seed: int[2].

        Returns:
          See `augment`.
        """
        images = tf.convert_to_tensor(x) if not isinstance(x, Sequence) else tf.stack(x)
        if images.shape.rank != 4 or images.shape[-1] is None:
            raise ConfigError(
                f"{type(self).__name__}: images have the shape {images.shape}", "give [batch, height, width, channels]"
            )
        if num_views < 1:
            raise ConfigError(f"{type(self).__name__}: {num_views} views", "ask for at least 1")
        unit = to_unit(images, self.value_range)
        return [self._compiled(unit, one) for one in tf.unstack(tf.random.split(seed, num_views))]

    def _next_seed(self) -> tf.Tensor:
        if self._generator is None:
            with tf.init_scope():  # a variable, also where the first call is inside a graph
                self._generator = tf.random.Generator.from_seed(self.seed)
        return self._generator.make_seeds(1)[:, 0]
