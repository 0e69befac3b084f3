"""Classification metrics of accepted and refused matches, as functions of the counts at each threshold.

A query is a *hit* if the matcher's label is right, *near* if its distance is within the threshold. TP hit and near,
FP wrong and near, FN hit and far, TN wrong and far. Formulas are TensorFlow Similarity's; 0/0 is 0.

Two recalls: `recall`, TensorFlow Similarity's, is among the *matchable* queries, those whose match has the right label at all,
so it reaches 1 at the largest threshold; `recall_all` is among all queries whose label is in the index, so what the index gets
wrong lowers it. *Open-set* queries have a label that no indexed item carries: they are never hits, a match of theirs is a false
positive, they are no part of either recall, and `open_set_fpr` is about them alone.
"""

from simpipe.classification_metrics.metrics import (
    METRICS,
    BinaryAccuracy,
    ClassificationMetric,
    F1All,
    F1Score,
    FalsePositiveRate,
    MatchCounts,
    NegativePredictiveValue,
    OpenSetFalsePositiveRate,
    Precision,
    Recall,
    RecallAll,
    make_classification_metric,
)

__all__ = [
    "METRICS",
    "BinaryAccuracy",
    "ClassificationMetric",
    "F1All",
    "F1Score",
    "FalsePositiveRate",
    "MatchCounts",
    "NegativePredictiveValue",
    "OpenSetFalsePositiveRate",
    "Precision",
    "Recall",
    "RecallAll",
    "make_classification_metric",
]
