"""A sampler over image files, which are read when a batch needs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.errors import SourceError
from simpipe.samplers.memory_samplers import MultiShotMemorySampler
from simpipe.samplers.sampler import Augmenter


def load_image(path: str | os.PathLike[str], target_size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a JPEG, PNG, BMP or GIF (its first frame).

    Args:
      path: of the file; a URI where TensorFlow's file systems know the scheme.
      target_size: (height, width) to resize to (Lanczos of radius 3, without antialiasing); None to leave the size.

    Returns:
      float32 [height, width, 3] in [0, 1].

    Raises:
      SourceError: the file is missing or is no such image; names it.
    """
    try:
        data = tf.io.read_file(os.fspath(path))
        image = tf.image.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        raise SourceError(
            f"{os.fspath(path)}: {error.message.splitlines()[0][:200]}", "restore the file, or take it out of x and y"
        ) from None
    image = tf.image.convert_image_dtype(image, tf.float32)
    if target_size is not None:
        # Lanczos overshoots at edges.
        image = tf.clip_by_value(tf.image.resize(image, target_size, method="lanczos3"), 0.0, 1.0)
    return image.numpy()


class MultiShotFileSampler(MultiShotMemorySampler):
    """`MultiShotMemorySampler` whose examples are paths: `load_example_fn(path)` makes the model's input.

    All images of a batch must have one shape: for files of several sizes give
    `load_example_fn=lambda path: load_image(path, (height, width))`. Reading is spread over `workers` threads.
    `get_slice` reads the files of the slice.

    Args:
      x: paths [n].
      y: labels [n].
      load_example_fn: `load_image` by default.

    The others, and what is raised, as for `MultiShotMemorySampler`; besides, SourceError for a file that cannot be read.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        load_example_fn: Callable[[Any], Any] = load_image,
        classes_per_batch: int = 2,
        examples_per_class_per_batch: int = 2,
        steps_per_epoch: int = 1000,
        class_list: Sequence[Any] | None = None,
        total_examples_per_class: int | None = None,
        augmenter: Augmenter | None = None,
        warmup: int = -1,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            np.array([os.fspath(path) for path in x], object),
            y,
            load_example_fn=load_example_fn,
            classes_per_batch=classes_per_batch,
            examples_per_class_per_batch=examples_per_class_per_batch,
            steps_per_epoch=steps_per_epoch,
            class_list=class_list,
            total_examples_per_class=total_examples_per_class,
            augmenter=augmenter,
            warmup=warmup,
            seed=seed,
            **kwargs,
        )
