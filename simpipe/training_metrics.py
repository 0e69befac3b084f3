"""What to watch while a similarity model trains: how far the mined pairs of a batch lie apart."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from itertools import islice
from typing import Any

import keras
import numpy as np

from simpipe import distances
from simpipe.errors import SourceError
from simpipe.losses.mining import NEGATIVE, POSITIVE, check_strategy, mine_negative, mine_positive
from simpipe.losses.pairs import AnyDistance, gather_batch, pair_masks

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any
_AGGREGATES = ("mean", "avg", "max", "min", "sum")


class BatchMetric(keras.metrics.Metric, abc.ABC):
    """Base: the mean over batches of one value a batch; NaN while no batch had one.

    Under `tf.distribute` the value is that of the global batch, which every replica computes.
    """

    def __init__(self, *, distance: AnyDistance, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.distance = distances.get(distance)
        self.total: Any = self.add_variable((), "zeros", dtype="float32", name="total")
        self.batches: Any = self.add_variable((), "zeros", dtype="float32", name="batches")

    @abc.abstractmethod
    def batch_value(self, d: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """float32[B, B], bool[B, B], bool[B, B] -> the value, float32[], and whether there is one, bool[]."""

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
          y_true: int[B] or int[B, 1], labels.
          y_pred: float[B, dim], embeddings.
          sample_weight: not used: a distance between two examples has no weight of one.
        """
        batch = gather_batch(y_true, y_pred)
        labels, embeddings = batch.all_labels, batch.all_embeddings
        value, there = self.batch_value(self.distance(embeddings, embeddings), *pair_masks(labels, labels))
        self.total.assign_add(ops.where(there, value, 0.0))
        self.batches.assign_add(ops.cast(there, "float32"))

    def result(self) -> Tensor:
        some = self.batches > 0
        return ops.where(some, self.total / ops.where(some, self.batches, 1.0), float("nan"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distance": distances.serialize(self.distance)}


@keras.saving.register_keras_serializable(package="simpipe")
class DistanceMetric(BatchMetric):
    """The distances of the batch's mined positives or negatives, aggregated; over the epoch, the mean of the batches.

    TensorFlow Similarity kept the last batch only, and counted anchors without a pair: here they are left out, and a
    batch without any pair is skipped. NaN where no batch had one.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`. By a similarity the farthest is the
        least similar.
      aggregate: over the anchors of a batch: "mean" (also "avg"), "max", "min" or "sum".
      anchor: "positive" or "negative": which of an anchor's mined pairs is measured.
      positive_mining_strategy: as in `TripletLoss`.
      negative_mining_strategy: as in `TripletLoss`.
      name: of the metric; such as "avg_pos" by default.
      dtype: of `keras.metrics.Metric`; distances are computed in float32 whatever it is.

    Raises:
      ConfigError: an argument is none of the above.
    """

    def __init__(
        self,
        distance: AnyDistance,
        aggregate: str = "mean",
        anchor: str = "positive",
        positive_mining_strategy: str = "hard",
        negative_mining_strategy: str = "hard",
        name: str | None = None,
        *,
        dtype: Any = None,
    ) -> None:
        check_strategy("aggregate", aggregate, _AGGREGATES)
        check_strategy("anchor", anchor, ("positive", "negative"))
        check_strategy("positive_mining_strategy", positive_mining_strategy, POSITIVE)
        check_strategy("negative_mining_strategy", negative_mining_strategy, NEGATIVE)
        super().__init__(distance=distance, name=name or f"{_short(aggregate)}_{anchor[:3]}", dtype=dtype)
        self.aggregate, self.anchor = aggregate, anchor
        self.positive_mining_strategy = positive_mining_strategy
        self.negative_mining_strategy = negative_mining_strategy

    def batch_value(self, d: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        sign = -1.0 if self.distance.larger_is_nearer else 1.0
        if self.anchor == "positive":
            mined, _ = mine_positive(sign * d, positives, self.positive_mining_strategy)
            counts = ops.any(positives, axis=1)
        else:
            mined, _ = mine_negative(sign * d, positives, negatives, self.negative_mining_strategy)
            counts = ops.any(negatives, axis=1)
        return _aggregate(self.aggregate, sign * mined, counts), ops.any(counts)

    def get_config(self) -> dict[str, Any]:
        names = ("aggregate", "anchor", "positive_mining_strategy", "negative_mining_strategy")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="simpipe")
class DistanceGapMetric(BatchMetric):
    """`|the least hard negative's distance - the greatest hard positive's|` of the batch; the mean over the batches.

    A batch without a positive or without a negative pair is skipped. NaN where no batch had both.

    Args:
      distance: a name in `simpipe.distances`, its configuration, or a `Distance`.
      name: of the metric.
      dtype: of `keras.metrics.Metric`; distances are computed in float32 whatever it is.

    Raises:
      ConfigError: the distance is unknown.
    """

    def __init__(self, distance: AnyDistance, name: str = "dist_gap", *, dtype: Any = None) -> None:
        super().__init__(distance=distance, name=name, dtype=dtype)

    def batch_value(self, d: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        d = -d if self.distance.larger_is_nearer else d
        farthest = ops.max(ops.where(positives, d, -float("inf")))
        nearest = ops.min(ops.where(negatives, d, float("inf")))
        return ops.abs(nearest - farthest), ops.logical_and(ops.any(positives), ops.any(negatives))


def max_pos(distance: AnyDistance) -> DistanceMetric:
    """The farthest positive of a batch."""
    return DistanceMetric(distance, "max", "positive", name="max_pos")


def min_pos(distance: AnyDistance) -> DistanceMetric:
    """The nearest of the anchors' farthest positives."""
    return DistanceMetric(distance, "min", "positive", name="min_pos")


def avg_pos(distance: AnyDistance) -> DistanceMetric:
    """The mean of the anchors' farthest positives."""
    return DistanceMetric(distance, "mean", "positive", name="avg_pos")


def sum_pos(distance: AnyDistance) -> DistanceMetric:
    """The sum of the anchors' farthest positives."""
    return DistanceMetric(distance, "sum", "positive", name="sum_pos")


def max_neg(distance: AnyDistance) -> DistanceMetric:
    """The farthest of the anchors' nearest negatives."""
    return DistanceMetric(distance, "max", "negative", name="max_neg")


def min_neg(distance: AnyDistance) -> DistanceMetric:
    """The nearest negative of a batch."""
    return DistanceMetric(distance, "min", "negative", name="min_neg")


def avg_neg(distance: AnyDistance) -> DistanceMetric:
    """The mean of the anchors' nearest negatives."""
    return DistanceMetric(distance, "mean", "negative", name="avg_neg")


def sum_neg(distance: AnyDistance) -> DistanceMetric:
    """The sum of the anchors' nearest negatives."""
    return DistanceMetric(distance, "sum", "negative", name="sum_neg")


def dist_gap(distance: AnyDistance) -> DistanceGapMetric:
    """How far the nearest negative of a batch lies from its farthest positive."""
    return DistanceGapMetric(distance)


def batch_class_ratio(sampler: Iterable[Any], num_batches: int = 100) -> float:
    """Examples a class in a batch, on average: at least 2, or there are anchors without a positive.

    Args:
      sampler: gives batches (x, labels), or (x, labels, weights); a sampler of this package, a `tf.data.Dataset` or
        any iterable.
      num_batches: how many batches to look at, at most.

    Raises:
      SourceError: the sampler gave no example.
    """
    ratios = [len(y) / len(np.unique(y)) for y in (np.ravel(batch[1]) for batch in islice(iter(sampler), num_batches)) if len(y)]
    if not ratios:
        raise SourceError("batch_class_ratio: the sampler gave no example", "give one that yields (examples, labels)")
    return float(np.mean(ratios))


def _short(aggregate: str) -> str:
    return "avg" if aggregate == "mean" else aggregate


def _aggregate(aggregate: str, values: Tensor, counts: Tensor) -> Tensor:
    """Of the values that count: float32[B], bool[B] -> float32[]; may be infinite or 0 where none does."""
    if aggregate == "max":
        return ops.max(ops.where(counts, values, -float("inf")))
    if aggregate == "min":
        return ops.min(ops.where(counts, values, float("inf")))
    total = ops.sum(ops.where(counts, values, 0.0))
    return total if aggregate == "sum" else ops.divide_no_nan(total, ops.sum(ops.cast(counts, "float32")))
