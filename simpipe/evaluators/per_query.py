"""Metrics of each query of an answered block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simpipe.errors import ContractError
from simpipe.evaluators.rules import MATCH_NONE, MATCH_RIGHT, NO_MATCH_RIGHT, EvaluationRules
from simpipe.index.answers import Answer, Found
from simpipe.matchers import match_labels
from simpipe.retrieval_metrics.blocks import (
    ann_recall_at_k,
    average_precision_at_k,
    average_precision_at_r,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from simpipe.types import keep_where


@dataclass(frozen=True)
class QueryMetrics:
    """Metrics of m labelled queries.

    Attributes:
      values: metric -> float64[m].
      matches: object[m], the label matched at cutpoint `optimal`, None where there is none; None where matches are not judged.
    """

    values: dict[str, np.ndarray]
    matches: np.ndarray | None


def label_metrics(answer: Answer, rows: np.ndarray, others: np.ndarray, rules: EvaluationRules) -> QueryMetrics:
    """Metrics of labelled queries by the labels of their neighbors.

    Args:
      answer: with labels of what was found. rows: int64[m], those with a label.
      others: int64[m], R: indexed items of each one's label, its own one left out; 0: it is an open-set query.
    """
    labels, k = answer.labels[rows], rules.k
    relevant = _relevant(answer.found, rows, labels)
    values = {
        "label_precision_at_1": precision_at_k(relevant, 1),
        f"label_precision_at_{k}": precision_at_k(relevant, k),
        f"map_at_{k}": average_precision_at_k(relevant, k, others),
        f"ndcg_at_{k}": ndcg_at_k(relevant, k, others),
        **{f"recall_at_{depth}": recall_at_k(relevant, depth) for depth in rules.recall_at},
    }
    if rules.max_r is not None:
        deep = relevant if answer.deep is None else _relevant(answer.deep, rows, labels)
        values["map_at_r"] = average_precision_at_r(deep, np.minimum(others, rules.max_r))
    if rules.optimal is None:
        return QueryMetrics(values, None)
    matched, distances = match_labels(answer.found.neighbors(rules.match_k).take(rows), rules.matcher)
    matches = keep_where(matched, distances <= np.float32(rules.optimal))
    none = np.asarray(matches == None, np.float64)  # noqa: E711  element by element
    values |= {MATCH_RIGHT: np.asarray(matches == labels, np.float64), MATCH_NONE: none, NO_MATCH_RIGHT: none * (others == 0)}
    return QueryMetrics(values, matches)


def _relevant(found: Found, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if found.labels is None:
        raise ContractError("evaluation needs the labels of neighbors", "ask for `labels` in QuerySpec(names=...)")
    return np.asarray(found.labels[rows] == labels[:, None], bool) & np.isfinite(found.distances[rows])


def ann_recall(answer: Answer, k: int) -> np.ndarray:
    """ANN recall of the queries that were searched exactly: float64[m]; see `ann_recall_at_k`."""
    if answer.exact is None:
        return np.zeros(0)
    return ann_recall_at_k(answer.found.distances[answer.exact_rows], answer.exact.distances, k)
