"""Recall by partition: where the true neighbors lie, and how many of them were found."""

from __future__ import annotations

import numpy as np

from simpipe.index.answers import Answer


def partition_counts(answer: Answer, k: int, partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each partition, how many of the true k nearest lie in it and how many of these were found: int64[partitions] each.

    A true neighbor is found where the k found hold the same item. Where it is as far as the last true one, another item at
    that distance may stand in for it: which of equal ones come first is not for the index to know. Unlike in
    `ann_recall_at_k` a stand-in makes up for no nearer neighbor.
    """
    if answer.exact is None:
        return np.zeros(partitions, np.int64), np.zeros(partitions, np.int64)
    true, rows = answer.exact, answer.exact_rows
    place, distances, tie = true.place[:, :k], true.distances[:, :k], true.tie[:, :k]
    there = place >= 0
    near, their_tie = answer.found.distances[rows, :k], answer.found.tie[rows, :k]
    theirs = answer.found.place[rows, :k] >= 0
    found = _held(tie, there, their_tie, theirs)
    last = np.where(there, distances, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    spare = (theirs & ~_held(their_tie, theirs, tie, there) & (near == last)).sum(axis=1)[:, None]
    missing = there & ~found & (distances == last)
    found |= missing & (np.cumsum(missing, axis=1) <= spare)
    partition = place >> 32
    return (
        np.bincount(partition[there], minlength=partitions).astype(np.int64),
        np.bincount(partition[found], minlength=partitions).astype(np.int64),
    )


def _held(one: np.ndarray, one_valid: np.ndarray, other: np.ndarray, other_valid: np.ndarray) -> np.ndarray:
    """bool[n, k]: which hashes of `one` stand in the same row of `other`. Within a row each stands once."""
    width = one.shape[1]
    both, valid = np.concatenate([one, other], axis=1), np.concatenate([one_valid, other_valid], axis=1)
    order = np.argsort(both, axis=1, kind="stable")  # of equal ones that of `one` comes first
    both, valid = np.take_along_axis(both, order, axis=1), np.take_along_axis(valid, order, axis=1)
    pair = np.zeros(both.shape, bool)
    pair[:, :-1] = (both[:, 1:] == both[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    held = np.zeros(both.shape, bool)
    np.put_along_axis(held, order, pair, axis=1)
    return held[:, :width]
