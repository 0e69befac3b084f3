"""Matchers turn neighbors into one label and one distance a query."""

from __future__ import annotations

import numpy as np

from simpipe.types import Neighbors


def match_nearest(neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """Label and distance of the first neighbor: object[n], float32[n] (None and +inf without one)."""
    n, k = neighbors.distances.shape
    if k == 0:
        return np.full(n, None, object), np.full(n, np.inf, np.float32)
    return neighbors.labels[:, 0], neighbors.distances[:, 0]


def match_majority_vote(neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent label among the k, ties to the one met first; the mean of the distances of all neighbors.

    Follows TensorFlow Similarity's `MatchMajorityVote`; where fewer than k items exist, those that do vote.

    Returns:
      object[n], float32[n].
    """
    n, k = neighbors.distances.shape
    if k == 0:
        return match_nearest(neighbors)
    valid = neighbors.valid
    # votes[i, j]: how many neighbors of query i carry the label of neighbor j.
    votes = np.zeros((n, k), np.int64)
    for j in range(k):
        votes[:, j] = ((neighbors.labels == neighbors.labels[:, j : j + 1]) & valid).sum(axis=1)
    votes[~valid] = -1
    winner = np.argmax(votes, axis=1)  # the first maximum: ties go to the nearer
    labels = neighbors.labels[np.arange(n), winner]
    count = valid.sum(axis=1)
    total = np.where(valid, neighbors.distances, 0).sum(axis=1, dtype=np.float64)
    distances = np.where(count > 0, total / np.maximum(count, 1), np.inf).astype(np.float32)
    return labels, distances


def match_labels(neighbors: Neighbors, matcher: str) -> tuple[np.ndarray, np.ndarray]:
    """Applies a matcher by its name in the configuration: `match_nearest` or `match_majority_vote`."""
    return {"match_nearest": match_nearest, "match_majority_vote": match_majority_vote}[matcher](neighbors)
