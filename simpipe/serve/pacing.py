"""A process that stops itself after each few milliseconds of CPU, until somebody lets it go on.

Opening a release reads, hashes and loads in pieces that may take 100 ms each, inside libraries; beside answers in flight on few
processors they have to be cut smaller from outside. The kernel counts the CPU time of all threads, and sends SIGSTOP; whoever
wants the work done sends SIGCONT, as often as there is room for it. Where that one is late, the work waits, and not the answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator

RUN = 0.004  # seconds of CPU until it stops; kernels look every 1 to 10 ms
_CPU_OF_PROCESS = 2  # CLOCK_PROCESS_CPUTIME_ID


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux."""

    _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_char * 48))


class _Spec(ctypes.Structure):
    """`struct itimerspec`: interval and first time, each in seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again_s", "again_ns", "first_s", "first_ns"))


@contextlib.contextmanager
def stopping_itself(seconds: float = RUN) -> Iterator[bool]:
    """Inside the block this process stops after each so many seconds of CPU; yields whether the system can do that."""
    library, timer = ctypes.CDLL(None), ctypes.c_void_p()
    event = _Event(None, signal.SIGSTOP, 0, b"")
    try:
        made = library.timer_create(_CPU_OF_PROCESS, ctypes.byref(event), ctypes.byref(timer)) == 0
    except AttributeError:  # another system
        made = False
    if not made:
        yield False
        return
    nanoseconds = int(seconds * 1e9)
    library.timer_settime(timer, 0, ctypes.byref(_Spec(0, nanoseconds, 0, nanoseconds)), None)
    try:
        yield True
    finally:
        library.timer_delete(timer)
