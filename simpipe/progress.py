"""Progress of long work: a live line on a terminal (done, rate, time left), silence in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator


def on_terminal() -> bool:
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress(title: str, total: int | None, unit: str = "items") -> Iterator[Callable[[int], None]]:
    """Yields `update(done)`. Draws to stderr only where it is a terminal."""
    if not on_terminal():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit))
    rate = TextColumn("{task.fields[rate]}")
    with Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")

        def update(done: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield update


@contextlib.contextmanager
def watching(title: str, done: Callable[[], int], total: int, unit: str = "files") -> Iterator[None]:
    """Polls `done()` while the block runs: progress of a job that writes files, on any runner."""
    if not on_terminal():
        yield
        return
    stop = threading.Event()
    with progress(title, total, unit) as update:

        def poll() -> None:
            while not stop.wait(0.5):
                update(min(done(), total))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
