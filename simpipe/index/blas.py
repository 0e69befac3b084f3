"""How many threads a matrix product may take. The setting belongs to the whole process, so overlapping users share it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

_LOCK = threading.Lock()
_USERS: list[int] = []
_HELD: list[Any] = []


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Limits BLAS inside the block; the first of several overlapping users decides, the last one restores."""
    with _LOCK:
        if not _USERS:
            _HELD.append(_controller().limit(limits=threads))
        _USERS.append(threads)
    try:
        yield
    finally:
        with _LOCK:
            _USERS.pop()
            if not _USERS:
                _HELD.pop().restore_original_limits()
