"""Circle loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.mining import check_strategy
from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_logsumexp

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class CircleLoss(PairLoss):
    """Sun et al. 2020, "Circle Loss: A Unified Perspective of Pair Similarity Optimization".

    With similarity 1 - D, m the margin, a_p = max(m + D, 0), a_n = max(1 + m - D, 0), and over an anchor's positives
    and negatives p = log Σ exp(gamma a_p (D - m)), n = log Σ exp(gamma a_n (1 - m - D)):

    - "tf_similarity": `log(1 + exp p) + log(1 + exp n)`, with a gradient through a_p and a_n, as TensorFlow Similarity
      computes it. Either part stays above 0 however far positives and negatives are apart.
    - "paper": `log(1 + exp(p + n))` (eq. 6), with a_p and a_n as constants.

    An anchor without a positive or a negative has the value 0 and is left out of the mean.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`; "cosine" expects unit vectors.
      gamma: scale; the paper uses 80 for retrieval, 256 for faces.
      margin: the relaxation m; the paper uses 0.4 for retrieval, 0.25 for faces.
      name: of the loss.
      formula: "tf_similarity" or "paper".
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance or formula is unknown.
    """

    def __init__(
        self,
        distance: AnyDistance = "cosine",
        gamma: float = 80,
        margin: float = 0.4,
        name: str = "circle_loss",
        *,
        formula: str = "tf_similarity",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        check_strategy("formula", formula, ("tf_similarity", "paper"))
        self.gamma, self.margin, self.formula = gamma, margin, formula

    def anchor_values(self, pairs: Pairs) -> Any:
        d, m = pairs.distances, self.margin
        positive_weight, negative_weight = ops.maximum(m + d, 0.0), ops.maximum(1.0 + m - d, 0.0)
        if self.formula == "paper":
            positive_weight, negative_weight = ops.stop_gradient(positive_weight), ops.stop_gradient(negative_weight)
        positive = masked_logsumexp(self.gamma * positive_weight * (d - m), pairs.positives)
        negative = masked_logsumexp(self.gamma * negative_weight * (1.0 - m - d), pairs.negatives)
        if self.formula == "paper":
            return ops.softplus(positive + negative)
        return ops.softplus(positive) + ops.softplus(negative)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "margin": self.margin, "formula": self.formula}
