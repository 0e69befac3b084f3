"""Which rows of an index fit a filter; of recent filters it is kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simpipe.index.attributes import Columns
from simpipe.index.filters import Filter
from simpipe.index.masks import fits, may_fit
from simpipe.index.trust import Trust

if TYPE_CHECKING:
    from simpipe.index.gathered import Gathered

_KEPT = 64 << 20  # bytes of masks that are kept
_GATHERED = 64 << 20  # bytes of gathered vectors that are kept
_TRUSTED = 1024  # filters whose over-fetch is remembered


@dataclass(frozen=True)
class Selection:
    """Rows that fit a filter and answer, hidden ones never.

    Attributes:
      counts: int64[partitions], rows of each that fit, copies among them.
      items: that fit; one in two partitions counts once.
      pruned: partitions that statistics of their columns ruled out.
    """

    counts: np.ndarray
    items: int
    pruned: int
    _bits: Mapping[int, np.ndarray]

    @property
    def bytes(self) -> int:
        return sum(bits.nbytes for bits in self._bits.values()) + self.counts.nbytes

    def rows(self, number: int) -> np.ndarray:
        """Rows of a partition that fit: int64[counts[number]], ascending."""
        bits = self._bits.get(number)
        return np.empty(0, np.int64) if bits is None else np.flatnonzero(np.unpackbits(bits))

    def holds(self, place: np.ndarray) -> np.ndarray:
        """bool[...]: whether places int64[...] (see `rows.place_of`) fit; False at -1."""
        flat = place.ravel()
        out, number, row = np.zeros(len(flat), bool), flat >> 32, flat & 0xFFFFFFFF
        for each, bits in self._bits.items():
            mine = slice(None) if len(self.counts) == 1 and flat.min(initial=0) >= 0 else np.flatnonzero(number == each)
            at = row[mine]
            out[mine] = (bits[at >> 3] >> (7 - (at & 7)).astype(np.uint8)) & 1
        return out.reshape(place.shape)


class Selections:
    """Selections of filters. Threads may share it.

    Args:
      title: of the index, for messages.
      columns: of the index. rows: of each of its partitions, hidden ones among them.
      hidden: rows of a partition that do not answer; None: none.
    """

    def __init__(
        self, title: str, columns: Columns, *, rows: tuple[int, ...], hidden: Callable[[int], np.ndarray | None]
    ) -> None:
        self._title, self.columns, self._rows, self._hidden = title, columns, rows, hidden
        self._kept: OrderedDict[Filter, Selection] = OrderedDict()
        self._gathered: OrderedDict[Filter, Gathered] = OrderedDict()
        self._trust: OrderedDict[tuple[Filter, int], Trust] = OrderedDict()
        self._lock = threading.Lock()

    def select(self, asked: Filter) -> Selection:
        """The rows that fit.

        Raises:
          QueryError: see `Filter.check`.
        """
        asked.check(self.columns.types, self._title)
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
                return self._kept[asked]
        found = self._selected(asked.plain(self.columns.types))
        with self._lock:
            self._kept[asked] = found
            while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def gathered(self, asked: Filter, make: Callable[[], Gathered]) -> Gathered:
        """The gathered items of a filter; `make` gathers them."""
        with self._lock:
            if asked in self._gathered:
                self._gathered.move_to_end(asked)
                return self._gathered[asked]
        found = make()
        with self._lock:
            self._gathered[asked] = found
            while len(self._gathered) > 1 and sum(each.bytes for each in self._gathered.values()) > _GATHERED:
                self._gathered.popitem(last=False)
        return found

    def trust(self, asked: Filter, k: int) -> Trust:
        """How over-fetch did for a filter and k so far."""
        with self._lock:
            if (asked, k) not in self._trust:
                self._trust[asked, k] = Trust()
                while len(self._trust) > _TRUSTED:
                    self._trust.popitem(last=False)
            self._trust.move_to_end((asked, k))
            return self._trust[asked, k]

    def _selected(self, asked: Filter) -> Selection:
        counts, items, pruned = np.zeros(len(self._rows), np.int64), 0, 0
        bits: dict[int, np.ndarray] = {}
        for number, rows in enumerate(self._rows):
            if not rows:
                continue
            columns = {name: self.columns.column(number, name) for name in asked.columns}
            if not all(may_fit(each, columns[each.column].stats, columns[each.column].values.type) for each in asked.conditions):
                pruned += 1
                continue
            mask = fits(asked, {name: column.values for name, column in columns.items()}, rows)
            hidden = self._hidden(number)
            if hidden is not None:
                mask[hidden] = False
            counts[number] = mask.sum()
            if counts[number]:
                bits[number] = np.packbits(mask)
                own = self.columns.own(number)
                items += int(counts[number] if own is None else (mask & own).sum())
        return Selection(counts, items, pruned, bits)
