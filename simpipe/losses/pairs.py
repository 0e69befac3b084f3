"""What the pair losses share: pairwise distances over the global batch, masks, and the mean over anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from simpipe import distances
from simpipe.losses.gather import gather_replicas

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@dataclass(frozen=True)
class Pairs:
    """Anchors of this replica (B rows) against the global batch (M columns; M = B on one replica).

    Attributes:
      distances: float32[B, M].
      positives: bool[B, M], same label and not the anchor itself.
      negatives: bool[B, M], another label.
      valid: bool[B], anchors with a positive and a negative.
      num_valid: float32[], the number of such anchors in the global batch.
    """

    distances: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor
    num_valid: Tensor


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """The largest value a row where `mask`: float[n]; -inf for a row without any."""
    return ops.max(ops.where(mask, values, -float("inf")), axis=1)


def masked_min(values: Tensor, mask: Tensor) -> Tensor:
    """The smallest value a row where `mask`: float[n]; +inf for a row without any."""
    return ops.min(ops.where(mask, values, float("inf")), axis=1)


class PairLoss(keras.losses.Loss):
    """A loss of each anchor over its positives and negatives in the batch.

    `loss(y_true, y_pred)` is the mean over the anchors that have a positive and a negative; the others have the
    value 0 and do not count. Under `tf.distribute` every replica's anchors see the batches of all replicas, and the
    replicas' losses add up to that mean over the global batch, which is what Keras expects of a loss. Computed in
    float32 whatever the dtype of the embeddings.

    Args:
      distance: a name in `simpipe.distances`.
      name: of the loss.
      reduction: "sum_over_batch_size" (the mean over anchors as above), "sum", or None for the values of each anchor.
    """

    def __init__(self, *, distance: str, name: str, reduction: str | None = "sum_over_batch_size") -> None:
        options: dict[str, Any] = {"reduction": reduction, "dtype": "float32"}
        super().__init__(name=name, **options)
        self.distance = distance
        self._pairwise = distances.get(distance)

    def anchor_values(self, pairs: Pairs) -> Tensor:
        """float32[B]; rows of invalid anchors may hold anything."""
        raise NotImplementedError  # each loss defines it; Keras' Loss has no abstract-class machinery

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values of each anchor.

        Args:
          y_true: int[B] or int[B, 1], labels.
          y_pred: float[B, dim], embeddings.

        Returns:
          float32[B]; 0 for an anchor without a positive or a negative.
        """
        return self._values(self._pairs(y_true, y_pred))

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Not the parent's: it casts labels to float, and its mean counts every anchor.
        with keras.name_scope(self.name):
            pairs = self._pairs(y_true, y_pred)
            values = self._values(pairs)
            if sample_weight is not None:
                values = values * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
            if self.reduction in (None, "none"):
                return values
            total = ops.sum(values)
            return total if self.reduction == "sum" else ops.divide_no_nan(total, pairs.num_valid)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distance": self.distance}

    def _values(self, pairs: Pairs) -> Tensor:
        values = self.anchor_values(pairs)
        return ops.where(pairs.valid, values, ops.zeros_like(values))

    def _pairs(self, y_true: Tensor, y_pred: Tensor) -> Pairs:
        labels = ops.reshape(ops.convert_to_tensor(y_true), (-1,))
        embeddings = ops.cast(y_pred, "float32")
        all_labels, begin = gather_replicas(labels)
        all_embeddings, _ = gather_replicas(embeddings)
        columns = ops.shape(all_labels)[0]
        same = ops.equal(labels[:, None], all_labels[None, :])
        itself = ops.equal((ops.arange(ops.shape(labels)[0]) + begin)[:, None], ops.arange(columns)[None, :])
        positives, negatives = ops.logical_and(same, ops.logical_not(itself)), ops.logical_not(same)
        # Counted from labels alone, so that every replica knows the number of valid anchors of all of them.
        alike = ops.sum(ops.cast(ops.equal(all_labels[:, None], all_labels[None, :]), "int32"), axis=1)
        return Pairs(
            distances=self._pairwise(embeddings, all_embeddings),
            positives=positives,
            negatives=negatives,
            valid=ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1)),
            num_valid=ops.sum(ops.cast(ops.logical_and(alike > 1, alike < columns), "float32")),
        )
