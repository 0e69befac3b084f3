"""Which classes, and which of their rows, make up each batch of one group of blocks: pure functions, NumPy only.

A *draw* is K distinct rows of one class: what a batch holds of it. A batch is P draws of P classes.
"""

from __future__ import annotations

import numpy as np

from simpipe.samplers.near import make_bundles, near_order

_REORDER = 128  # with so many classes or fewer, a new order for each batch


def batches_of(draws: np.ndarray, classes_per_batch: int) -> int:
    """The most batches of P distinct classes that `draws` int64[c] of each class allow.

    B batches are possible where the sum of min(draws, B) reaches P * B: lay the draws out class by class and give the
    i-th to batch i mod B.
    """
    count = int(draws.sum()) // classes_per_batch
    while count and (reach := int(np.minimum(draws, count).sum()) // classes_per_batch) < count:
        count = reach
    return count


def trim(draws: np.ndarray, batches: int, *, classes_per_batch: int, rng: np.random.Generator) -> np.ndarray:
    """`draws` cut to what `batches` batches take, P * batches in all: int64[c].

    A class can be in each batch once; of the few draws above that, random classes lose one each.
    """
    kept = np.minimum(draws, batches)
    surplus = int(kept.sum()) - batches * classes_per_batch
    if surplus:
        kept[rng.choice(np.flatnonzero(kept), surplus, replace=False)] -= 1
    return kept


def spread(draws: np.ndarray, usable: np.ndarray, batches: int, *, rng: np.random.Generator) -> np.ndarray:
    """`draws` with those of unusable classes given to random usable ones, `batches` a class at most: int64[c].

    Raises:
      ValueError: the usable classes cannot take them.
    """
    given = np.where(usable, draws, 0)
    while lost := int(draws.sum() - given.sum()):
        free = np.flatnonzero(usable & (given < batches))
        if not len(free):
            raise ValueError("too few classes are left")
        given[rng.choice(free, min(lost, len(free)), replace=False)] += 1
    return given


def schedule(
    draws: np.ndarray,
    batches: int,
    *,
    classes_per_batch: int,
    rng: np.random.Generator,
    neighbors: np.ndarray | None = None,
    share: float = 0.0,
    bundle: int = 2,
) -> np.ndarray:
    """The classes of each batch: int64[batches, P], P distinct ones a batch, class c in `draws[c]` batches exactly.

    Systematic sampling (Madow 1949) of what is left: the classes lie on a line, each as long as its draws left, and P
    points at equal steps (the number of batches left) pick P of them. No class is longer than a step, so none is picked
    twice, and one as long as a step is always picked: the plan works out to the last batch. The order on the line is
    drawn anew all the time, so that any classes may meet.

    Args:
      draws: int64[c], none above `batches`, P * batches in all.
      neighbors: int[c, m], the nearest classes of each (-1: none). Then `share` of the classes, in bundles of `bundle`
        near ones, lie on the line so that a batch takes whole bundles: see `near_order`.
    """
    left, chosen = draws.copy(), np.empty((batches, classes_per_batch), np.int64)
    bundles = np.empty((0, bundle), np.int64)
    if neighbors is not None:
        size = min(bundle, classes_per_batch)
        bundles = make_bundles(np.flatnonzero(draws), neighbors, size=size, share=share, rng=rng)
    every = 1 if len(draws) <= _REORDER else max(1, min(batches, len(draws)) // 16)
    points = np.arange(classes_per_batch)
    order = np.empty(0, np.int64)
    for batch in range(batches):
        step = batches - batch
        if batch % every == 0:
            if len(bundles):
                order = near_order(left, bundles, columns=classes_per_batch, step=step, rng=rng)
            else:
                order = rng.permutation(np.flatnonzero(left))
        line = np.cumsum(left[order])
        picked = order[np.searchsorted(line, points * step + rng.integers(step), side="right")]
        left[picked] -= 1
        chosen[batch] = rng.permutation(picked)
    return chosen


def deal(chosen: np.ndarray, sizes: np.ndarray, *, examples_per_class: int, rng: np.random.Generator) -> np.ndarray:
    """The rows of each batch: int64[batches, P * K], K after K.

    Each class shuffles its rows and deals K at a time; of a round at most K - 1 rows are left over, drawn anew each
    round, and a row comes again only in a later round. A class with n < K rows deals each of them K // n times, some
    once more.

    Args:
      chosen: int64[batches, P], the class of each draw.
      sizes: int64[c], rows of each class; class c owns the rows from `sizes[:c].sum()` on.
    """
    drawn, each = chosen.ravel(), examples_per_class
    # Which draw of its class each one is.
    order = np.argsort(drawn, kind="stable")
    ranked = drawn[order]
    nth = np.empty_like(drawn)
    nth[order] = np.arange(len(drawn)) - np.searchsorted(ranked, ranked, side="left")
    draws = np.bincount(drawn, minlength=len(sizes))
    per_round = np.maximum(sizes // each, 1)
    rounds = -(-draws // per_round)
    # All rounds of all classes, shuffled in one sort.
    owner = np.repeat(np.arange(len(sizes)), rounds)
    lengths = sizes[owner]
    begins = np.cumsum(lengths) - lengths
    turn = np.repeat(np.arange(len(owner)), lengths)
    within = np.arange(len(turn)) - begins[turn]
    first_row = np.cumsum(sizes) - sizes
    rows = (first_row[owner][turn] + within)[np.argsort(turn + rng.random(len(turn)))]
    first_round = np.cumsum(rounds) - rounds
    round_of, place = np.divmod(nth, per_round[drawn])
    start = begins[first_round[drawn] + round_of]
    offset = (place[:, None] * each + np.arange(each)) % sizes[drawn][:, None]
    return rows[start[:, None] + offset].reshape(len(chosen), -1)
