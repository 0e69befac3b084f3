"""Learning rate schedules."""

from __future__ import annotations

import math
from typing import Any

import keras

from simpipe.errors import ConfigError

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class WarmupCosineDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to the largest learning rate, then half a cosine down to `alpha` of it, and flat from there on.

    With w = warmup_steps and T = total_steps: `max * step / w` before step w, then
    `max * ((1 - alpha) * (1 + cos(pi * (step - w) / (T - w))) / 2 + alpha)` (Loshchilov and Hutter 2017, "SGDR",
    equation 5, of one cycle), and `max * alpha` after T.

    Args:
      max_learning_rate: the rate at step `warmup_steps`.
      total_steps: the step at which the decay ends, warm-up included.
      warmup_steps: length of the rise; 0 for none.
      alpha: the last rate as a share of the largest, 0 to 1.
      name: of the schedule.

    Raises:
      ConfigError: `warmup_steps` is negative or not below `total_steps`, or `alpha` is outside [0, 1].
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        warmup_steps: int,
        alpha: float = 0.0,
        *,
        name: str = "WarmupCosineDecay",
    ) -> None:
        super().__init__()
        if not 0 <= warmup_steps < total_steps:
            raise ConfigError(
                f"warmup_steps is {warmup_steps} and total_steps {total_steps}",
                "give a warm-up of at least 0 steps that ends before total_steps",
            )
        if not 0.0 <= alpha <= 1.0:
            raise ConfigError(f"alpha is {alpha}", "give the last rate's share of the largest, 0 to 1")
        self.max_learning_rate = max_learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.alpha = alpha
        self.name = name

    def __call__(self, step: Any) -> Any:
        """The rate at a step: int[] -> float32[]."""
        step = ops.cast(step, "float32")
        rise = step / max(self.warmup_steps, 1)
        done = ops.clip((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)
        fall = (1.0 - self.alpha) * 0.5 * (1.0 + ops.cos(math.pi * done)) + self.alpha
        return self.max_learning_rate * ops.where(step < self.warmup_steps, rise, fall)

    def get_config(self) -> dict[str, Any]:
        names = ("max_learning_rate", "total_steps", "warmup_steps", "alpha", "name")
        return {key: getattr(self, key) for key in names}
