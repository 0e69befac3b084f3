"""Barlow Twins' loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from simpipe.losses.views import ViewLoss, gather_views

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class Barlow(ViewLoss):
    """Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", equations 1 and 2.

    With the columns of both views standardised over the global batch (population deviation; a constant column becomes
    zero) and C = AᵀB / batch: `Σ_i (1 - C_ii)² + lambda_ Σ_{i≠j} C_ij² + margin`, one value of the whole batch.

    Args:
      lambda_: weight of the redundancy term.
      margin: a constant added.
      name: of the loss.
      reduction: has no effect, the loss is one value; it is there because every Keras loss has it.
    """

    def __init__(
        self,
        lambda_: float = 5e-3,
        margin: float = 1e-12,
        *,
        name: str = "barlow",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.lambda_, self.margin = lambda_, margin

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        views = gather_views(a, b)
        rows = ops.cast(ops.shape(views.all_a)[0], "float32")
        cross = ops.matmul(ops.transpose(_standardised(views.all_a)), _standardised(views.all_b)) / rows
        diagonal = ops.diagonal(cross)
        others = tf.linalg.set_diag(cross, ops.zeros_like(diagonal))
        return ops.sum(ops.square(1.0 - diagonal)) + self.lambda_ * ops.sum(ops.square(others)) + self.margin

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lambda_": self.lambda_, "margin": self.margin}


def _standardised(x: Tensor) -> Tensor:
    """Columns of mean zero and population variance one; a constant column becomes zero."""
    centred = x - ops.mean(x, axis=0, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=0, keepdims=True)
    varies = variance > 0
    # The inner `where` keeps the root's gradient finite for a constant column.
    return ops.where(varies, centred * ops.rsqrt(ops.where(varies, variance, ops.ones_like(variance))), 0.0)
