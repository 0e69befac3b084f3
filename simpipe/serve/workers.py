"""`simpipe serve` as one process, or as several on one port with a parent that starts them, and starts them again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from simpipe.config.serve import ServeConfig
from simpipe.errors import SimpipeError
from simpipe.serve.jobs import Engine, Pictures

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # before the library is imported; see `metrics`
_LOOK = 0.2  # seconds between looks at signals
_AGAIN = (1.0, 30.0)  # seconds until a worker that died is started again, first and at most
_GRACE = 15.0  # seconds beyond the longest answer until workers are killed


def run(root: str, settings: ServeConfig) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: the port cannot be had. SimpipeError: no release could be opened.
    """
    from simpipe.serve.run import listen, serve, url_of

    bound = listen(settings.host, settings.port)
    if settings.workers > 1:
        port = bound.getsockname()[1]
        bound.close()  # it told that nobody else has the port
        _Workers(root, settings.model_copy(update={"port": port})).run()
        return
    engine, pictures = make_engine(root, settings)
    serve(engine, pictures, settings, bound, ready=lambda: _ready(url_of(bound), engine.status().release))


def make_engine(root: str, settings: ServeConfig) -> tuple[Engine, Pictures | None]:
    """What answers, not started."""
    from simpipe.serve.engine import ProcessEngine

    engine = ProcessEngine(root, settings)
    if not settings.pictures:
        return engine, None
    from simpipe.serve.pictures import ProcessPictures

    return engine, ProcessPictures(root)


@dataclass
class _Worker:
    """A process that serves. `talk`: it says when it answers; its end tells the process that this one is gone."""

    process: BaseProcess
    talk: Connection
    began: float
    answers: bool = False


class _Workers:
    """The parent of the processes that serve."""

    def __init__(self, root: str, settings: ServeConfig) -> None:
        self._root, self._settings = root, settings
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._due: list[float] = []  # when workers that died are started again
        self._wait = _AGAIN[0]
        self._stop = 0
        self._told = False

    def run(self) -> None:
        from simpipe.serve.run import listen

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        with tempfile.TemporaryDirectory(prefix="simpipe-serve-") as shared:
            os.environ[_SHARED] = shared
            with listen(self._settings.host, self._settings.port, shared=True) as held:  # nobody else takes the port
                self._workers = [self._started(early=True) for _ in range(self._settings.workers)]
                try:
                    while not self._stop:
                        self._look(held, shared)
                finally:
                    self._end()

    def _signalled(self, number: int, frame: Any) -> None:
        self._stop += 1

    def _started(self, *, early: bool) -> _Worker:
        mine, its = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._root, self._settings, its, early))
        process.start()
        its.close()
        return _Worker(process, mine, time.monotonic())

    def _look(self, held: socket.socket, shared: str) -> None:
        """Waits for news of the workers."""
        from prometheus_client.multiprocess import mark_process_dead

        from simpipe.serve.run import url_of

        news = wait([worker.talk for worker in self._workers], _LOOK)
        for worker in [worker for worker in self._workers if worker.talk in news]:
            with contextlib.suppress(EOFError, OSError):
                release, error = worker.talk.recv()
                if error is not None and not self._told:
                    raise SimpipeError(*error)
                worker.answers = error is None
                if all(other.answers for other in self._workers) and not self._told:
                    self._told = True
                    _ready(url_of(held), release)
                continue
            if self._stop:
                return
            worker.process.join()
            self._workers.remove(worker)
            mark_process_dead(worker.process.pid, shared)
            if not self._told:
                raise SimpipeError(f"a server process ended with code {worker.process.exitcode} before it answered")
            _say(f"serve      process {worker.process.pid} ended with code {worker.process.exitcode}; another one is started")
            self._wait = _AGAIN[0] if time.monotonic() - worker.began > _AGAIN[1] else min(2 * self._wait, _AGAIN[1])
            self._due.append(time.monotonic() + self._wait)
        now = time.monotonic()
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            self._workers.append(self._started(early=False))

    def _end(self) -> None:
        """Lets all of them finish what is in flight; kills who does not, or at the second signal."""
        asked, until = self._stop, time.monotonic() + self._settings.timeout_seconds + _GRACE
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            while worker.process.is_alive() and time.monotonic() < until and self._stop <= max(asked, 1):
                worker.process.join(_LOOK)
            if worker.process.is_alive():
                worker.process.kill()
            worker.process.join()


def _work(root: str, settings: ServeConfig, talk: Connection, early: bool) -> None:
    """A process that serves. `early`: it listens before a release answers."""
    from simpipe.serve.run import listen, serve

    bound = listen(settings.host, settings.port, shared=True)
    engine, pictures = make_engine(root, settings)
    try:
        serve(
            engine,
            pictures,
            settings,
            bound,
            ready=lambda: talk.send((engine.status().release, None)),
            early=early,
            parent=talk.fileno(),
        )
    except SimpipeError as error:
        with contextlib.suppress(OSError):
            talk.send((None, (error.message, error.cure)))
        sys.exit(error.exit_code)


def _ready(url: str, release: str | None) -> None:
    _say(f"serve      {url} answers from {release}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
