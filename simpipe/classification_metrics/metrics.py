"""One class a metric, and how they are found by name."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simpipe.errors import ConfigError


@dataclass(frozen=True)
class MatchCounts:
    """Counts at each threshold, int64[t] (or 0-d), and the number of queries.

    Attributes:
      tp, fp, fn, tn: of matches. Queries without any neighbor are in none of them.
      queries: all of them.
      open_fp: open-set queries (no indexed item carries their label) that are near; they are part of `fp`.
      open_set: all open-set queries, near, far or without neighbor.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    queries: Any
    open_fp: Any = 0
    open_set: Any = 0

    @property
    def known(self) -> Any:
        """Queries whose label is in the index."""
        return self.queries - self.open_set


def _ratio(above: Any, below: Any) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def _harmonic(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    return _ratio(2 * p * r, p + r)


class ClassificationMetric(ABC):
    """A metric of matches at a distance threshold.

    Attributes:
      canonical_name: the metric's own name.
      maximize: whether larger is better.
      increasing: whether it tends to grow with the threshold; it decides which of the thresholds that reach a target
        becomes the cutpoint.
      name: the key in results; the canonical one, or the alias that the user wrote.
    """

    canonical_name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    maximize: ClassVar[bool] = True
    increasing: ClassVar[bool] = True

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.canonical_name

    @abstractmethod
    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        """Values at each threshold.

        Args:
          tp, fp, tn, fn: counts, int64[t] (or scalars, or int64[t, r] of r replicates).
          count: number of queries.

        Returns:
          float64[t], of the shape of the counts.
        """

    def at(self, counts: MatchCounts) -> np.ndarray:
        """`compute` on a record of counts: float64[t]."""
        return self.compute(counts.tp, counts.fp, counts.tn, counts.fn, counts.queries)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "canonical_name": self.canonical_name}

    def __repr__(self) -> str:
        return f"{self.canonical_name}: {self.name}"


class Precision(ClassificationMetric):
    """TP / (TP + FP); 1 at a first threshold that accepts nothing, if there are more thresholds."""

    canonical_name = "precision"
    increasing = False

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        value = _ratio(tp, np.add(tp, fp))
        if value.ndim and len(value) > 1:
            value[0] = np.where(tp[0] + fp[0] == 0, 1.0, value[0])
        return value


class Recall(ClassificationMetric):
    """TP / (TP + FN): among the matchable queries, those whose match has the right label at all. TF Similarity's recall."""

    canonical_name = "recall"

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _ratio(tp, np.add(tp, fn))


class RecallAll(ClassificationMetric):
    """TP / queries whose label is in the index, whatever their match; `compute` alone takes all queries for such."""

    canonical_name = "recall_all"

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _ratio(tp, count)

    def at(self, counts: MatchCounts) -> np.ndarray:
        return _ratio(counts.tp, counts.known)


class F1Score(ClassificationMetric):
    """2 P R / (P + R), with plain P = TP / (TP + FP)."""

    canonical_name = "f1"
    aliases = ("f1_score", "f1score")

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _harmonic(_ratio(tp, np.add(tp, fp)), _ratio(tp, np.add(tp, fn)))


class F1All(ClassificationMetric):
    """2 P R / (P + R) with recall among all queries whose label is in the index; `compute` alone takes all for such."""

    canonical_name = "f1_all"

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _harmonic(_ratio(tp, np.add(tp, fp)), _ratio(tp, count))

    def at(self, counts: MatchCounts) -> np.ndarray:
        return _harmonic(_ratio(counts.tp, np.add(counts.tp, counts.fp)), _ratio(counts.tp, counts.known))


class BinaryAccuracy(ClassificationMetric):
    """TP / number of queries."""

    canonical_name = "binary_accuracy"

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _ratio(tp, count)


class FalsePositiveRate(ClassificationMetric):
    """FP / (FP + TN): the smaller the better."""

    canonical_name = "fpr"
    aliases = ("false_positive_rate",)
    maximize = False

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _ratio(fp, np.add(fp, tn))


class OpenSetFalsePositiveRate(ClassificationMetric):
    """Open-set queries that are near / open-set queries: the smaller the better. `compute` alone knows of none: 0."""

    canonical_name = "open_set_fpr"
    aliases = ("open_set_false_positive_rate",)
    maximize = False

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return np.zeros(np.shape(tp))

    def at(self, counts: MatchCounts) -> np.ndarray:
        return _ratio(np.broadcast_to(counts.open_fp, np.shape(counts.tp)), counts.open_set)


class NegativePredictiveValue(ClassificationMetric):
    """TN / (TN + FN)."""

    canonical_name = "npv"
    aliases = ("negative_predictive_value", "negative_predicitve_value")  # the second one is TF Similarity's spelling

    def compute(self, tp: Any, fp: Any, tn: Any, fn: Any, count: int) -> np.ndarray:
        return _ratio(tn, np.add(tn, fn))


_ALWAYS = (Precision, Recall, F1Score, BinaryAccuracy, RecallAll, FalsePositiveRate)
_CLASSES = (*_ALWAYS, F1All, NegativePredictiveValue, OpenSetFalsePositiveRate)
_BY_NAME: dict[str, type[ClassificationMetric]] = {
    name: kind for kind in _CLASSES for name in (kind.canonical_name, *kind.aliases)
}
# What every calibration computes; `open_set_fpr` as well where there are open-set queries.
METRICS: dict[str, ClassificationMetric] = {kind.canonical_name: kind() for kind in _ALWAYS}


def make_classification_metric(metric: str | ClassificationMetric, name: str = "") -> ClassificationMetric:
    """A metric by name or alias; results carry the name it was asked by, or `name`. An object given is not changed.

    Raises:
      ConfigError: there is no such metric.
    """
    if isinstance(metric, ClassificationMetric):
        made = copy.copy(metric)
        made.name = name or metric.name
        return made
    if not isinstance(metric, str) or metric.lower() not in _BY_NAME:
        raise ConfigError(f"classification metric {metric!r} is unknown", f"use one of {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[metric.lower()](name or metric)
