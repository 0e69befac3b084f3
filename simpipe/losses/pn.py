"""Positive-negative loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.mining import MinedLoss
from simpipe.losses.pairs import AnyDistance, Pairs

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class PNLoss(MinedLoss):
    """`hinge(d(anchor, positive) - min(d(anchor, negative), d(positive, negative)), margin)` of one mined pair.

    The triplet loss, but the negative shall be far from the positive too. As in TensorFlow Similarity, with one
    deliberate difference: an anchor without a positive or a negative has the value 0 and is left out of the mean.

    Args:
      distance, positive_mining_strategy, negative_mining_strategy, margin: as in `TripletLoss`.
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
        name: str = "pn_loss",
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
        (positive, p), (negative, n) = self.mine(pairs)
        # From the vectors: a positive of another replica or of a memory has no row in the matrix.
        columns = pairs.columns
        between = self.distance.rows(ops.take(columns, p, axis=0), ops.take(columns, n, axis=0))
        return positive - ops.minimum(negative, between)
