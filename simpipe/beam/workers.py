"""What a worker loads once and shares between its threads: models and releases, by path and content."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_LOCK = threading.Lock()
_HELD: dict[str, tuple[Any, Any]] = {}


def held_once(slot: str, key: Any, load: Callable[[], T]) -> T:
    """The value of `load()` for `key`, kept in this process until another key takes the slot.

    Args:
      slot: what kind of thing, such as `encoder`.
      key: what it depends on (a path and fingerprint); another key loads anew.
      load: makes it.
    """
    with _LOCK:
        if slot not in _HELD or _HELD[slot][0] != key:
            _HELD.pop(slot, None)
            _HELD[slot] = (key, load())
        return _HELD[slot][1]
