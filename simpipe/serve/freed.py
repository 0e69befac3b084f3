"""Memory that large requests took, given back to the system; allocators would keep it for the next one."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Lets the system have what is free of the heap."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)
