"""Evaluation: metrics of answered queries, as sums that merge exactly, and what these say of classes, slices and partitions."""

from simpipe.evaluators.classes import (
    class_table,
    confusion_records,
    macro_metrics,
    partition_records,
    slice_records,
    slice_table,
    worst_classes,
)
from simpipe.evaluators.latency import measure_latency
from simpipe.evaluators.one_shot import one_shot_accuracy
from simpipe.evaluators.rules import EvaluationRules, LabelItems
from simpipe.evaluators.sums import EvaluationSums, evaluate_block

__all__ = [
    "EvaluationRules",
    "EvaluationSums",
    "LabelItems",
    "class_table",
    "confusion_records",
    "evaluate_block",
    "macro_metrics",
    "measure_latency",
    "one_shot_accuracy",
    "partition_records",
    "slice_records",
    "slice_table",
    "worst_classes",
]
