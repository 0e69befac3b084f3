"""Retrieval metrics: functions of blocks of queries (the pipeline), and TensorFlow Similarity's classes on top of ids."""

from simpipe.retrieval_metrics.blocks import (
    ann_recall_at_k,
    average_precision_at_k,
    average_precision_at_r,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from simpipe.retrieval_metrics.metrics import BNDCG, MapAtK, PrecisionAtK, RecallAtK, RetrievalMetric

__all__ = [
    "BNDCG",
    "MapAtK",
    "PrecisionAtK",
    "RecallAtK",
    "RetrievalMetric",
    "ann_recall_at_k",
    "average_precision_at_k",
    "average_precision_at_r",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
]
