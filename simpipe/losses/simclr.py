"""SimCLR's contrastive loss (NT-Xent)."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.views import ViewLoss, cross_entropy, gather_views, other_columns, unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class SimCLRLoss(ViewLoss):
    """Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", equation 1.

    With unit rows and s = a·b / temperature, each of the two views of an example is told from all other views of the
    global batch: `log Σ exp s(a_i, ·) - s(a_i, b_i)`, the sum over all views but a_i itself. The value of a row is the
    sum of both directions (a→b and b→a), twice the paper's mean, as in TensorFlow Similarity.

    Args:
      temperature: divides the cosines.
      name: of the loss.
      reduction: see `ViewLoss`.
    """

    def __init__(
        self, temperature: float = 0.05, *, name: str = "simclr_loss", reduction: str | None = "sum_over_batch_size"
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        views = gather_views(unit_rows(a), unit_rows(b))
        pair = ops.sum(views.a * views.b, axis=1) / self.temperature

        both = ops.concatenate([views.all_a, views.all_b], axis=0)
        others = ops.tile(other_columns(views), (1, 2))

        def direction(own: Tensor) -> Tensor:
            return cross_entropy(pair, ops.matmul(own, ops.transpose(both)) / self.temperature, others)

        return direction(views.a) + direction(views.b)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
