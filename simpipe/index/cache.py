"""Loaded partitions of a release within a bound of bytes: the ones that were asked last stay."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from simpipe.index.partitions import Partition

_LEAST = 64 << 20
_SHARE = 0.5
_MOST = 4 << 30


def default_bytes() -> int:
    """4 GiB, or half of the machine's memory where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_LEAST, min(_MOST, int(memory * _SHARE)))


class PartitionCache:
    """Loads partitions, several at a time, each once however many threads ask.

    What is let go is freed when the searches that use it end.

    Args:
      load: makes a partition.
      size: bytes that a partition counts as.
      limit: bytes kept; one partition is kept in any case.
    """

    def __init__(self, load: Callable[[int], Partition], size: Callable[[int], int], limit: int) -> None:
        self._load, self._size, self.limit = load, size, limit
        self._kept: OrderedDict[int, Partition] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._loading: dict[int, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    @property
    def bytes(self) -> int:
        """Of what is kept."""
        return self._bytes

    def get(self, number: int) -> Partition:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            loading = self._loading.setdefault(number, threading.Lock())
        with loading:
            with self._lock:
                if number in self._kept:  # another thread was faster
                    return self._kept[number]
            part = self._load(number)
            with self._lock:
                self._kept[number] = part
                self._bytes += self._size(number)
                while self._bytes > self.limit and len(self._kept) > 1:
                    oldest, _ = self._kept.popitem(last=False)
                    self._bytes -= self._size(oldest)
                    self._loading.pop(oldest, None)
            return part
