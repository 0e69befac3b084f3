"""Classification metrics of accepted and refused matches, as functions of the counts at each threshold.

A query is a *hit* if the matcher's label is right, *near* if its distance is within the threshold. TP hit and near,
FP wrong and near, FN hit and far, TN wrong and far. Formulas are TensorFlow Similarity's; 0/0 is 0.
"""

from simpipe.classification_metrics.metrics import (
    METRICS,
    BinaryAccuracy,
    ClassificationMetric,
    F1Score,
    FalsePositiveRate,
    MatchCounts,
    NegativePredictiveValue,
    Precision,
    Recall,
    make_classification_metric,
)

__all__ = [
    "METRICS",
    "BinaryAccuracy",
    "ClassificationMetric",
    "F1Score",
    "FalsePositiveRate",
    "MatchCounts",
    "NegativePredictiveValue",
    "Precision",
    "Recall",
    "make_classification_metric",
]
