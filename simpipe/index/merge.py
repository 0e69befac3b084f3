"""Merging of partial results: the k nearest of several blocks of candidates, without loops over queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simpipe.types import keep_where

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class TopK:
    """Candidates of a block of queries from one or more partitions, nearest first.

    Attributes:
      distances: float32[n, k]; +inf where there is none.
      tie: uint64[n, k], hash of the id: decides between equal distances, whatever the partition.
      ids: object[n, k].
      labels: object[n, k].
    """

    distances: np.ndarray
    tie: np.ndarray
    ids: np.ndarray
    labels: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int) -> TopK:
        return cls(
            np.full((n, k), np.inf, np.float32),
            np.zeros((n, k), np.uint64),
            np.full((n, k), None, object),
            np.full((n, k), None, object),
        )

    @property
    def k(self) -> int:
        return self.distances.shape[1]

    def scatter(self, rows: np.ndarray, n: int) -> TopK:
        """The same candidates in a block of n queries of which `rows` were asked."""
        wide = TopK.empty(n, self.k)
        for name in ("distances", "tie", "ids", "labels"):
            getattr(wide, name)[rows] = getattr(self, name)
        return wide


def merge_topk(parts: Sequence[TopK], k: int) -> TopK:
    """The k nearest over all parts, by (distance, hash of the id); exact duplicates of an id are dropped.

    Args:
      parts: blocks over the same n queries; at least one.
      k: how many to keep; the result has min(k, sum of widths) columns.
    """
    distances = np.concatenate([part.distances for part in parts], axis=1)
    tie = np.concatenate([part.tie for part in parts], axis=1)
    order = np.lexsort((tie, distances), axis=1)
    distances, tie = np.take_along_axis(distances, order, axis=1), np.take_along_axis(tie, order, axis=1)
    ids = np.take_along_axis(np.concatenate([part.ids for part in parts], axis=1), order, axis=1)
    labels = np.take_along_axis(np.concatenate([part.labels for part in parts], axis=1), order, axis=1)
    # The same id twice has the same distance and hash, so it stands beside itself.
    twice = np.zeros(distances.shape, bool)
    twice[:, 1:] = (distances[:, 1:] == distances[:, :-1]) & (tie[:, 1:] == tie[:, :-1]) & np.isfinite(distances[:, 1:])
    if twice.any():
        twice[:, 1:] &= ids[:, 1:] == ids[:, :-1]
        again = np.argsort(twice, axis=1, kind="stable")
        distances = np.take_along_axis(np.where(twice, np.float32(np.inf), distances), again, axis=1)
        tie, ids, labels = (np.take_along_axis(values, again, axis=1) for values in (tie, ids, labels))
    there = np.isfinite(distances[:, :k])
    return TopK(distances[:, :k], tie[:, :k], keep_where(ids[:, :k], there), keep_where(labels[:, :k], there))


def without_self(top: TopK, query_ids: np.ndarray, k: int) -> TopK:
    """Drops each query's own item, by id and not by position; keeps k columns.

    Args:
      top: at least k + 1 columns where that many items exist.
      query_ids: object[n].
    """
    own = top.ids == query_ids[:, None]
    if own.any():
        order = np.argsort(own, axis=1, kind="stable")
        distances = np.take_along_axis(np.where(own, np.float32(np.inf), top.distances), order, axis=1)
        ids = np.take_along_axis(keep_where(top.ids, ~own), order, axis=1)
        labels = np.take_along_axis(keep_where(top.labels, ~own), order, axis=1)
        top = TopK(distances, np.take_along_axis(top.tie, order, axis=1), ids, labels)
    return TopK(top.distances[:, :k], top.tie[:, :k], top.ids[:, :k], top.labels[:, :k])
