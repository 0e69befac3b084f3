"""SimSiam's loss."""

from __future__ import annotations

import math
from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.views import ViewLoss, unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any
_TYPES = ("negative_cosine_sim", "cosine_distance", "angular_distance")
_NEARLY_ONE = 1.0 - 1e-7  # beyond it the arc cosine has no finite slope


@keras.saving.register_keras_serializable(package="simpipe")
class SimSiamLoss(ViewLoss):
    """Chen and He 2021, "Exploring Simple Siamese Representation Learning", equation 1: half the negative cosine.

    The model stops the gradient of one side (`loss(stop_gradient(z1), p2) + loss(stop_gradient(z2), p1)`); the loss
    itself is symmetric. With s the cosine of the two rows: `0.5 f(s) + margin`.

    Args:
      projection_type: f: "negative_cosine_sim" (-s), "cosine_distance" (1 - s), or "angular_distance" (acos(s) / π).
      margin: a constant added; it moves the value, not the gradient.
      name: of the loss.
      reduction: see `ViewLoss`.

    Raises:
      ConfigError: `projection_type` is unknown.
    """

    def __init__(
        self,
        projection_type: str = "negative_cosine_sim",
        margin: float = 0.001,
        *,
        name: str = "simsiam_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        if projection_type not in _TYPES:
            raise ConfigError(f"projection_type {projection_type!r} is unknown", f"use one of {', '.join(_TYPES)}")
        self.projection_type, self.margin = projection_type, margin

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        s = ops.sum(unit_rows(a) * unit_rows(b), axis=1)
        if self.projection_type == "negative_cosine_sim":
            value = -s
        elif self.projection_type == "cosine_distance":
            value = 1.0 - s
        else:
            inner = ops.abs(s) < _NEARLY_ONE
            angle = ops.arccos(ops.where(inner, s, ops.zeros_like(s)))
            value = ops.where(inner, angle / math.pi, ops.cast(s < 0, "float32"))
        return 0.5 * value + self.margin

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "projection_type": self.projection_type, "margin": self.margin}
