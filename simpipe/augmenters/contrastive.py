"""Views by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from simpipe.augmenters.augmenter import Augmenter


class ContrastiveAugmenter(Augmenter):
    """Applies a function to every example, once a view.

    Args:
      process: one example in, one view of it out, of any shape and dtype; with `batched` a whole batch, which is faster.
        It draws its own random numbers: seed those to repeat views.
      num_cpu: how many examples at a time; None for TensorFlow's default.
      batched: whether `process` takes a batch, such as a Keras preprocessing model.
    """

    def __init__(self, process: Callable[[tf.Tensor], tf.Tensor], num_cpu: int | None = None, *, batched: bool = False) -> None:
        self.process = process
        self.num_cpu = num_cpu
        self.batched = batched

    def augment(self, x: Any, y: Any = None, num_augmentations_per_example: int = 2, is_warmup: bool = True) -> list[tf.Tensor]:
        """Views of a batch.

        Args:
          x: [batch, ...], or a list of examples of one shape.
          y: not used.
          num_augmentations_per_example: how many views.
          is_warmup: not used.

        Returns:
          A list of [batch, ...], what `process` makes, one a view.
        """
        with tf.device("/cpu:0"):
            examples = tf.stack(x) if isinstance(x, Sequence) else tf.convert_to_tensor(x)
            return [self._view(examples) for _ in range(num_augmentations_per_example)]

    def _view(self, examples: tf.Tensor) -> tf.Tensor:
        if self.batched:
            return self.process(examples)
        one = tf.TensorSpec(examples.shape[1:], examples.dtype)
        # Example by example, as the function wants it; what it returns is learned from its trace.
        result = tf.function(self.process).get_concrete_function(one).structured_outputs
        signature = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), result)
        return tf.map_fn(self.process, examples, parallel_iterations=self.num_cpu, fn_output_signature=signature)
