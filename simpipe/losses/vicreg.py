"""VICReg's loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from simpipe.losses.views import ViewLoss, gather_views

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class VicReg(ViewLoss):
    """Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning".

    The value of a row, with D columns and B rows of the global batch, V = population variance, x over both views
    (equations 1 to 6; the hinge is averaged over the views, as in TensorFlow Similarity and the paper's code):
    `lambda_ mean_d (a - b)² + mu ½ Σ_x mean_d max(0, 1 - √(V_d(x) + std_const)) + nu Σ_x Σ_{i≠j} Cov_ij(x)² / D`,
    Cov = XᵀX / (B - 1) of the centred columns. The last two terms are the same in every row.

    TensorFlow Similarity does not reduce by default, so that its gradient is the batch size times that of the mean;
    here the default is the mean.

    Args:
      std_const: keeps the root's gradient finite.
      lambda_: weight of the invariance term.
      mu: weight of the variance term.
      nu: weight of the covariance term.
      name: of the loss.
      reduction: see `ViewLoss`.
    """

    def __init__(
        self,
        std_const: float = 1e-4,
        lambda_: float = 25,
        mu: float = 25,
        nu: float = 1,
        *,
        name: str = "vicreg",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.std_const, self.lambda_, self.mu, self.nu = std_const, lambda_, mu, nu

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        views = gather_views(a, b)
        invariance = ops.mean(ops.square(a - b), axis=1)
        terms = [self._statistics(x) for x in (views.all_a, views.all_b)]
        variance, covariance = terms[0][0] + terms[1][0], terms[0][1] + terms[1][1]
        return self.lambda_ * invariance + (self.mu * 0.5 * variance + self.nu * covariance)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The variance and the covariance term of one view: float32[] each."""
        rows = ops.cast(ops.shape(x)[0], "float32")
        centred = x - ops.mean(x, axis=0, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(centred), axis=0) + self.std_const)
        covariance = ops.matmul(ops.transpose(centred), centred) / ops.maximum(rows - 1.0, 1.0)
        others = tf.linalg.set_diag(covariance, ops.zeros_like(deviation))
        return ops.mean(ops.maximum(1.0 - deviation, 0.0)), ops.sum(ops.square(others)) / x.shape[-1]

    def get_config(self) -> dict[str, Any]:
        names = ("std_const", "lambda_", "mu", "nu")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
