"""Supervised contrastive loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_logsumexp

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class SupConLoss(PairLoss):
    """Khosla et al. 2020, "Supervised Contrastive Learning", equation 2 (L_out).

    The value of an anchor: the mean over its positives p of `log Σ_a exp(-D_ia / T) + D_ip / T`, the sum over all
    others of the global batch. With "cosine" and unit vectors that is the paper's: the constant of 1 - cosine cancels.
    An anchor counts if it has a positive.

    Args:
      temperature: T.
      distance: as in `PairLoss`; "cosine" expects unit vectors.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        distance: AnyDistance = "cosine",
        *,
        name: str = "supcon_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        self.temperature = temperature

    def anchor_values(self, pairs: Pairs) -> Any:
        logits = pairs.distances / -self.temperature
        others = ops.logical_or(pairs.positives, pairs.negatives)
        total = masked_logsumexp(logits, others)
        positives = ops.cast(pairs.positives, "float32")
        mean = ops.divide_no_nan(ops.sum(positives * logits, axis=1), ops.sum(positives, axis=1))
        return total - mean

    def counts(self, has_positive: Any, has_negative: Any) -> Any:
        return has_positive

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
