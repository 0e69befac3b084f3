"""Few-shot accuracy within groups of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


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
