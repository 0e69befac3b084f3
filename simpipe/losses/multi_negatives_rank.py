"""Multiple negatives ranking loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe import distances
from simpipe.errors import ConfigError
from simpipe.losses.pairs import AnyDistance
from simpipe.losses.views import ViewLoss, cross_entropy, gather_views, other_columns

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class MultiNegativesRankLoss(ViewLoss):
    """`loss(query_emb, key_emb)`: the key of each query against the keys of the global batch.

    Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply", section 4.4, with
    s = scale q·k: `log(1 + Σ_j exp s_ij) - s_ii`. The 1 is not in the paper; it is TensorFlow Similarity's and kept so
    that values agree (`InfoNCELoss` is without it). One value a row: TensorFlow Similarity returns [batch, batch]
    values, whose mean is the same and whose sum is batch times too large.

    Args:
      distance: "inner_product"; there for the signature's sake.
      scale: multiplies the inner products.
      name: of the loss.
      reduction: see `ViewLoss`.

    Raises:
      ConfigError: another distance.
    """

    def __init__(
        self,
        distance: AnyDistance = "inner_product",
        scale: float = 20,
        *,
        name: str = "multi_negatives_rank_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.distance, self.scale = distances.get(distance), scale
        if self.distance.name != "inner_product":
            raise ConfigError(f"{name}: distance {self.distance.name!r}: the loss is one of inner products", "leave distance out")

    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        views = gather_views(a, b)
        s = self.scale * ops.matmul(views.a, ops.transpose(views.all_b))
        one = ops.zeros_like(s[:, :1])
        others = ops.concatenate([ops.ones_like(one, dtype="bool"), other_columns(views)], axis=1)
        pair = self.scale * ops.sum(views.a * views.b, axis=1)
        return cross_entropy(pair, ops.concatenate([one, s], axis=1), others)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distance": distances.serialize(self.distance), "scale": self.scale}
