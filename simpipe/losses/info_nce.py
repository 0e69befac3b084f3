"""InfoNCE between two towers."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.views import ViewLoss, cross_entropy, gather_views, other_columns, unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class InfoNCELoss(ViewLoss):
    """`loss(query_emb, key_emb)`: each query tells its key from the keys of the global batch, and the other way round.

    Van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4, with
    s = q·k / temperature: `log Σ_j exp s_ij - s_ii`. The symmetric form is the mean of that and of
    `log Σ_j exp s_ji - s_ii` (Radford et al. 2021, CLIP, figure 3).

    Args:
      temperature: divides the similarities.
      symmetric: whether keys also look for their queries.
      normalize: whether rows are scaled to length one first; without it the similarity is the inner product.
      name: of the loss.
      reduction: see `ViewLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        symmetric: bool = True,
        *,
        normalize: bool = True,
        name: str = "info_nce_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature, self.symmetric, self.normalize = temperature, symmetric, normalize

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        views = gather_views(unit_rows(a), unit_rows(b)) if self.normalize else gather_views(a, b)
        pair = ops.sum(views.a * views.b, axis=1) / self.temperature

        others = other_columns(views)

        def direction(own: Tensor, columns: Tensor) -> Tensor:
            return cross_entropy(pair, ops.matmul(own, ops.transpose(columns)) / self.temperature, others)

        values = direction(views.a, views.all_b)
        return 0.5 * (values + direction(views.b, views.all_a)) if self.symmetric else values

    def get_config(self) -> dict[str, Any]:
        names = ("temperature", "symmetric", "normalize")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
