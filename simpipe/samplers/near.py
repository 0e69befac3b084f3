"""An order of classes on the sampler's line that brings near classes into one batch."""

from __future__ import annotations

import numpy as np


def near_order(
    classes: np.ndarray, neighbors: np.ndarray, *, columns: int, share: float, bundle: int, rng: np.random.Generator
) -> np.ndarray:
    """`classes` reordered so that points at equal steps pick bundles of neighbors.

    The line is thought of as `columns` columns, one a place in the batch; points at equal steps lie at the same height
    of each. Members of a bundle (a random class and its nearest ones that are not in a bundle yet) stand at the same
    height of adjacent columns; `share` of the columns hold bundles, the others random classes.

    Args:
      classes: int64[n] in random order.
      neighbors: int[c, m], the nearest classes of each, nearest first; -1 for none.
      columns: P.
      share: of the columns, that hold bundles.
      bundle: classes of a bundle; cut to the columns there are.
      rng: for the heights of bundles.

    Returns:
      int64[n], the same classes.
    """
    width = min(bundle, columns)
    sets = round(columns * share) // width
    height = -(-len(classes) // columns)
    if not sets or height < 1:
        return classes
    free = np.zeros(len(neighbors), bool)
    free[classes] = True
    table = np.full((columns, height), -1, np.int64)
    slots = [(part, row) for row in range(height) for part in range(sets)]
    heads = iter(classes)
    for slot in rng.permutation(len(slots)):
        part, row = slots[slot]
        head = next((head for head in heads if free[head]), None)
        if head is None:
            break
        near = neighbors[head]
        near = near[near >= 0]
        near = near[free[near] & (near != head)]
        _, first = np.unique(near, return_index=True)
        members = np.concatenate([[head], near[np.sort(first)][: width - 1]])
        free[members] = False
        table[part * width : part * width + len(members), row] = members
    empty = np.flatnonzero(table.ravel() < 0)
    rest = classes[free[classes]]
    table.ravel()[empty[: len(rest)]] = rest
    return table[table >= 0]
