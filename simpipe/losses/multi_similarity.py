"""Multi-similarity loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_logsumexp, masked_max, masked_min

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class MultiSimilarityLoss(PairLoss):
    """Wang et al. 2019, "Multi-Similarity Loss with General Pair Weighting", with distances as in TF Similarity.

    Of each anchor the positives farther than its nearest negative less `epsilon` and the negatives nearer than its
    farthest positive plus `epsilon` are kept. With S = D + lmda - center and L(x) = log(1 + Σ exp x) over the kept:
    `L(alpha S over positives) / alpha + L(-beta S over negatives) / beta`, and 0 where either kept set is empty
    (such an anchor counts in the mean; one whose labels offer no pair at all does not).

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`; "cosine" expects unit vectors and
        equals the paper with center 1.
      alpha: weight of positives.
      beta: weight of negatives.
      epsilon: slack of the mining.
      lmda: shift of the distances.
      center: distance of similarity zero.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance is unknown.
    """

    def __init__(
        self,
        distance: AnyDistance = "cosine",
        alpha: float = 2,
        beta: float = 40,
        epsilon: float = 0.1,
        lmda: float = 0.5,
        center: float = 1.0,
        name: str = "multi_similarity_loss",
        *,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        self.alpha, self.beta, self.epsilon, self.lmda, self.center = alpha, beta, epsilon, lmda, center

    def anchor_values(self, pairs: Pairs) -> Any:
        d = pairs.distances
        nearest_negative, farthest_positive = masked_min(d, pairs.negatives), masked_max(d, pairs.positives)
        positives = ops.logical_and(pairs.positives, d > (nearest_negative - self.epsilon)[:, None])
        negatives = ops.logical_and(pairs.negatives, d < (farthest_positive + self.epsilon)[:, None])
        shifted = d + (self.lmda - self.center)
        # log(1 + Σ exp x) is the softplus of log Σ exp x.
        values = ops.softplus(masked_logsumexp(self.alpha * shifted, positives)) / self.alpha
        values += ops.softplus(masked_logsumexp(-self.beta * shifted, negatives)) / self.beta
        kept = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        return ops.where(kept, values, ops.zeros_like(values))

    def get_config(self) -> dict[str, Any]:
        names = ("alpha", "beta", "epsilon", "lmda", "center")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
