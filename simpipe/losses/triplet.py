"""Triplet loss with mining in the batch."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.pairs import PairLoss, Pairs, masked_max, masked_min

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_POSITIVE = ("hard", "easy")
_NEGATIVE = ("hard", "semi-hard", "easy")


@keras.saving.register_keras_serializable(package="simpipe")
class TripletLoss(PairLoss):
    """`hinge(d(anchor, positive) - d(anchor, negative), margin)` of one mined pair an anchor.

    Formulas and names as in TensorFlow Similarity 0.17, with one deliberate difference: an anchor without a positive
    or a negative has the value 0 and is left out of the mean.

    Args:
      distance: a name in `simpipe.distances`; "cosine" expects unit vectors.
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
        distance: str = "cosine",
        positive_mining_strategy: str = "hard",
        negative_mining_strategy: str = "semi-hard",
        margin: float | None = None,
        *,
        name: str = "triplet_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        if positive_mining_strategy not in _POSITIVE:
            raise ConfigError(f"positive_mining_strategy {positive_mining_strategy!r} is unknown", f"use one of {_POSITIVE}")
        if negative_mining_strategy not in _NEGATIVE:
            raise ConfigError(f"negative_mining_strategy {negative_mining_strategy!r} is unknown", f"use one of {_NEGATIVE}")
        self.positive_mining_strategy = positive_mining_strategy
        self.negative_mining_strategy = negative_mining_strategy
        self.margin = margin

    def anchor_values(self, pairs: Pairs) -> Any:
        mine = masked_max if self.positive_mining_strategy == "hard" else masked_min
        gap = _finite(mine(pairs.distances, pairs.positives), pairs) - _finite(self._negative(pairs), pairs)
        return ops.softplus(gap) if self.margin is None else ops.maximum(gap + self.margin, 0.0)

    def _negative(self, pairs: Pairs) -> Any:
        if self.negative_mining_strategy == "hard":
            return masked_min(pairs.distances, pairs.negatives)
        farthest = masked_max(pairs.distances, pairs.negatives)
        if self.negative_mining_strategy == "easy":
            return farthest
        # Semi-hard is measured from the hardest positive, whichever positive is mined.
        limit = masked_max(pairs.distances, pairs.positives)
        beyond = ops.logical_and(pairs.negatives, pairs.distances > limit[:, None])
        return ops.where(ops.any(beyond, axis=1), masked_min(pairs.distances, beyond), farthest)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_mining_strategy": self.positive_mining_strategy,
            "negative_mining_strategy": self.negative_mining_strategy,
            "margin": self.margin,
        }


def _finite(mined: Any, pairs: Pairs) -> Any:
    return ops.where(pairs.valid, mined, ops.zeros_like(mined))
