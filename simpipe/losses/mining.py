"""Which positive and which negative stand for an anchor, and the base of the losses that mine one of each."""

from __future__ import annotations

import abc
from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_max, masked_min

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any

POSITIVE = ("hard", "easy")
NEGATIVE = ("hard", "semi-hard", "easy")


def check_strategy(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value`, the argument called `name`, is one of `known`."""
    if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown", f"use one of {', '.join(map(repr, known))}")


def mine_positive(distances: Tensor, positives: Tensor, strategy: str) -> tuple[Tensor, Tensor]:
    """An anchor's farthest positive ("hard") or its nearest ("easy").

    Args:
      distances: float32[B, M].
      positives: bool[B, M].
      strategy: one of `POSITIVE`.

    Returns:
      float32[B] the distance (infinite where there is no positive), int32[B] the column (0 there; ties: the first).
    """
    return (_largest if strategy == "hard" else _smallest)(distances, positives)


def mine_negative(distances: Tensor, positives: Tensor, negatives: Tensor, strategy: str) -> tuple[Tensor, Tensor]:
    """An anchor's nearest negative ("hard"), its farthest ("easy"), or the nearest beyond its positives.

    "semi-hard" is the nearest negative beyond the farthest positive (whichever positive is mined), and the farthest
    negative where none is beyond.

    Args:
      distances: float32[B, M].
      positives, negatives: bool[B, M].
      strategy: one of `NEGATIVE`.

    Returns:
      float32[B] the distance (infinite where there is no negative), int32[B] the column (0 there; ties: the first).
    """
    if strategy == "hard":
        return _smallest(distances, negatives)
    if strategy == "easy":
        return _largest(distances, negatives)
    beyond = ops.logical_and(negatives, distances > masked_max(distances, positives)[:, None])
    far, far_column = _largest(distances, negatives)
    near, near_column = _smallest(distances, beyond)
    some = ops.any(beyond, axis=1)
    return ops.where(some, near, far), ops.where(some, near_column, far_column)


class MinedLoss(PairLoss):
    """Base of the losses `hinge(gap, margin)` of one mined positive and negative an anchor.

    Args:
      distance: see `PairLoss`.
      positive_mining_strategy: see `mine_positive`.
      negative_mining_strategy: see `mine_negative`.
      margin: `hinge(x) = max(x + margin, 0)`; None for the soft margin `log(1 + exp(x))`.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: a strategy or distance is unknown.
    """

    def __init__(
        self,
        *,
        distance: AnyDistance,
        positive_mining_strategy: str,
        negative_mining_strategy: str,
        margin: float | None,
        name: str,
        reduction: str | None,
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        check_strategy("positive_mining_strategy", positive_mining_strategy, POSITIVE)
        check_strategy("negative_mining_strategy", negative_mining_strategy, NEGATIVE)
        self.positive_mining_strategy = positive_mining_strategy
        self.negative_mining_strategy = negative_mining_strategy
        self.margin = margin

    def mine(self, pairs: Pairs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Distance and column of each anchor's positive, and of its negative."""
        d, positives, negatives = pairs.distances, pairs.positives, pairs.negatives
        return (
            mine_positive(d, positives, self.positive_mining_strategy),
            mine_negative(d, positives, negatives, self.negative_mining_strategy),
        )

    @abc.abstractmethod
    def gap(self, pairs: Pairs) -> Tensor:
        """float32[B], the positive's distance less the negative's; may be infinite for an invalid anchor."""

    def anchor_values(self, pairs: Pairs) -> Tensor:
        gap = self.gap(pairs)
        gap = ops.where(pairs.valid, gap, ops.zeros_like(gap))
        return ops.softplus(gap) if self.margin is None else ops.maximum(gap + self.margin, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_mining_strategy": self.positive_mining_strategy,
            "negative_mining_strategy": self.negative_mining_strategy,
            "margin": self.margin,
        }


def _largest(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return masked_max(values, mask), ops.argmax(ops.where(mask, values, -float("inf")), axis=1)


def _smallest(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return masked_min(values, mask), ops.argmin(ops.where(mask, values, float("inf")), axis=1)
