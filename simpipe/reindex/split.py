"""Router surgery: partitions are divided, merged, or give rows to another by changing who owns their centroids.

With enough centroids no row of any other partition moves: queries and items meet the same centroids as before. Where they are
too few or too coarse, one is replaced by two that are fitted to its rows. Two are nearer to the rows than the one was; by as
much their offset is larger, so that the partition does not grow. Items of other partitions stay where they are all the same;
but the border moves a little, so that a new item or a query there may go to the other side first. The nearest items are then
in the second nearest partition: margins and probes find them as on any border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simpipe.index.kmeans import lloyd, one_thread
from simpipe.index.nearest import Nearest
from simpipe.index.routing import Router

_OFF = 0.2  # of a part's rows, by which it may miss them before a centroid is replaced by two
_LEAST = 0.05  # of the rows, that each half has to hold
_FITS = 8  # centroids that are replaced for one cut, at most
_LEARNED = 20_000  # rows that two new centroids are fitted to


def assign_among(router: Router, vectors: np.ndarray, siblings: Sequence[int]) -> np.ndarray:
    """Which of some partitions each row goes to, whatever other partition may be nearer: int64[n], numbers out of `siblings`.

    Args:
      router: of the new release. vectors: float32[n, dim], prepared. siblings: partitions that share the rows, ascending.
    """
    assert router.centroids is not None
    among = np.asarray(siblings, np.int64)
    territories = router.territories_of(among)
    chosen = np.flatnonzero(np.isin(router.owner, territories))
    place = np.searchsorted(territories, router.owner[chosen])
    return among[Nearest(router.centroids[chosen], place, router.offsets[chosen]).owner_of(vectors)]


def merge(router: Router, source: int, target: int) -> Router:
    """The router whose partition `target` owns the centroids of `source` too; `source` becomes an empty slot."""
    assert router.centroids is not None
    given, taking = router.territories_of([source, target])
    owner = np.where(router.owner == given, taking, router.owner)
    return _sorted(replace(router, trained=router.trained or router.partitions), router.centroids, owner, router.offsets)


def divide(router: Router, number: int, vectors: np.ndarray, slots: Sequence[int]) -> tuple[Router, dict[int, float]] | None:
    """Divides a partition in parts of about equal rows along the main axis of its centroids.

    Args:
      router: whose partition `number` is a territory of its own.
      vectors: float32[n, dim], the partition's rows.
      slots: the partitions of the further parts: empty ones, or new numbers that follow the last one.

    Returns:
      The router, and the share of the rows of each part (`number` and some or all of `slots`); None where the rows cannot be
      divided, because they are equal.
    """
    assert router.centroids is not None
    home = router.territories_of([number])[0]
    own = router.owner == home
    if not len(vectors):
        return None
    with one_thread():
        parts = _parts(_Cells(router.centroids[own], router.offsets[own], vectors), len(slots) + 1)
    if len(parts) == 1:
        return None
    numbers = [number, *slots[: len(parts) - 1]]
    more = sum(slot >= router.partitions for slot in numbers)
    wider = replace(
        router,
        partitions=router.partitions + more,
        trained=router.trained or router.partitions,
        splits=np.concatenate([router.splits, np.ones(more, router.splits.dtype)]),
    )
    territories = wider.territories_of(numbers)
    divided = _sorted(
        wider,
        np.concatenate([router.centroids[~own], *(part.centroids for part in parts)]),
        np.concatenate([router.owner[~own], np.repeat(territories, [len(part.centroids) for part in parts])]),
        np.concatenate([router.offsets[~own], *(part.offsets for part in parts)]),
    )
    siblings = sorted(numbers)
    counts = np.bincount(np.searchsorted(siblings, assign_among(divided, vectors, siblings)), minlength=len(siblings))
    return divided, {each: float(count / len(vectors)) for each, count in zip(siblings, counts, strict=True)}


def shift(router: Router, number: int, vectors: np.ndarray, target: int, share: float) -> tuple[Router, float] | None:
    """Gives the centroids of a partition that lie nearest to another one to that one.

    Args:
      router: in which both are territories of their own.
      number, vectors: the partition and its rows float32[n, dim]. target: the other one.
      share: of the rows, to be given away.

    Returns:
      The router, and the share that went; None where the rows cannot be divided, because they are equal.
    """
    assert router.centroids is not None
    home, there = router.territories_of([number, target])
    own = router.owner == home
    if not len(vectors):
        return None
    with one_thread():
        cells = _Cells(router.centroids[own], router.offsets[own], vectors, toward=router.centroids[router.owner == there])
        halves = _halved(cells, share, off=_OFF / 4)
    if halves is None:
        return None
    shifted = _sorted(
        replace(router, trained=router.trained or router.partitions),
        np.concatenate([router.centroids[~own], *(half.centroids for half in halves)]),
        np.concatenate([router.owner[~own], np.repeat([there, home], [len(half.centroids) for half in halves])]),
        np.concatenate([router.offsets[~own], *(half.offsets for half in halves)]),
    )
    return shifted, float((assign_among(shifted, vectors, sorted([number, target])) == target).mean())


def distances_from(router: Router, number: int) -> np.ndarray:
    """How far the partitions lie from one: the mean over its centroids of the nearest there, float32[partitions].

    0 for itself, inf for empty slots.
    """
    assert router.centroids is not None
    own = router.centroids[router.owner == router.territories_of([number])[0]]
    out = router.nearness(own).mean(axis=0)
    out[number] = 0.0
    return out


def _sorted(router: Router, centroids: np.ndarray, owner: np.ndarray, offsets: np.ndarray) -> Router:
    order = np.argsort(owner, kind="stable")
    return replace(
        router,
        centroids=np.ascontiguousarray(centroids[order], np.float32),
        owner=owner[order].astype(np.int32),
        offsets=np.ascontiguousarray(offsets[order], np.float32),
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    """Centroids float32[c, dim] with offsets float32[c], and the rows float32[n, dim] that lie nearest to them.

    They are divided along their main axis, or by their distance to `toward`, float32[m, dim].
    """

    centroids: np.ndarray
    offsets: np.ndarray
    vectors: np.ndarray
    toward: np.ndarray | None = None

    @cached_property
    def near(self) -> np.ndarray:
        return Nearest(self.centroids, np.arange(len(self.centroids)), self.offsets).owner_of(self.vectors)

    @cached_property
    def shares(self) -> np.ndarray:
        """Of the rows, float64[c]."""
        return np.bincount(self.near, minlength=len(self.centroids)) / max(len(self.vectors), 1)

    def of(self, chosen: np.ndarray) -> _Cells:
        """Some of the cells with their rows."""
        kept = np.zeros(len(self.centroids), bool)
        kept[chosen] = True
        return replace(self, centroids=self.centroids[kept], offsets=self.offsets[kept], vectors=self.vectors[kept[self.near]])

    def order(self) -> np.ndarray:
        """The cells from one end to the other, their rows weighed: int64[c]."""
        if self.toward is not None:
            return np.argsort(_squares(self.centroids, self.toward), kind="stable")
        weights = np.maximum(self.shares, 1e-6)
        middle = (weights @ self.centroids) / weights.sum()
        spread = (self.centroids - middle).astype(np.float64)
        axis = np.linalg.svd(spread * np.sqrt(weights)[:, None], full_matrices=False)[2][0]
        axis *= np.sign(axis[np.abs(axis).argmax()])  # the sign of a main axis is arbitrary
        return np.argsort(spread @ axis, kind="stable")

    def finer(self, cell: int) -> _Cells | None:
        """With two centroids in place of one; None where its rows are equal."""
        members = self.vectors[self.near == cell]
        two = lloyd(members[:: -(-len(members) // _LEARNED)], 2, seed=0, rounds=20) if len(members) > 1 else members
        if len(two) < 2:
            return None
        others = np.arange(len(self.centroids)) != cell
        nearer = (_squares(members, self.centroids[[cell]]) - _squares(members, two)).mean()
        offset = np.float32(self.offsets[cell] + nearer)
        offsets = np.concatenate([self.offsets[others], [offset, offset]])
        return replace(self, centroids=np.concatenate([self.centroids[others], two]), offsets=offsets)


def _parts(cells: _Cells, parts: int) -> list[_Cells]:
    """At most so many parts of about equal rows."""
    halves = _halved(cells, (parts // 2) / parts, off=_OFF / parts) if parts > 1 else None
    if halves is None:
        return [cells]
    return _parts(halves[0], parts // 2) + _parts(halves[1], parts - parts // 2)


def _halved(cells: _Cells, share: float, *, off: float) -> tuple[_Cells, _Cells] | None:
    """Two parts, the first with `share` of the rows but for `off`; None where one of them would hold next to nothing."""
    for _ in range(_FITS):
        order, ends = _line(cells)
        if len(order) > 1 and np.abs(ends[:-1] - share).min() <= off:
            break
        across = int(order[min(int(np.searchsorted(ends, share)), len(order) - 1)])
        finer = cells.finer(across)
        if finer is None:
            break
        cells = finer
    order, ends = _line(cells)
    at = int(np.abs(ends[:-1] - share).argmin()) if len(order) > 1 else 0
    if len(order) < 2 or not _LEAST <= ends[at] <= 1 - _LEAST:
        return None
    return cells.of(order[: at + 1]), cells.of(order[at + 1 :])


def _line(cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    """The cells along their main axis, and the share of the rows up to each."""
    order = cells.order()
    return order, np.cumsum(cells.shares[order])


def _squares(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The squared distance of each vector to the nearest centroid: float64[n]."""
    squares = np.full(len(vectors), np.inf)
    for centroid in centroids:
        difference = vectors - centroid
        squares = np.minimum(squares, np.einsum("nd,nd->n", difference, difference))
    return squares
