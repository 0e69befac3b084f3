"""Classification metrics of accepted and refused matches, as functions of the counts at each threshold.

Formulas are TensorFlow Similarity's: a query is a *hit* if the matcher's label is right, *near* if its distance is
within the threshold. TP hit and near, FP wrong and near, FN hit and far, TN wrong and far. 0/0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MatchCounts:
    """Counts at each threshold, int64[t] (or 0-d), and the number of queries."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    queries: int


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def precision(counts: MatchCounts) -> np.ndarray:
    """TP / (TP + FP); 1 at a first threshold that accepts nothing, if there are more thresholds."""
    value = _ratio(counts.tp, counts.tp + counts.fp)
    if value.ndim and len(value) > 1 and counts.tp[0] + counts.fp[0] == 0:
        value[0] = 1.0
    return value


def recall(counts: MatchCounts) -> np.ndarray:
    """TP / (TP + FN): among queries whose match has the right label."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def f1(counts: MatchCounts) -> np.ndarray:
    """2 P R / (P + R), with plain P = TP / (TP + FP)."""
    p, r = _ratio(counts.tp, counts.tp + counts.fp), recall(counts)
    return _ratio(2 * p * r, p + r)


def binary_accuracy(counts: MatchCounts) -> np.ndarray:
    """TP / number of queries."""
    return _ratio(counts.tp, np.asarray(counts.queries))


METRICS = {"precision": precision, "recall": recall, "f1": f1, "binary_accuracy": binary_accuracy}
# Grows with the threshold: then the smallest threshold that reaches a target is the cutpoint, else the largest.
INCREASING = {"precision": False, "recall": True, "f1": True, "binary_accuracy": True}
