"""An order of classes on the sampler's line that brings near classes into one batch."""

from __future__ import annotations

import numpy as np


def make_bundles(classes: np.ndarray, neighbors: np.ndarray, *, size: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Disjoint bundles of near classes: int64[b, size], covering about `share` of `classes`.

    A random class, and its nearest ones that are in no bundle yet; classes without enough of them begin none.

    Args:
      classes: int64[n].
      neighbors: int[c, m], the nearest classes of each, nearest first; -1 for none.
      size: of a bundle. share: of the classes. rng: for the order in which classes begin bundles.
    """
    free = np.zeros(len(neighbors), bool)
    free[classes] = True
    found, wanted = [], round(share * len(classes) / size)
    for head in rng.permutation(classes):
        if len(found) == wanted:
            break
        near = neighbors[head]
        near = near[(near >= 0) & (near != head)]
        near = near[free[near]]
        _, first = np.unique(near, return_index=True)
        if not free[head] or len(first) < size - 1:
            continue
        members = np.append(near[np.sort(first)][: size - 1], head)
        free[members] = False
        found.append(members)
    return np.array(found, np.int64).reshape(-1, size)


def near_order(left: np.ndarray, bundles: np.ndarray, *, columns: int, step: int, rng: np.random.Generator) -> np.ndarray:
    """The classes with draws left, in an order in which points at equal steps pick whole bundles.

    The line is thought of as `columns` columns of length `step`, one a place in the batch; such points lie at the same
    height of each. Members of a bundle stand at the same height of adjacent columns, and as they are picked together
    they stay equally long. Other classes fill the columns up.

    Args:
      left: int64[c], draws left of each class.
      bundles: int64[b, size].
      columns: P. step: batches left. rng: for the heights.

    Returns:
      int64[n], the classes with draws left, each once.
    """
    size = bundles.shape[1]
    sets = columns // size
    alive = bundles[(left[bundles] > 0).all(axis=1)] if sets else bundles[:0]
    alive = rng.permutation(alive)
    # Longest first packs best.
    alive = alive[np.argsort(-left[alive].max(axis=1, initial=0), kind="stable")]
    heights = left[alive].max(axis=1, initial=0)
    used = np.zeros(len(left), bool)
    tops, stacks = np.zeros(max(sets, 1), np.int64), [[] for _ in range(sets)]
    for bundle, height in zip(alive, heights.tolist(), strict=True):
        place = int(np.argmin(tops))
        if tops[place] + height <= step:
            tops[place] += height
            stacks[place].append(bundle)
            used[bundle] = True
    # Other classes by their length, so that one which just fits is found at once.
    others = rng.permutation(np.flatnonzero((left > 0) & ~used))
    by_length: dict[int, list[int]] = {}
    for name in others.tolist():
        by_length.setdefault(int(left[name]), []).append(name)
    line: list[int] = []
    for stack in stacks:
        rng.shuffle(stack)
        for column in range(size):
            names = [int(bundle[column]) for bundle in stack]
            line += names
            room = step - int(left[names].sum())
            while room > 0 and (length := _fitting(by_length, room)):
                line.append(by_length[length].pop())
                room -= length
    rest = [name for names in by_length.values() for name in names]
    return np.concatenate([np.array(line, np.int64), rng.permutation(np.array(rest, np.int64))])


def _fitting(by_length: dict[int, list[int]], room: int) -> int:
    """The length of a class to put into `room`: one that fills it, or else leaves room for another; 0 for none."""
    if by_length.get(room):
        return room
    return max((length for length, names in by_length.items() if names and length < room), default=0)
