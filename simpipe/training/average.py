"""The moving average of an encoder's weights, its batch norms' statistics among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class WeightAverage:
    """After step t each average is `m * average + (1 - m) * weight`, with m = min(momentum, (1 + t) / (10 + t)).

    The second term of the minimum lets the first weights fade quickly (as `tf.train.ExponentialMovingAverage` does). The
    moving mean and variance of batch norms are averaged alike: so they fit the averaged weights.

    Args:
      weights: the encoder's variables, all float.
      momentum: in (0, 1).
    """

    def __init__(self, weights: Sequence[Any], momentum: float) -> None:
        self._weights, self._momentum = list(weights), momentum
        self.variables = [tf.Variable(tf.constant(np.asarray(weight)), trainable=False) for weight in self._weights]

    def update(self, step: int) -> None:
        """Takes in the weights as they are after `step` steps, counted from 1."""
        self._update(tf.constant(min(self._momentum, (1 + step) / (10 + step)), tf.float32))

    def values(self) -> list[np.ndarray]:
        return [average.numpy() for average in self.variables]

    @tf.function
    def _update(self, momentum: tf.Tensor) -> None:
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign(momentum * average + (1.0 - momentum) * tf.convert_to_tensor(weight.value))
