"""What the pair losses share: pairwise distances over the global batch, masks, and the mean over anchors."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from simpipe import distances
from simpipe.distances import Distance
from simpipe.errors import ConfigError
from simpipe.losses.gather import gather_together, sum_replicas

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any
AnyDistance = str | Mapping[str, Any] | Distance


@dataclass(frozen=True)
class Batch:
    """What one replica knows of the global batch (G examples, B of them its own).

    Attributes:
      labels: int[B]; embeddings: float32[B, dim]: this replica's.
      all_labels: int[G]; all_embeddings: float32[G, dim]: of all replicas; the same objects where there is one.
      begin: the row of this replica's first example in the global batch.
    """

    labels: Tensor
    embeddings: Tensor
    all_labels: Tensor
    all_embeddings: Tensor
    begin: Any


@dataclass(frozen=True)
class Pairs:
    """Anchors of this replica (B rows) against M columns: the global batch, and what a memory adds after it.

    Attributes:
      distances: float32[B, M].
      positives: bool[B, M], same label and not the anchor itself.
      negatives: bool[B, M], another label.
      valid: bool[B], anchors that count (with a positive and a negative, unless the loss says otherwise).
      num_valid: float32[], the number of such anchors in the global batch.
      rows: float32[B, dim], the embeddings of the anchors.
      columns: float32[M, dim], those of the columns; the same object as `rows` on one replica without a memory.
      column_labels: int[M].
      known: bool[M], columns that hold an example, or None where all do.
    """

    distances: Tensor
    positives: Tensor
    negatives: Tensor
    valid: Tensor
    num_valid: Tensor
    rows: Tensor
    columns: Tensor
    column_labels: Tensor
    known: Tensor | None = None


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """The largest value a row where `mask`: float[n]; -inf for a row without any."""
    return ops.max(ops.where(mask, values, -float("inf")), axis=1)


def masked_min(values: Tensor, mask: Tensor) -> Tensor:
    """The smallest value a row where `mask`: float[n]; +inf for a row without any."""
    return ops.min(ops.where(mask, values, float("inf")), axis=1)


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """`log Σ exp` over the row's masked values: float[n]; about -1e30 for a row without any, with gradient zero."""
    return ops.logsumexp(ops.where(mask, values, -1e30), axis=1)  # finite, so that no gradient becomes NaN


def pair_masks(labels: Tensor, column_labels: Tensor, *, begin: Any = 0, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positives (same label, not the anchor itself) and negatives of each anchor: bool[B, M], bool[B, M].

    Args:
      labels: int[B], of the anchors.
      column_labels: int[M].
      begin: the column of the first anchor; the others follow.
      known: bool[M], columns that hold an example; None where all do.
    """
    same = ops.equal(labels[:, None], column_labels[None, :])
    row = ops.arange(ops.shape(labels)[0]) + begin
    itself = ops.equal(row[:, None], ops.arange(ops.shape(column_labels)[0])[None, :])
    positives, negatives = ops.logical_and(same, ops.logical_not(itself)), ops.logical_not(same)
    if known is None:
        return positives, negatives
    return ops.logical_and(positives, known), ops.logical_and(negatives, known)


def gather_batch(y_true: Tensor, y_pred: Tensor) -> Batch:
    """Labels int[B] or int[B, 1] and embeddings float[B, dim] of any precision, joined over the replicas."""
    labels = ops.reshape(ops.convert_to_tensor(y_true), (-1,))
    embeddings = ops.cast(y_pred, "float32")
    (all_labels, all_embeddings), begin = gather_together(labels, embeddings)
    return Batch(labels, embeddings, all_labels, all_embeddings, begin)


class PairLoss(keras.losses.Loss, abc.ABC):
    """A loss of each anchor over its positives and negatives in the batch.

    `loss(y_true, y_pred)` is the mean over the anchors that have a positive and a negative; the others have the
    value 0 and do not count. Under `tf.distribute` every replica's anchors see the batches of all replicas, and the
    replicas' losses add up to that mean over the global batch, which is what Keras expects of a loss. Computed in
    float32 whatever the dtype of the embeddings.

    Args:
      distance: a name or alias in `simpipe.distances`, a configuration, or a `Distance`.
      name: of the loss.
      reduction: "sum_over_batch_size" (also "mean", "auto": the mean over anchors as above), "sum",
        "mean_with_sample_weight" (the weighted mean over those anchors), or None for the values of each anchor.

    Raises:
      ConfigError: the distance is unknown, or a similarity.
    """

    def __init__(self, *, distance: AnyDistance, name: str, reduction: str | None = "sum_over_batch_size") -> None:
        options: dict[str, Any] = {
            "reduction": "sum_over_batch_size" if reduction == "auto" else reduction,  # as Keras 2 called it
            "dtype": "float32",
        }
        super().__init__(name=name, **options)
        self.distance = distances.get(distance)
        if self.distance.larger_is_nearer:
            raise ConfigError(
                f"{name}: distance {self.distance.name!r} is a similarity, by which training would push alike apart",
                'use "cosine", which is 1 - the inner product',
            )

    @abc.abstractmethod
    def anchor_values(self, pairs: Pairs) -> Tensor:
        """float32[B]; rows of invalid anchors may hold anything finite."""

    def counts(self, has_positive: Tensor, has_negative: Tensor) -> Tensor:
        """Which anchors count: bool[B], bool[B] -> bool[B]."""
        return ops.logical_and(has_positive, has_negative)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values of each anchor.

        Args:
          y_true: int[B] or int[B, 1], labels.
          y_pred: float[B, dim], embeddings.

        Returns:
          float32[B]; 0 for an anchor that does not count.
        """
        return self._values(self.pairs(y_true, y_pred))

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Not the parent's: it casts labels to float, and its mean counts every anchor.
        with keras.name_scope(self.name):
            pairs = self.pairs(y_true, y_pred)
            values, number = self._values(pairs), pairs.num_valid
            if sample_weight is not None:
                weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
                values = values * weight
                if self.reduction == "mean_with_sample_weight":
                    number = sum_replicas(ops.sum(ops.where(pairs.valid, weight, 0.0)))
            if self.reduction in (None, "none"):
                return values
            total = ops.sum(values)
            return total if self.reduction == "sum" else ops.divide_no_nan(total, number)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distance": distances.serialize(self.distance)}

    def pairs(self, y_true: Tensor, y_pred: Tensor) -> Pairs:
        """Distances and masks of this replica's anchors against the global batch; arguments as in `call`."""
        batch = gather_batch(y_true, y_pred)
        return self._compare(batch, batch.all_embeddings, batch.all_labels)

    def _compare(self, batch: Batch, columns: Tensor, column_labels: Tensor, known: Tensor | None = None) -> Pairs:
        """Anchors against columns, of which the first are the global batch."""
        positives, negatives = pair_masks(batch.labels, column_labels, begin=batch.begin, known=known)
        valid = self.counts(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        return Pairs(
            distances=self.distance(batch.embeddings, columns),
            positives=positives,
            negatives=negatives,
            valid=valid,
            num_valid=sum_replicas(ops.sum(ops.cast(valid, "float32"))),
            rows=batch.embeddings,
            columns=columns,
            column_labels=column_labels,
            known=known,
        )

    def _values(self, pairs: Pairs) -> Tensor:
        values = self.anchor_values(pairs)
        return ops.where(pairs.valid, values, ops.zeros_like(values))
