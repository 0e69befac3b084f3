"""Retrieval metrics as TensorFlow Similarity's classes: one object a metric, computed over blocks of queries."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from simpipe.errors import ConfigError


class RetrievalMetric(ABC):
    """How well the right items rank.

    Args:
      name: of the metric; by default made of the canonical name, k and the distance threshold.
      k: how many neighbors count.
      distance_threshold: a neighbor farther than this counts as not relevant.
      average: "micro", the mean over queries, or "macro", the mean over labels of the means over their queries.
      drop_closest_lookup: leave out the query's own item. Where ids are known (`evaluate_retrieval`) it is found by
        id; `compute` itself, which knows none, leaves out the first column.

    Raises:
      ConfigError: k below 1, or another average.
    """

    canonical_name: ClassVar[str]

    def __init__(
        self,
        name: str = "",
        k: int = 5,
        distance_threshold: float = math.inf,
        average: str = "micro",
        drop_closest_lookup: bool = False,
    ) -> None:
        if k < 1:
            raise ConfigError(f"{type(self).__name__}: k is {k}", "ask for at least one neighbor")
        if average not in ("micro", "macro"):
            raise ConfigError(f"{type(self).__name__}: average {average!r} is unknown", "use 'micro' or 'macro'")
        self._name = name
        self.k = k
        self.distance_threshold = distance_threshold
        self.average = average
        self.drop_closest_lookup = drop_closest_lookup

    @property
    def name(self) -> str:
        """Such as `recall@5`, or `recall@5 : distance_threshold@0.1`."""
        if self._name:
            return self._name
        near = f" : distance_threshold@{self.distance_threshold}" if math.isfinite(self.distance_threshold) else ""
        return f"{self._stem()}{near}"

    def _stem(self) -> str:
        return f"{self.canonical_name}@{self.k}"

    @abstractmethod
    def per_query(self, relevant: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The metric of each query.

        Args:
          relevant: bool[n, m]: does a neighbor, nearest first, carry the query's label and lie within the threshold.
            Own items are left out already.
          labels: object[n], the queries' labels as strings.

        Returns:
          float64[n].
        """

    def compute(self, *, query_labels: Any, match_mask: Any, lookup_distances: Any = None, **_: Any) -> float:
        """The average over queries.

        Args:
          query_labels: [n] labels.
          match_mask: bool[n, >= k]: does the neighbor carry the query's label.
          lookup_distances: float[n, >= k]; needed with a distance threshold only.

        Raises:
          ConfigError: fewer columns than k (and the dropped one) ask for, or distances are missing.
        """
        mask = np.asarray(match_mask).astype(bool)
        first = int(self.drop_closest_lookup)
        if mask.ndim != 2 or mask.shape[1] < self.k + first:
            raise ConfigError(
                f"{self.name}: the match mask has shape {mask.shape}", f"look up at least {self.k + first} neighbors a query"
            )
        distances = None if lookup_distances is None else np.asarray(lookup_distances)[:, first:]
        return self.of(np.asarray(query_labels).reshape(-1), mask[:, first:], distances)

    def of(self, labels: np.ndarray, match_mask: np.ndarray, distances: np.ndarray | None) -> float:
        """`compute` on neighbors from which own items were left out; fewer columns than k mean that no more exist."""
        relevant = match_mask
        if math.isfinite(self.distance_threshold):
            if distances is None:
                raise ConfigError(f"{self.name}: no distances given", "pass lookup_distances")
            relevant = match_mask & (distances <= np.float32(self.distance_threshold))
        names = labels.astype(str)
        values = np.asarray(self.per_query(relevant, names), np.float64)
        if self.average == "micro":
            return float(values.mean()) if len(values) else math.nan
        _, which = np.unique(names, return_inverse=True)
        return float((np.bincount(which, weights=values) / np.bincount(which)).mean()) if len(values) else math.nan

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "k": self.k,
            "distance_threshold": self.distance_threshold,
            "average": self.average,
            "drop_closest_lookup": self.drop_closest_lookup,
        }

    def __repr__(self) -> str:
        return self.name


class RecallAtK(RetrievalMetric):
    """Is any of the k nearest relevant."""

    canonical_name = "recall"

    def per_query(self, relevant: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray(relevant[:, : self.k].any(axis=1), np.float64)


class _ByClassSize(RetrievalMetric):
    """Metrics that may divide by R, the number of indexed items of the query's class, instead of k.

    Args (besides those of `RetrievalMetric`):
      r: label -> R. Where the own item is left out, it is taken off R.
      clip_at_r: look only at the first R neighbors (precision@R, MAP@R: Musgrave et al. 2020).
    """

    def __init__(
        self, name: str = "", k: int = 5, r: Mapping[Any, int] | None = None, clip_at_r: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(name, k, **kwargs)
        if clip_at_r and r is None:
            raise ConfigError(f"{type(self).__name__}: clip_at_r needs r", "pass r, label -> number of indexed items")
        self.r = {str(label): int(size) for label, size in r.items()} if r is not None else None
        self.clip_at_r = clip_at_r

    def _stem(self) -> str:
        return self.canonical_name if self.clip_at_r else super()._stem()

    def _mean(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Sum over the k nearest (the first R of them), divided by k or R; 0 where R is 0."""
        values = values[:, : self.k]
        size = np.full(len(values), self.k, np.int64)
        if self.r is not None:
            names, which = np.unique(labels, return_inverse=True)
            known = np.array([self.r.get(name, 0) - int(self.drop_closest_lookup) for name in names], np.int64)
            size = np.maximum(known, 0)[which]
        if self.clip_at_r:
            values = np.where(np.arange(values.shape[1]) < size[:, None], values, 0.0)
        return np.divide(values.sum(axis=1), size, out=np.zeros(len(values)), where=size > 0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "r": self.r, "clip_at_r": self.clip_at_r}


class PrecisionAtK(_ByClassSize):
    """Share of the k nearest that are relevant; with `r` the relevant ones are divided by R."""

    canonical_name = "precision"

    def per_query(self, relevant: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self._mean(relevant.astype(np.float64), labels)


class MapAtK(_ByClassSize):
    """Mean average precision: sum over relevant ranks j <= k of precision@j, divided by k, or by R with `r`.

    Raises:
      ConfigError: average "macro".
    """

    canonical_name = "map"

    def __init__(
        self, name: str = "", k: int = 5, r: Mapping[Any, int] | None = None, clip_at_r: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(name, k, r, clip_at_r, **kwargs)
        if self.average != "micro":
            raise ConfigError("MapAtK: only micro averaging is defined", "leave out average, or use 'micro'")

    def per_query(self, relevant: np.ndarray, labels: np.ndarray) -> np.ndarray:
        ranks = np.arange(1, relevant.shape[1] + 1)
        return self._mean(relevant * np.cumsum(relevant, axis=1) / ranks, labels)


class BNDCG(RetrievalMetric):
    """Binary normalised discounted cumulative gain over the k nearest (Järvelin and Kekäläinen 2002, gains 0 and 1).

    Normalised by the best order of what was found, as TensorFlow Similarity does, not by what exists.
    """

    canonical_name = "ndcg"

    def per_query(self, relevant: np.ndarray, labels: np.ndarray) -> np.ndarray:
        gains = relevant[:, : self.k].astype(np.float64)
        discounts = 1.0 / np.log2(np.arange(2, gains.shape[1] + 2))
        best = -np.sort(-gains, axis=1) @ discounts
        return np.divide(gains @ discounts, best, out=np.zeros(len(gains)), where=best > 0)
