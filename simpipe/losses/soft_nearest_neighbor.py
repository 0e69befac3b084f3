"""Soft nearest neighbor loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.pairs import AnyDistance, PairLoss, Pairs, masked_logsumexp

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong


@keras.saving.register_keras_serializable(package="simpipe")
class SoftNearestNeighborLoss(PairLoss):
    """Frosst et al. 2019, "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss", eq. 1.

    `-log(Σ_P exp(-D/T) / Σ_{P and N} exp(-D/T))` of each anchor. Two deliberate differences from TensorFlow
    Similarity: an anchor without a positive or a negative is left out of the mean (its value is 0), and sums are taken
    as logarithms, without an added 1e-9, so that distant points neither give 0/0 nor lose their gradient.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`.
      temperature: T, in units of the distance; above 0.
      name: of the loss.
      reduction: see `PairLoss`.

    Raises:
      ConfigError: the distance is unknown, or the temperature not above 0.
    """

    def __init__(
        self,
        distance: AnyDistance = "sql2",
        temperature: float = 1,
        name: str = "soft_nearest_neighbor_loss",
        *,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(distance=distance, name=name, reduction=reduction)
        if not temperature > 0:
            raise ConfigError(f"temperature {temperature} is not above 0", "use 1, or the usual distance of neighbors")
        self.temperature = temperature

    def anchor_values(self, pairs: Pairs) -> Any:
        scaled = pairs.distances / -self.temperature
        everything = ops.logical_or(pairs.positives, pairs.negatives)
        return masked_logsumexp(scaled, everything) - masked_logsumexp(scaled, pairs.positives)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
