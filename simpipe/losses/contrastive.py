"""Contrastive loss over pairs."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class ContrastiveLoss(PairLoss):
    """Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", equation 4.

    A positive pair costs `½ max(0, D - positive_margin)²`, a negative pair `½ max(0, margin - D)²`. The value of an
    anchor is the mean over its positives plus the mean over its negatives, so that neither outweighs the other by number
    (the paper draws labelled pairs one by one). An anchor counts if it is in any pair.

    Args:
      margin: distance beyond which a negative costs nothing.
      positive_margin: distance below which a positive costs nothing; 0 in the paper.
      distance: as in `PairLoss`.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance is unknown.
    """

    def __init__(
        self,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        distance: AnyDistance = "euclidean",
        *,
        name: str = "contrastive_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        self.margin, self.positive_margin = margin, positive_margin

    def anchor_values(self, pairs: Pairs) -> Any:
        far = ops.square(ops.maximum(pairs.distances - self.positive_margin, 0.0))
        near = ops.square(ops.maximum(self.margin - pairs.distances, 0.0))
        return 0.5 * (_mean(far, pairs.positives) + _mean(near, pairs.negatives))

    def counts(self, has_positive: Any, has_negative: Any) -> Any:
        return ops.logical_or(has_positive, has_negative)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "positive_margin": self.positive_margin}


def _mean(values: Any, mask: Any) -> Any:
    """The mean a row where `mask`: float[n]; 0 for a row without any."""
    chosen = ops.cast(mask, "float32")
    return ops.divide_no_nan(ops.sum(values * chosen, axis=1), ops.sum(chosen, axis=1))
