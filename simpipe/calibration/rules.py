"""Which threshold becomes a cutpoint, by TensorFlow Similarity's rules; where simpipe differs from it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.classification_metrics import ClassificationMetric, make_classification_metric

# Deliberate differences to TensorFlow Similarity's calibration; anything else that differs is a defect.
DIFFERENCES = (
    "With k > 1 the library also takes distances of neighbors that decide nothing as thresholds; here thresholds are the derived "
    "distances. The metrics at any distance are the same, a cutpoint can only lie at a distance at which something changes.",
    "A target of a metric that should be small (`fpr`, `open_set_fpr`) is a ceiling, and the cutpoint the largest threshold up "
    "to which it holds; the library takes it as a floor, so that `fpr` 0.01 would accept any threshold with more.",
    "The library rounds distances to 8 digits in calibration but not in matching; here both take the float32 as it is, so that "
    "the query that defined a cutpoint passes it.",
)


@dataclass(frozen=True)
class Target:
    """A wanted value of a metric; the cutpoint that reaches it is called `name`."""

    name: str
    metric: str
    value: float


def targets_of(wanted: Mapping[Any, Sequence[float]]) -> list[Target]:
    """Targets from metric -> values; they are called `precision>=0.99`, or `fpr<=0.01` where smaller is better."""
    signs = {metric: ">=" if make_classification_metric(metric).maximize else "<=" for metric in wanted}
    return [Target(f"{metric}{signs[metric]}{value:.12g}", metric, value) for metric in wanted for value in wanted[metric]]


@dataclass(frozen=True)
class Rule:
    """How a cutpoint is picked: the best of a metric, or (`wanted`) the threshold that reaches a value of it."""

    name: str
    metric: ClassificationMetric
    wanted: float | None = None

    def pick(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row of the threshold.

        Args:
          values: of the metric, float64[t], or float64[t, r] of r replicates; t > 0.

        Returns:
          int64[] or int64[r], and where there is one, bool[] or bool[r].
        """
        if self.wanted is None:
            quality = values if self.metric.maximize else -values
            return _last(quality), np.ones(values.shape[1:], bool)
        reached = values >= self.wanted if self.metric.maximize else values <= self.wanted
        first_counts = self.metric.maximize and self.metric.increasing
        return (np.asarray(np.argmax(reached, axis=0)) if first_counts else _last(reached)), np.asarray(reached.any(axis=0))


def _last(values: np.ndarray) -> np.ndarray:
    """The last row of the largest value."""
    return np.asarray(len(values) - 1 - np.argmax(values[::-1], axis=0))
