"""Triplet loss with mining in the batch."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.mining import MinedLoss
from simpipe.losses.pairs import AnyDistance, Pairs


@keras.saving.register_keras_serializable(package="simpipe")
class TripletLoss(MinedLoss):
    """`hinge(d(anchor, positive) - d(anchor, negative), margin)` of one mined pair an anchor.

    Schroff et al. 2015, "FaceNet", eq. 3, with mining in the batch. Formulas and names as in TensorFlow Similarity
    0.17, with one deliberate difference: an anchor without a positive or a negative has the value 0 and is left out of
    the mean.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`; "cosine" expects unit vectors.
      positive_mining_strategy: "hard" (the farthest positive) or "easy" (the nearest).
      negative_mining_strategy: "hard" (the nearest negative), "easy" (the farthest), or "semi-hard": the nearest one
        beyond the farthest positive, and the farthest of all where there is none beyond.
      margin: `hinge(x) = max(x + margin, 0)`; None for the soft margin `log(1 + exp(x))`.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: a strategy or distance is unknown.
    """

    def __init__(
        self,
        distance: AnyDistance = "cosine",
        positive_mining_strategy: str = "hard",
        negative_mining_strategy: str = "semi-hard",
        margin: float | None = None,
        name: str = "triplet_loss",
        *,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            distance=distance,
            positive_mining_strategy=positive_mining_strategy,
            negative_mining_strategy=negative_mining_strategy,
            margin=margin,
            name=name,
            reduction=reduction,
        )

    def gap(self, pairs: Pairs) -> Any:
        (positive, _), (negative, _) = self.mine(pairs)
        return positive - negative
