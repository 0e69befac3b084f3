"""Which partitions of a release a re-index builds anew: those that change, those that are split, those that are merged.

Three operations keep partitions near their mean without a new router. A large partition is divided, or shifts rows to a near
one that has room; a small one is merged into a near one. How many partitions there are stays about what it was at training: were
each large one divided, the mean would fall with every split, until all are too large for it. All wait until partitions hold
64 rows in the mean: below, their sizes are chance, and small releases would be cut up and joined from one re-index to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simpipe.config.release import ReindexConfig
from simpipe.index.routing import Router
from simpipe.reindex.layout import Layout

_WORSE = 1.1  # times the balance at training: a router that is as good as training made it is not trained anew


@dataclass(frozen=True)
class PartitionWork:
    """A partition that is built anew.

    Attributes:
      partition: its number in the new release.
      sources: partitions of the base whose rows it takes, ascending: itself, merged ones, the parent of a split, or both where
        rows were shifted. Of several an item may come twice (itself and its spilled copy): one row of it stays.
      siblings: where its sources are divided, all partitions that share their rows, itself among them, ascending; else ().
    """

    partition: int
    sources: tuple[int, ...]
    siblings: tuple[int, ...] = ()


@dataclass(frozen=True)
class RebuildPlan:
    """What becomes of each partition. Those not named keep their files as they are.

    Attributes:
      partitions: slots of the new release. router: of the new release, the base's own object where nothing was split or merged.
      work: built anew, ascending by partition. hidden: get hidden rows only, their files are carried over.
      emptied: slots that hold no rows any more (merged away).
      split, merged: numbers in the base. shifted: those of the split ones that gave rows to a partition that was there.
      retrain: reason why the router should be trained anew instead.
    """

    partitions: int
    router: Router
    work: tuple[PartitionWork, ...]
    hidden: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    merged: tuple[int, ...] = ()
    shifted: tuple[int, ...] = ()
    retrain: str | None = None

    def with_added(self, added: np.ndarray) -> RebuildPlan:
        """The plan after the delta was routed again with its router: what got rows that it was not planned to get is built too.

        Args:
          added: int64[partitions of the plan], rows that the new router sends to each.
        """
        planned = {each.partition for each in self.work}
        more = [PartitionWork(number, (number,)) for number in np.flatnonzero(added).tolist() if number not in planned]
        work = tuple(sorted([*self.work, *more], key=lambda each: each.partition))
        touched = {each.partition for each in work}
        return replace(self, work=work, hidden=tuple(number for number in self.hidden if number not in touched))


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

    A partition is touched where rows are added, or where more than `config.max_hidden` of its rows would be hidden. One with
    more than `config.split_above` times the mean (of partitions that hold any), or than `cap_rows`, is divided or shifts rows;
    one with less than `config.merge_below` is merged into the nearest that has room. Hash and column routers, and territories
    that are divided by hash, are left as they are.

    Args:
      router: of the base.
      rows, hidden, dropped, added: int64[partitions]: physical rows, rows that are hidden already, live rows that are dropped
        now, and rows that the base's router sends here (spilled copies included).
      vectors_of: the live rows of a base partition, float32[n, dim]; read only where one is split. With the added rows among
        them parts come out more equal.
      config: when to hide, split, merge and train anew.
      balance: largest partition over the mean when the router was trained: what training anew can be expected to reach.
      cap_rows: rows that fit the memory which building a partition may take.
    """
    stale = hidden + dropped > config.max_hidden * rows
    touched = (added > 0) | ((dropped > 0) & stale)
    layout = Layout(router, (rows - hidden - dropped + added).astype(np.float64), cap_rows=cap_rows)
    if router.centroids is not None:
        layout.balance(vectors_of, touched, split_above=config.split_above, merge_below=config.merge_below)
    few = np.flatnonzero((dropped > 0) & ~touched)
    return RebuildPlan(
        partitions=layout.router.partitions,
        router=layout.router,
        work=_work(layout, np.flatnonzero(touched)),
        hidden=tuple(number for number in few.tolist() if number not in layout.changed),
        emptied=tuple(sorted(layout.into)),
        split=tuple(sorted([*layout.parts, *layout.given])),
        merged=tuple(sorted(layout.into)),
        shifted=tuple(sorted(layout.given)),
        retrain=_reason(layout, config, balance=balance),
    )


def _work(layout: Layout, touched: np.ndarray) -> tuple[PartitionWork, ...]:
    """What is built anew, given the base's touched partitions."""
    sources: dict[int, set[int]] = {}
    numbers: list[int] = [*touched.tolist(), *layout.changed]
    for number in numbers:
        sources.setdefault(layout.into.get(number, number), set()).add(number)
    for target in layout.into.values():
        sources[target].add(target)
    siblings: dict[int, tuple[int, ...]] = {}
    for number, parts in layout.parts.items():
        for part in parts:
            siblings[part], sources[part] = parts, {number}
    for number, target in layout.given.items():
        both = (min(number, target), max(number, target))
        siblings |= dict.fromkeys(both, both)
        sources |= {each: set(both) for each in both}
    return tuple(PartitionWork(number, tuple(sorted(sources[number])), siblings.get(number, ())) for number in sorted(sources))


def _reason(layout: Layout, config: ReindexConfig, *, balance: float) -> str | None:
    """Why the router should be trained anew."""
    if layout.largest > layout.cap_rows:
        number = int(layout.live.argmax())
        return f"partition {number} would hold {layout.largest:,.0f} rows, memory takes {layout.cap_rows:,}"
    limit = max(config.retrain_balance, _WORSE * balance)
    if layout.router.centroids is None or layout.is_small or layout.largest <= limit * layout.mean:
        return None
    reached = layout.largest / layout.mean
    return f"the largest partition would hold {reached:.2f} times the mean, {limit:.3g} is the limit"
