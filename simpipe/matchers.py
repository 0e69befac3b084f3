"""Matchers turn neighbors into one label and one distance a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from simpipe.errors import ConfigError
from simpipe.types import Neighbors


class ClassificationMatch(ABC):
    """A rule that derives a label and a distance from the neighbors of each query."""

    name: ClassVar[str]

    @abstractmethod
    def derive_match(self, lookup_labels: np.ndarray, lookup_distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The derived label and distance of each query.

        Args:
          lookup_labels: object[n, k], nearest first; None where there is no neighbor or it has no label.
          lookup_distances: float32[n, k]; +inf where there is no neighbor.

        Returns:
          object[n], float32[n]; None and +inf for a query without any neighbor.
        """


class MatchNearest(ClassificationMatch):
    """Label and distance of the first neighbor."""

    name = "match_nearest"

    def derive_match(self, lookup_labels: np.ndarray, lookup_distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, k = lookup_distances.shape
        if k == 0:
            return np.full(n, None, object), np.full(n, np.inf, np.float32)
        return lookup_labels[:, 0], lookup_distances[:, 0]


class MatchMajorityVote(ClassificationMatch):
    """The most frequent label among the k, ties to the one met first; the mean of the distances of all neighbors.

    Where fewer than k items exist, those that do vote.
    """

    name = "match_majority_vote"

    def derive_match(self, lookup_labels: np.ndarray, lookup_distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, k = lookup_distances.shape
        if k == 0:
            return MatchNearest().derive_match(lookup_labels, lookup_distances)
        valid = np.isfinite(lookup_distances)
        # votes[i, j]: how many neighbors of query i carry the label of neighbor j.
        votes = np.zeros((n, k), np.int64)
        for j in range(k):
            votes[:, j] = ((lookup_labels == lookup_labels[:, j : j + 1]) & valid).sum(axis=1)
        votes[~valid] = -1
        winner = np.argmax(votes, axis=1)  # the first maximum: ties go to the nearer
        labels = lookup_labels[np.arange(n), winner]
        count = valid.sum(axis=1)
        total = np.where(valid, lookup_distances, 0).sum(axis=1, dtype=np.float64)
        distances = np.where(count > 0, total / np.maximum(count, 1), np.inf).astype(np.float32)
        return labels, distances


_MATCHERS: dict[str, type[ClassificationMatch]] = {kind.name: kind for kind in (MatchNearest, MatchMajorityVote)}


def make_classification_match(matcher: str | ClassificationMatch) -> ClassificationMatch:
    """A matcher by name: `match_nearest` or `match_majority_vote`; an object is passed through.

    Raises:
      ConfigError: there is no such matcher.
    """
    if isinstance(matcher, ClassificationMatch):
        return matcher
    if matcher not in _MATCHERS:
        raise ConfigError(f"matcher {matcher!r} is unknown", f"use one of {', '.join(sorted(_MATCHERS))}")
    return _MATCHERS[matcher]()


def match_labels(neighbors: Neighbors, matcher: str | ClassificationMatch) -> tuple[np.ndarray, np.ndarray]:
    """Applies a matcher, by name or as an object: object[n] labels, float32[n] distances."""
    labels, distances = make_classification_match(matcher).derive_match(neighbors.labels, neighbors.distances)
    return labels, np.asarray(distances, np.float32)
