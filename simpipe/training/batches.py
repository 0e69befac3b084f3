"""From the sampler's batches to those that a model trains on: augmented, a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.augmenters.affine import is_identity, random_affine
from simpipe.augmenters.elastic import random_elastic
from simpipe.augmenters.simclr import SimCLRAugmenter
from simpipe.augmenters.turns import turn_classes
from simpipe.config import Config
from simpipe.config.models import AugmentConfig
from simpipe.data.examples import InputSpec
from simpipe.errors import ConfigError

Change = Callable[[Any, Any, Any], tuple[Any, Any]]  # (step, inputs, labels) -> what the model gets
_SECOND_VIEW = 0x5E11  # apart from the draws of the first


def changed(batches: tf.data.Dataset, change: Change | None, *, start_step: int) -> tf.data.Dataset:
    """`batches` with `change` applied to each; the first one is of step `start_step`."""
    if change is None:
        return batches
    # Stateless randomness of (seed, step): the same images whatever the order of the threads.
    numbered = batches.enumerate(start=start_step)
    return numbered.map(lambda step, batch: change(step, *batch), num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def labelled_change(config: Config, spec: InputSpec, *, classes: np.ndarray | None) -> Change | None:
    """What `train.augment` does to a batch; None for nothing.

    Args:
      config: `train.augment` and `seed` are used.
      spec: of the input.
      classes: int64[class names], the number of each class that is trained on, for losses with a place for each; None
        leaves labels as they are.

    Raises:
      ConfigError: the input cannot be changed so.
    """
    augment, seed = config.train.augment, config.seed
    moves = not is_identity(augment)
    if moves or augment.turns:
        _check_image(
            spec, "train.augment: only images can be rotated, scaled, sheared, shifted or bent", "leave train.augment out"
        )
    if augment.turns and spec.shape[0] != spec.shape[1]:
        raise ConfigError(
            f"train.augment.turns: images of {spec.shape[0]} x {spec.shape[1]} change shape when turned", "resize to a square"
        )
    if not (moves or augment.turns or classes is not None):
        return None

    def change(step: tf.Tensor, inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if classes is not None:
            labels = tf.gather(tf.constant(classes), labels)
        if augment.turns:
            inputs, labels = turn_classes(inputs, labels, seed=seed, step=step)
        return _moved(inputs, augment, seed=seed, step=step) if moves else inputs, labels

    return change


def views_change(config: Config, spec: InputSpec) -> Change:
    """Two views of each example, for a recipe without labels.

    Raises:
      ConfigError: the input is no image, or `affine` views would both be the image itself.
    """
    recipe, augment, seed = config.train.recipe, config.train.augment, config.seed
    assert recipe.kind != "supervised"
    _check_image(spec, f"train.recipe.kind: {recipe.kind} makes views of images", "use `recipe: supervised` for numeric columns")
    if recipe.views == "affine":
        if is_identity(augment):
            raise ConfigError(
                "train.recipe.views: `affine` draws views by train.augment, which changes nothing",
                "set train.augment, for example {rotate: 15, scale: 0.2, translate: 0.1}, or `views: simclr`",
            )

        def affine(step: tf.Tensor, inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            first = _moved(inputs, augment, seed=seed, step=step)
            return first, _moved(inputs, augment, seed=seed + _SECOND_VIEW, step=step)

        return affine

    height, width, _ = spec.shape
    views = SimCLRAugmenter(
        height, width, color_distort=recipe.jitter > 0, jitter_strength=recipe.jitter, flip=recipe.flip, seed=seed
    )

    def simclr(step: tf.Tensor, inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pair = views.views(inputs, 2, seed=tf.stack([tf.constant(seed, tf.int64), step]))
        # The encoder scales bytes itself.
        first, second = (tf.cast(tf.round(view * 255.0), tf.uint8) if spec.dtype == "uint8" else view for view in pair)
        return first, second

    return simclr


def _moved(images: tf.Tensor, augment: AugmentConfig, *, seed: int, step: tf.Tensor) -> tf.Tensor:
    images = random_affine(images, augment, seed=seed, step=step)
    return random_elastic(images, augment.elastic, seed=seed, step=step) if augment.elastic else images


def _check_image(spec: InputSpec, problem: str, cure: str) -> None:
    if not spec.is_image:
        raise ConfigError(problem, cure)
