"""Which examples make up each batch: pure functions of the seed, NumPy only.

A *pass* goes once over all shards, in groups of at most `open_shards`; a *visit* is one group's turn in a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 64  # steps planned at a time; fixed, so that a resumed plan draws the same numbers


@dataclass(frozen=True)
class Visit:
    """The shards that are open together, and for how many steps; None means to the end of training."""

    shards: tuple[int, ...]
    steps: int | None


def plan_pass(shard_lengths: Sequence[int], *, open_shards: int, batch: int, seed: int, number: int) -> list[Visit]:
    """The visits of pass `number`.

    All shards at once where they may be open together: then the first visit never ends. Otherwise shards are shuffled,
    dealt into groups of (nearly) equal number, and each group stays for as many steps as its examples fill batches.

    Args:
      shard_lengths: examples of each shard; empty shards are left out.
      open_shards: at most so many shards a group.
      batch: examples of a batch.
      seed: of the run.
      number: of the pass, from 0.
    """
    lengths = np.asarray(shard_lengths, np.int64)
    present = np.flatnonzero(lengths)
    if len(present) <= open_shards:
        return [Visit(tuple(present.tolist()), None)]
    order = np.random.default_rng([seed, 1, number]).permutation(present)
    groups = np.array_split(order, -(-len(present) // open_shards))
    return [Visit(tuple(np.sort(group).tolist()), max(1, round(lengths[group].sum() / batch))) for group in groups]


class VisitPlan:
    """Endless batches over the examples of one group of shards.

    Every batch holds exactly `classes_per_batch` distinct classes, drawn uniformly, and `examples_per_class` distinct
    examples of each. A class deals its examples in shuffled order and shuffles anew when all were dealt; an example
    comes again only after all others of its class in the group.

    Args:
      labels: int64[n], the class of each row.
      classes_per_batch: P.
      examples_per_class: K.
      seed: numbers that name the visit, such as (seed, pass, visit).
      repeat_small: whether a class with n < K rows takes part, with each row K // n times in a batch and some once more;
        by default such classes sit this visit out.

    Raises:
      ValueError: fewer than P classes have K rows.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        classes_per_batch: int,
        examples_per_class: int,
        seed: Sequence[int],
        repeat_small: bool = False,
    ) -> None:
        order = np.argsort(labels, kind="stable")
        classes, begins, counts = np.unique(labels[order], return_index=True, return_counts=True)
        if repeat_small:
            order, begins, counts = _repeat_rows(order, begins, counts, examples_per_class)
        enough = counts >= examples_per_class
        if enough.sum() < classes_per_batch:
            raise ValueError(f"{enough.sum()} of {len(classes)} classes have {examples_per_class} examples")
        self._begins, self._counts = begins[enough], counts[enough]
        self._p, self._k = classes_per_batch, examples_per_class
        self._rows = order
        self._rng = np.random.default_rng([*seed, 2])
        self._dealt = np.zeros(len(self._begins), np.int64)  # draws of each class so far, K examples each
        self._shuffles = np.full(len(self._begins), -1, np.int64)  # which shuffle of the class lies in _rows
        self._shuffle(np.arange(len(self._begins)))

    def batches(self) -> Iterator[np.ndarray]:
        """int64[P * K] rows, a batch at a time, K after K; without end."""
        while True:
            yield from self.chunk()

    def chunk(self) -> np.ndarray:
        """int64[CHUNK, P * K]: the next `CHUNK` batches."""
        # Generator.choice takes O(P) a step however many classes there are.
        picks = [self._rng.choice(len(self._begins), self._p, replace=False) for _ in range(CHUNK)]
        drawn = np.concatenate(picks)
        # Position of each example in its class's endless deal: the class's draws before this one, times K.
        order = np.argsort(drawn, kind="stable")
        ranked = drawn[order]
        nth = np.empty_like(drawn)
        nth[order] = np.arange(len(drawn)) - np.searchsorted(ranked, ranked, side="left")
        position = ((self._dealt[drawn] + nth) * self._k)[:, None] + np.arange(self._k)
        shuffle, within = np.divmod(position, self._counts[drawn][:, None])
        np.add.at(self._dealt, drawn, 1)

        rows = np.empty_like(position)
        start = self._begins[drawn][:, None]
        waiting = np.ones(position.shape, bool)
        while True:
            ready = waiting & (shuffle == self._shuffles[drawn][:, None])
            rows[ready] = self._rows[(start + within)[ready]]
            waiting &= ~ready
            if not waiting.any():
                return rows.reshape(CHUNK, -1)
            self._shuffle(np.unique(drawn[waiting.any(axis=1)]))

    def _shuffle(self, classes: np.ndarray) -> None:
        """Deals anew the rows of `classes`, all classes in one sort.

        A draw that straddles two shuffles must not hold an example twice: examples that it took from the end of the
        old shuffle do not come among the first ones of the new.
        """
        counts = self._counts[classes]
        first = self._shuffles[classes] < 0
        owner = np.repeat(np.arange(len(classes)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = np.repeat(self._begins[classes], counts) + within
        tail = np.where(first, 0, (self._shuffles[classes] + 1) * counts % self._k)
        head = np.where(tail > 0, self._k - tail, 0)
        draw = self._rng.random(len(owner))
        in_tail = within >= np.repeat(counts - tail, counts)
        rank = np.empty_like(owner)
        rank[np.lexsort((draw, in_tail, owner))] = within
        behind = rank >= np.repeat(head, counts)
        self._rows[place] = self._rows[place][np.lexsort((draw, behind, owner))]
        self._shuffles[classes] += 1


def _repeat_rows(
    order: np.ndarray, begins: np.ndarray, counts: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows grouped by class in which every class has at least `least`: the rows of smaller ones come again, in turn."""
    filled = np.maximum(counts, least)
    ends = np.cumsum(filled)
    owner = np.repeat(np.arange(len(counts)), filled)
    turn = np.arange(len(owner)) - (ends - filled)[owner]
    return order[begins[owner] + turn % counts[owner]], ends - filled, filled
