"""How a query with a filter is answered, so that k items come back where k fit.

Which rows fit is known exactly before anything is searched (`selection`). Then, by estimated cost:

- exact scan: the rows that fit are gathered and scanned, right by construction;
- over-fetch: the ANN index gives as many neighbors as hold k that fit, on average; queries that found fewer are asked once more,
  deeper, and those that still lack some (the filter goes with the vectors, against the query) are scanned.

Deep neighbors are where ANN indexes lose recall, and a filter may fit just those that they lose. So over-fetch has to earn its
trust for each filter: its first queries are answered by exact scan, and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simpipe.index.fan_out import Answered, fan_out, processors
from simpipe.index.gathered import MOST, Gathered
from simpipe.index.picked import PickedPartition
from simpipe.index.rows import Rows
from simpipe.index.selection import Selection
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.trust import CHECKED, Trust
from simpipe.types import Neighbors

if TYPE_CHECKING:
    from simpipe.index.base_searcher import BaseSearcher

How = Literal["exact scan", "over-fetch", "none match"]

_DEEPEST = 1024  # neighbors that an ANN index is asked for
_DEEPER = 4  # times as many in the second round
_EFFORT = 1.5  # times the backend's effort, and the probes
_WIDER = 1.5  # times the margin: deep neighbors lie farther out
_GOOD = 0.98  # share of the true neighbors that it must have found
_ALONE = 8e6  # multiplications of a scan that one thread does
# Microseconds of CPU: a multiplication of a scan; a float gathered; a call for a partition; a neighbor over-fetched; and a search
# where the release has no profile that says.
_PRODUCT, _GATHER, _CALL, _NEIGHBOR, _SEARCH = 6.5e-5, 1e-3, 60.0, 1.0, 100.0


@dataclass(frozen=True)
class FilterAbout:
    """How a block of queries with a filter was answered.

    Attributes:
      how: the way that was chosen. matching: items that fit.
      partitions: that were asked for any of the queries. pruned: that statistics of their columns ruled out.
      rounds: of over-fetch. scanned: queries that were answered by an exact scan.
      short: fewer items fit than were asked for, so fewer came back.
    """

    how: How
    matching: int
    partitions: int
    pruned: int
    rounds: int = 0
    scanned: int = 0
    short: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Filtered:
    """Neighbors that fit a filter, nearest first, and how they were found."""

    neighbors: Neighbors
    about: FilterAbout


@dataclass(frozen=True)
class _Found:
    """Distances float32[n, k] and places int64[n, k], nearest first, of items that fit; +inf and -1 where there are none."""

    distances: np.ndarray
    place: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int) -> _Found:
        return cls(np.full((n, k), np.inf, np.float32), np.full((n, k), -1, np.int64))

    def put(self, rows: np.ndarray, found: _Found) -> None:
        width = found.place.shape[1]
        self.distances[rows, :width], self.place[rows, :width] = found.distances, found.place
        self.distances[rows, width:], self.place[rows, width:] = np.inf, -1


class FilteredSearch:
    """One block of queries with a filter.

    Args:
      searcher: that is asked. queries: float32[n, dim], prepared. k: neighbors a query.
      selection: of the rows that fit. trust: of over-fetch for this filter. gathered: the items that fit as one index.
      setting, where: how to ask, as in `BaseSearcher.lookup`. wanted: recall that over-fetch has to reach.
    """

    def __init__(
        self,
        searcher: BaseSearcher,
        queries: np.ndarray,
        k: int,
        selection: Selection,
        trust: Trust,
        *,
        setting: SearchSetting,
        gathered: Callable[[], Gathered],
        where: str | Sequence[str | None] | None = None,
        wanted: float = _GOOD,
    ) -> None:
        self._searcher, self._queries, self._k, self._selection = searcher, queries, k, selection
        self._trust, self._wanted, self._gathered = trust, max(wanted, _GOOD), gathered
        self._small = int(selection.counts.sum()) * searcher.dim <= MOST
        self._given, self._setting = setting, _deepened(setting)
        values = [where] * len(queries) if isinstance(where, str) else where
        holds = selection.counts > 0
        self._any = searcher.router.ask(queries, ALL, values) & holds
        self._where = where
        self._rows = np.array(searcher.partition_rows)
        self._copies = int(self._rows.sum()) > searcher.items
        self._tables: dict[int, Rows] = {}
        self._rounds = self._scanned = 0
        self._used = np.zeros(len(self._rows), bool)

    def run(self, *, exact: bool = False) -> tuple[_Found, Mapping[int, Rows], FilterAbout]:
        """The k nearest that fit, the tables that name them, and how they were found."""
        n, k = len(self._queries), self._k
        out, everything = _Found.empty(n, k), np.arange(n)
        if not self._any.any():
            return out, {}, self._about("none match")
        scan = exact or self._depth > _DEEPEST or self._scan_costs(n) <= self._search  # before anything is routed
        if scan or self._scan_costs(n) <= self._fetch_costs(self._depth):
            out.put(everything, self._scan(everything))
            return out, self._tables, self._about("exact scan")
        left = everything
        if not self._trust.known:
            # Spread over the block, of which neighboring queries may be alike.
            checked = np.unique(np.linspace(0, n - 1, min(n, CHECKED)).astype(np.int64))
            over, there = self._fetch(checked)
            found = self._scan(checked)
            self._trust.note(found.distances, over.distances, there)
            out.put(checked, found)
            left = np.setdiff1d(everything, checked)
        if len(left) and self._pays(len(left)):
            found, there = self._fetch(left)
            out.put(left[there], _Found(found.distances[there], found.place[there]))
            left = left[~there]
        if len(left):
            out.put(left, self._scan(left))
        return out, self._tables, self._about("over-fetch" if self._scanned < n else "exact scan")

    def _pays(self, n: int) -> bool:
        """Whether over-fetch may be trusted, and answers so many of n queries that it is worth its cost."""
        trust = self._trust
        return trust.good(self._wanted) and self._fetch_costs(self._depth) <= trust.share * self._scan_costs(n)

    def _about(self, how: How) -> FilterAbout:
        selection = self._selection
        short = selection.items < self._k
        used = int(self._used.sum())
        return FilterAbout(how, selection.items, used, selection.pruned, self._rounds, self._scanned, short)

    # --- exact scan --------------------------------------------------------------------------------------------------

    def _scan(self, which: np.ndarray) -> _Found:
        self._scanned += len(which)
        asked = self._any[which]
        self._used |= asked.any(axis=0)
        selection, partition = self._selection, self._searcher.partition
        if self._where is None:
            # Each thread a part of the queries; few of them are answered before threads have started.
            threads = processors() if len(which) * selection.items * self._searcher.dim > _ALONE else 1
            held = self._gathered()
            k, distance = min(self._k, len(held.place)), self._searcher.distance
            return self._kept(held.search(self._queries[which], k, distance=distance, threads=threads))
        done = fan_out(
            self._queries[which],
            self._k,
            asked,
            lambda number: PickedPartition(partition(number), selection.rows(number)),  # type: ignore[arg-type,return-value]
            setting=ALL,
            exact=float(asked.sum(axis=0) @ selection.counts) * self._searcher.dim > _ALONE,
            copies=self._copies,
        )
        return self._kept(done)

    def _kept(self, done: Answered) -> _Found:
        self._tables |= done.tables
        return _Found(done.distances, done.place)

    def _scan_costs(self, n: int) -> float:
        """Microseconds of CPU a query, of n at once."""
        floats = float((self._any @ self._selection.counts).mean()) * self._searcher.dim
        gather = 0.0 if self._small and self._where is None else _GATHER / min(n, 512)  # small ones are kept
        calls = 1.0 if self._where is None else float(self._any.any(axis=0).sum())
        return floats * (_PRODUCT + gather) + _CALL * calls / n

    # --- over-fetch --------------------------------------------------------------------------------------------------

    @cached_property
    def _asked(self) -> np.ndarray:
        """The partitions that each query asks: bool[n, partitions]."""
        if self._where is not None:
            return self._any
        return _nearest(self._searcher, self._queries, self._setting, self._selection.counts > 0)

    @property
    def _depth(self) -> int:
        """So many neighbors hold k that fit for nearly all queries, where the filter does not go with the vectors."""
        holds = self._selection.counts > 0
        share = float(self._selection.counts[holds].sum() / self._rows[holds].sum())
        if share >= 1.0:
            return self._k
        return math.ceil((self._k + 2.0 * math.sqrt(self._k) + 2.0) / share)

    @property
    def _search(self) -> float:
        """Microseconds of CPU of a search of one partition, as the profile has measured the setting, or its best one."""
        profile = self._searcher.profile
        if profile is None:
            return _SEARCH
        point = next((each for each in profile.curve if each.setting == self._given), profile.best)
        return point.microseconds / max(point.probes, 1.0)

    def _fetch_costs(self, depth: int) -> float:
        asked = float(self._asked.sum()) / len(self._asked)
        return asked * (_EFFORT * self._search + _NEIGHBOR * depth)

    def _fetch(self, which: np.ndarray) -> tuple[_Found, np.ndarray]:
        """The k nearest that over-fetch finds; bool[n], the queries that it finds enough for."""
        out, depth = _Found.empty(len(which), self._k), min(self._depth, _DEEPEST)
        enough, left = np.zeros(len(which), bool), np.arange(len(which))
        for last in (False, True):
            self._rounds = max(self._rounds, 1 + last)
            found, fits = self._round(which[left], depth)
            count = fits.sum(axis=1)
            out.put(left, found)
            enough[left] = count >= min(self._k, self._selection.items)
            # Where fewer fit than a deeper round can make up for, the filter goes against the query.
            left = left[~enough[left] & (count * _DEEPER >= self._k)]
            depth *= _DEEPER
            if last or not len(left) or depth > _DEEPEST or self._scan_costs(len(left)) <= self._fetch_costs(depth):
                break
        return out, enough

    def _round(self, which: np.ndarray, depth: int) -> tuple[_Found, np.ndarray]:
        """The k nearest that fit of `depth` neighbors; and bool[n, depth], which of these fit."""
        asked, searcher = self._asked[which], self._searcher
        self._used |= asked.any(axis=0)
        setting = replace(self._setting, backend=_wide_enough(self._setting.backend, depth))
        done = self._kept(
            fan_out(
                self._queries[which],
                min(depth, searcher.items),
                asked,
                searcher.partition,
                setting=setting,
                copies=self._copies,
                ready=searcher.is_loaded,
            )
        )
        fits = self._selection.holds(done.place)
        order = np.argsort(~fits, axis=1, kind="stable")[:, : self._k]
        kept = np.take_along_axis(fits, order, axis=1)
        distances = np.where(kept, np.take_along_axis(done.distances, order, axis=1), np.float32(np.inf))
        return _Found(distances, np.where(kept, np.take_along_axis(done.place, order, axis=1), -1)), fits


def _deepened(setting: SearchSetting) -> SearchSetting:
    """The setting for neighbors that lie deeper than those it was measured with."""
    return SearchSetting(
        None if setting.probes is None else math.ceil(setting.probes * _EFFORT),
        None if setting.margin is None else setting.margin * _WIDER,
        {name: math.ceil(value * _EFFORT) for name, value in setting.backend.items()},
    )


def _wide_enough(backend: Mapping[str, int], depth: int) -> dict[str, int]:
    """A graph's width, and what is reordered, are no less than twice the neighbors that are asked for."""
    return {name: max(value, 2 * depth) if name in ("ef", "effort", "reorder") else value for name, value in backend.items()}


def _nearest(searcher: BaseSearcher, queries: np.ndarray, setting: SearchSetting, holds: np.ndarray) -> np.ndarray:
    """The partitions that each query asks, of those that hold anything that fits: bool[n, partitions].

    Args:
      holds: bool[partitions].
    """
    if holds.all() or searcher.router.centroids is None:
        return searcher.router.ask(queries, setting) & holds
    near = np.where(holds, searcher.router.nearness(queries), np.float32(np.inf))
    near = near - near.min(axis=1, keepdims=True)
    asked = np.isfinite(near)
    if setting.margin is not None:
        asked &= near <= max(setting.margin, 0.0)
    if setting.probes is not None and setting.probes < near.shape[1]:
        asked &= near <= np.partition(near, setting.probes - 1, axis=1)[:, setting.probes - 1 : setting.probes]
    return asked
