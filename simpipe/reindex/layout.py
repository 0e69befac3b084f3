"""The sizes of partitions as a re-index would leave them, and the router surgery that keeps them near their mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simpipe.index.routing import Router
from simpipe.reindex.split import distances_from, divide, merge, shift

VectorsOf = Callable[[int], np.ndarray]

_FEW = 64  # rows: of a smaller mean nothing is changed for balance
_ROOM = 1.2  # times the mean that a partition may hold after a merge, and that parts of a split are planned for
_EVEN = 1.15  # times the mean that two partitions may hold after one shifted rows to the other
_FULL = 0.8  # of the memory that partitions are planned for
_NEAR = 4  # of the nearest partitions may get rows shifted: farther ones would hold what is asked together with other rows


class Layout:
    """Partitions as they are going to be. Each takes part in one operation a re-index.

    Attributes:
      base: router of the base. router: of the new release.
      live: float64[partitions], rows of each. cap_rows: that fit the memory.
      into: where merged partitions went. given: to which ones others shifted rows.
      parts: what divided partitions became, themselves among them.
    """

    def __init__(self, router: Router, live: np.ndarray, *, cap_rows: int) -> None:
        self.base = self.router = router
        self.live, self.cap_rows = live, cap_rows
        self.into: dict[int, int] = {}
        self.given: dict[int, int] = {}
        self.parts: dict[int, tuple[int, ...]] = {}
        self._free = list(router.slots)
        own = np.flatnonzero(router.splits_of == 1) if router.centroids is not None else np.zeros(0, np.int64)
        self._movable = set(own.tolist()) - set(self._free)  # with centroids of their own

    @property
    def mean(self) -> float:
        """Over partitions that hold rows."""
        return float(self.live.sum()) / max(1, np.count_nonzero(self.live))

    @property
    def largest(self) -> float:
        return float(self.live.max())

    @property
    def is_small(self) -> bool:
        """Whether partitions hold so few rows that their sizes are chance."""
        return self.mean < _FEW

    @property
    def changed(self) -> set[int]:
        """Base partitions whose rows or routing change by an operation."""
        operations = (self.into, self.given, self.parts)
        return {number for each in operations for number in each} | set(self.into.values()) | set(self.given.values())

    def balance(self, vectors_of: VectorsOf, touched: np.ndarray, *, split_above: float, merge_below: float) -> None:
        """Merges small partitions, then divides or shifts from large ones, then merges others in the place of new ones.

        Args:
          vectors_of: the rows of a base partition, float32[n, dim].
          touched: bool[partitions], built anew in any case: rows are shifted between them before they are too large.
          split_above, merge_below: times the mean.
        """
        self._merge(lambda: self.live < merge_below * self.mean)
        self._relieve(vectors_of, split_above)
        self._merge(lambda: np.full(len(self.live), self._extra > 0))
        if self.router.spill == "none":  # a shift loses copies of rows at the border of the two
            self._level(vectors_of, set(np.flatnonzero(touched).tolist()))

    @property
    def _extra(self) -> int:
        """Partitions in use beyond those of training."""
        used = self.router.partitions - len(self.router.slots)
        return used - (self.router.trained or self.base.partitions)

    def _merge(self, small: Callable[[], np.ndarray]) -> None:
        """Merges partitions, the smallest first, into the nearest with room for them. `small`: bool[partitions], which."""
        for number in np.argsort(self.live, kind="stable").tolist():
            if self.is_small or number not in self._movable - self.changed or not small()[number]:
                continue
            most = min(_ROOM * self.mean, _FULL * self.cap_rows)
            target = self._nearest(number, most - float(self.live[number]))
            if target is None:
                continue
            self.router = merge(self.router, number, target)
            self.live[target] += self.live[number]
            self.live[number] = 0
            self.into[number] = target

    def _relieve(self, vectors_of: VectorsOf, split_above: float) -> None:
        """Divides large partitions, the largest first, or shifts rows from them, until none is too large."""
        whole: set[int] = set()  # that cannot be divided
        while True:
            mean = math.inf if self.is_small else self.mean
            large = np.flatnonzero(self.live > min(self.cap_rows, split_above * mean))
            left = set(large.tolist()) & self._movable - self.changed - whole
            if not left:
                return
            number = max(left, key=lambda each: (self.live[each], -each))
            fair = max(1.0, min(_ROOM * mean, _FULL * self.cap_rows))
            parts = max(2, math.ceil(self.live[number] / fair))
            most = min(_EVEN * mean, _FULL * self.cap_rows)
            room = 2 * most - float(self.live[number])
            target = self._nearest(number, room, among=_NEAR) if parts == 2 and self._extra >= 0 else None
            done = target is not None and self._shift(number, target, vectors_of(number))
            if not done and not self._divide(number, parts, vectors_of(number)):
                whole.add(number)

    def _level(self, vectors_of: VectorsOf, touched: set[int]) -> None:
        """Shifts rows from partitions that grow, the largest first, between such as are built anew in any case."""
        for number in np.argsort(-self.live, kind="stable").tolist():
            if self.is_small or self.live[number] <= _ROOM * self.mean:
                return
            if number in (self._movable & touched) - self.changed:
                room = 2 * _EVEN * self.mean - float(self.live[number])
                target = self._nearest(number, room, among=_NEAR, within=touched)
                if target is not None:
                    self._shift(number, target, vectors_of(number))

    def _nearest(self, number: int, most: float, *, among: int | None = None, within: set[int] | None = None) -> int | None:
        """The nearest partition that nothing happens to yet and that holds `most` rows at most.

        `among` so many nearest ones, and `within` these; None: all.
        """
        far = distances_from(self.router, number)
        near = [each for each in np.argsort(far, kind="stable").tolist() if each != number and math.isfinite(far[each])]
        free = self._movable - self.changed
        free = free if within is None else free & within
        return next((each for each in near[:among] if each in free and self.live[each] <= most), None)

    def _shift(self, number: int, target: int, vectors: np.ndarray) -> bool:
        share = (self.live[number] - self.live[target]) / 2 / self.live[number]
        found = shift(self.router, number, vectors, target, share)
        if found is None:
            return False
        rows = found[1] * self.live[number]
        if not self.live[target] < self.live[target] + rows < self.live[number]:
            return False
        self.router = found[0]
        self.live[[number, target]] += [-rows, rows]
        self.given[number] = target
        return True

    def _divide(self, number: int, parts: int, vectors: np.ndarray) -> bool:
        fresh = range(self.router.partitions, self.router.partitions + parts)
        found = divide(self.router, number, vectors, [*self._free, *fresh][: parts - 1])
        if found is None:
            return False
        self.router, shares = found
        live = self.live[number]
        self.live = np.concatenate([self.live, np.zeros(self.router.partitions - len(self.live))])
        for part, share in shares.items():
            self.live[part] = share * live
        self._free = [slot for slot in self._free if slot not in shares]
        self.parts[number] = tuple(sorted(shares))
        return True
