"""Progress of long work: a live line on a terminal (done, rate, time left), silence in a log."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from simpipe.errors import SimpipeError

_LEAST, _MOST = 0.5, 30.0  # seconds between two looks
_SHARE = 20  # looking takes at most one part in so many of the time: listing object storage costs time and money


class Update(Protocol):
    """Shows how many are done, and a note beside the title."""

    def __call__(self, done: int, note: str = "") -> None: ...


class _Watch:
    """What the innermost `watching` shows beside what it counts."""

    note: Callable[[], str] | None = None


_WATCH: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("watch", default=None)


def on_terminal() -> bool:
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress(title: str, total: int | None, unit: str = "items") -> Iterator[Update]:
    """Yields `update(done, note)`. Draws to stderr only where it is a terminal."""
    if not on_terminal():
        yield lambda done, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit))
    rate = TextColumn("{task.fields[rate]}")
    with Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")

        def update(done: int, note: str = "") -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            told = f"{title}: {note}" if note else title
            bar.update(task, completed=done, description=told, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield update


@contextlib.contextmanager
def watching(title: str, done: Callable[[], int], total: int, unit: str = "files") -> Iterator[None]:
    """Polls `done()` while the block runs: progress of a job that writes files, on any runner.

    Where a job in the block reports metrics while it runs (see `noting`), these are shown as well.
    """
    if not on_terminal():
        yield
        return
    stop, watch = threading.Event(), _Watch()
    before = _WATCH.set(watch)
    with progress(title, total, unit) as update:

        def poll() -> None:
            pause = _LEAST
            while not stop.wait(pause):
                began = time.monotonic()
                with contextlib.suppress(SimpipeError, OSError):  # a look that fails is no reason to stop looking, nor the work
                    update(min(done(), total), watch.note() if watch.note else "")
                pause = pause_after(time.monotonic() - began)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _WATCH.reset(before)


def pause_after(seconds: float) -> float:
    """Seconds to wait after a look that took so many: half a second where files are near, several where they are remote."""
    return min(max(_LEAST, _SHARE * seconds), _MOST)


@contextlib.contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """While the block runs, the `watching` around it shows `note()` beside its title; nothing where there is none."""
    watch = _WATCH.get()
    if watch is None:
        yield
        return
    watch.note = note
    try:
        yield
    finally:
        watch.note = None
