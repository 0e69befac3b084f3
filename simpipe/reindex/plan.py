"""Which partitions of a release a re-index builds anew: those that change, those that are split, those that are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simpipe.config.release import ReindexConfig
from simpipe.index.routing import Router


@dataclass(frozen=True)
class PartitionWork:
    """A partition that is built anew.

    Attributes:
      partition: its number in the new release.
      sources: partitions of the base whose rows it takes: itself, merged ones, or the parent of a split. Of merged ones an item
        may come twice (itself and its spilled copy): one row of it stays.
      siblings: where its sources are divided, all partitions that share their rows, itself among them, ascending; else ().
    """

    partition: int
    sources: tuple[int, ...]
    siblings: tuple[int, ...] = ()


@dataclass(frozen=True)
class RebuildPlan:
    """What becomes of each partition.

    Attributes:
      partitions: slots of the new release. router: of the new release, the base's own object where nothing was split or merged.
      work: built anew, ascending by partition. hidden: get hidden rows only, their files are carried over.
      emptied: slots that hold no rows any more (merged away).
      split, merged: numbers in the base.
      retrain: reason why the router should be trained anew instead.
    """

    partitions: int
    router: Router
    work: tuple[PartitionWork, ...]
    hidden: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    merged: tuple[int, ...] = ()
    retrain: str | None = None


def plan_rebuild(
    router: Router,
    *,
    rows: np.ndarray,
    hidden: np.ndarray,
    dropped: np.ndarray,
    added: np.ndarray,
    vectors_of: Callable[[int], np.ndarray],
    config: ReindexConfig,
    balance: float,
    cap_rows: int,
) -> RebuildPlan:
    """Plans a re-index; the same input gives the same plan.

    Args:
      router: of the base.
      rows, hidden, dropped, added: int64[partitions]: physical rows, rows that are hidden already, live rows that are dropped
        now, and rows that the base's router sends here (spilled copies included).
      vectors_of: the live rows of a base partition, float32[n, dim]; read only where one is split.
      config: when to hide, split, merge and train anew.
      balance: largest partition over the mean that a newly trained router would keep to.
      cap_rows: rows that fit the memory which building a partition may take.
    """
    stale = hidden + dropped > config.max_hidden * rows
    touched = (added > 0) | ((dropped > 0) & stale)
    work = tuple(PartitionWork(int(number), (int(number),)) for number in np.flatnonzero(touched))
    few = np.flatnonzero((dropped > 0) & ~touched)
    return RebuildPlan(router.partitions, router, work, hidden=tuple(few.tolist()))
