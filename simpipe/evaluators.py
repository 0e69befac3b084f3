"""Evaluation as mergeable sums: label metrics, ANN recall and confusion over blocks of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.matchers import match_labels
from simpipe.retrieval_metrics import ann_recall_at_k, average_precision_at_k, precision_at_k, recall_at_k
from simpipe.types import Neighbors, keep_where


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over queries; adding two gives the sums over both.

    Attributes:
      queries: all queries; labelled: those with a label.
      sums: metric -> sum over labelled queries (`ann_recall_*`: over all queries).
      confusion: (label, matched label or None) -> queries.
    """

    queries: int = 0
    labelled: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        return EvaluationSums(
            self.queries + other.queries,
            self.labelled + other.labelled,
            Counter({name: self.sums[name] + other.sums[name] for name in sorted({*self.sums, *other.sums})}),
            self.confusion + other.confusion,
        )

    def metrics(self) -> dict[str, float]:
        """Means over queries."""
        return {
            name: float(value / (self.queries if name.startswith("ann_recall") else max(self.labelled, 1)))
            for name, value in sorted(self.sums.items(), key=_natural)
            if self.queries
        }


def _natural(item: tuple[str, float]) -> list[str]:
    """Sort key: recall_at_5 before recall_at_10."""
    return [part.zfill(9) if part.isdigit() else part for part in item[0].split("_")]


def evaluate_block(
    labels: np.ndarray,
    found: Neighbors,
    exact: Neighbors,
    *,
    k: int,
    recall_at: Sequence[int],
    items_of_label: Mapping[str, int],
    calibration: Mapping[str, Any],
) -> EvaluationSums:
    """Evaluates one block of queries.

    Args:
      labels: object[n], the queries' labels; None where unknown.
      found, exact: neighbors by the ANN indexes and by exact search, own items left out.
      k: depth of ANN recall, MAP and precision.
      recall_at: depths of label recall.
      items_of_label: indexed items a label.
      calibration: the content of `cutpoints.json`; confusion is taken at its cutpoint `optimal`, where there is one.
    """
    n = len(labels)
    if n == 0:
        return EvaluationSums()
    sums: Counter[str] = Counter()
    sums[f"ann_recall_at_{k}"] = ann_recall_at_k(found.distances, exact.distances, k).sum()
    known = np.flatnonzero(labels != None)  # noqa: E711  element by element
    if not len(known):
        return EvaluationSums(n, 0, sums)
    top, truth = found.take(known), labels[known]
    relevant = (top.labels == truth[:, None]) & top.valid
    names, which = np.unique(truth.astype(str), return_inverse=True)
    there = np.array([items_of_label.get(str(name), 0) for name in names], np.int64)[which]
    sums["label_precision_at_1"] = precision_at_k(relevant, 1).sum()
    sums[f"label_precision_at_{k}"] = precision_at_k(relevant, k).sum()
    sums[f"map_at_{k}"] = average_precision_at_k(relevant, k, there).sum()
    for depth in recall_at:
        sums[f"recall_at_{depth}"] = recall_at_k(relevant, depth).sum()
    if "optimal" not in calibration["cutpoints"]:
        return EvaluationSums(n, len(known), sums)
    depth = calibration["k"]
    nearest = Neighbors(top.ids[:, :depth], top.labels[:, :depth], top.distances[:, :depth])
    matched, distances = match_labels(nearest, calibration["matcher"])
    near = distances <= np.float32(calibration["cutpoints"]["optimal"]["distance"])
    answers = keep_where(matched, near)
    sums["match_right_at_optimal"] = int((answers == truth).sum())
    sums["match_none_at_optimal"] = int((answers == None).sum())  # noqa: E711
    pairs = pa.table({"true": pa.array(truth, pa.string()), "matched": pa.array(answers, pa.string())})
    counted = pairs.group_by(["true", "matched"]).aggregate([([], "count_all")]).to_pylist()
    confusion = Counter({(row["true"], row["matched"]): row["count_all"] for row in counted})
    return EvaluationSums(n, len(known), sums, confusion)


def one_shot_accuracy(
    vectors: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[str]], *, ways: int, runs: int, seed: int
) -> float:
    """Few-shot accuracy within groups of classes (Lake et al. 2015: 20-way one-shot within an alphabet).

    Each run takes one group and `ways` of its classes; of each class one item is the support and another the query;
    the nearest support by cosine wins. Groups take turns.

    Args:
      vectors: float32[n, dim], unit norm. labels: object[n].
      groups: group -> class names; groups with fewer than `ways` classes are left out.
      ways, runs, seed: the protocol.

    Returns:
      Share of right answers over runs x ways queries; NaN where no group is large enough.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels.astype(str), kind="stable")
    names, starts = np.unique(labels[order].astype(str), return_index=True)
    members = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
    usable = [[name for name in classes if len(members.get(name, ())) >= 2] for classes in groups.values()]
    usable = [classes for classes in usable if len(classes) >= ways]
    if not usable:
        return float("nan")
    right = 0
    for run in range(runs):
        classes = rng.choice(usable[run % len(usable)], ways, replace=False)
        pairs = np.array([rng.choice(members[name], 2, replace=False) for name in classes])
        nearest = np.argmax(vectors[pairs[:, 1]] @ vectors[pairs[:, 0]].T, axis=1)
        right += int((nearest == np.arange(ways)).sum())
    return right / (runs * ways)
