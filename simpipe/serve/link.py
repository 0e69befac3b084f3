"""The server's side of a release's process: sends jobs, hands out answers, notices at once that the process has died."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from simpipe.errors import ReleaseError
from simpipe.serve import release_process
from simpipe.serve.errors import DeadlineError, NotReadyError
from simpipe.serve.frames import Frames, job_frame
from simpipe.serve.jobs import Job, Reply
from simpipe.serve.opening import Opening
from simpipe.serve.pictures_wire import raised

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["simpipe.serve.preload"])
_GRACE = 5.0  # seconds for a process to end by itself
_REST, _HURRY = 0.016, 0.001  # seconds until a process that stops itself goes on: beside others' answers, and without any


class Link(asyncio.Protocol):
    """One open release.

    Args:
      opening: of what. lost: called when the process has ended before `close`.

    Attributes:
      about: what a server says of the release; empty until it is open.
      queries: that wait or are being answered. cache_bytes: of partitions that the process holds.
      asked: when it was asked last, opened_at: since when it answers, by `time.monotonic`.
      died: it ended before it said that it is open, or why not.
    """

    def __init__(self, opening: Opening, lost: Callable[[Link], None]) -> None:
        self.opening = opening
        self.about: dict[str, Any] = {}
        self.queries = 0
        self.cache_bytes = 0
        self.asked = time.monotonic()
        self.alive = True
        self.died = False
        self.opened_at = 0.0
        self._lost = lost
        self._frames = Frames()
        self._number = 0
        self._unsent: list[bytes] = []
        self._waiting: dict[int, tuple[asyncio.Future[Reply], int]] = {}
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle = asyncio.Event()
        self._idle.set()
        self._process: Any = None
        self._transport: asyncio.Transport | None = None
        self._closing = False

    @property
    def release(self) -> str:
        return self.opening.release

    @property
    def pid(self) -> int | None:
        """Of the process, where it was started."""
        return None if self._process is None else self._process.pid

    async def open(self, batch: int, *, slowly: bool, disturbs: Callable[[], bool]) -> None:
        """Starts the process; returns when the release answers.

        Args:
          batch: queries that are searched together.
          slowly: others may want to answer meanwhile. disturbs: whether they do at this moment.

        Raises:
          SimpipeError: it cannot be opened.
        """
        try:
            starting = asyncio.ensure_future(asyncio.to_thread(_start, self.opening, batch, slowly))
            try:
                self._process, ours = await asyncio.shield(starting)
            except asyncio.CancelledError:  # the thread goes on: a process that it starts has to be ended
                self._process, ours = await starting
                ours.close()
                raise
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
            while not self._opened.done():
                await asyncio.wait([self._opened], timeout=_REST if disturbs() else _HURRY)
                if slowly:
                    self._signal(signal.SIGCONT)
            self._opened.result()
        except BaseException:  # cancelled as well: nobody else would end the process
            self._signal(signal.SIGCONT)
            await self.close()
            raise

    def _signal(self, number: int) -> None:
        if self.alive and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ask(self, job: Job, timeout: float) -> Reply:
        """The answer to a job.

        Raises:
          DeadlineError: not in `timeout` seconds. NotReadyError: the process has died. SimpipeError: what the job is refused for.
        """
        if not self.alive or self._transport is None:
            raise NotReadyError(f"the process of release {self.release} has ended", "ask again in a moment")
        self._number += 1
        number, loop = self._number, asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        self.asked = time.monotonic()
        if not self._unsent:
            loop.call_soon(self._send)  # what comes in one turn of the loop goes as one piece: the process wakes once
        self._unsent.append(job_frame(number, job, self.asked + timeout))
        self._waiting[number] = answer, job.queries
        self.queries += job.queries
        self._idle.clear()
        late = loop.call_later(timeout, _late, answer, timeout)
        try:
            return await answer
        finally:
            late.cancel()

    def _send(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._transport is not None:
            self._transport.write(data)

    async def close(self, wait: float = _GRACE) -> None:
        """Waits at most so many seconds for what is being answered, and ends the process."""
        self._closing = True
        if self.alive:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), wait)
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            await asyncio.shield(asyncio.to_thread(_end, self._process))

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by name

    def data_received(self, data: bytes) -> None:
        for head, body in self._frames.feed(data):
            self.cache_bytes = head.get("cache_bytes", self.cache_bytes)
            if "number" in head:
                self._answered(head, body)
            elif self._opened.done():
                continue
            elif "error" in head:
                self._opened.set_exception(raised(head["error"]))
            elif "about" in head:
                self.about = head["about"]
                self.opened_at = time.monotonic()
                self._opened.set_result(None)

    def _answered(self, head: dict[str, Any], body: memoryview) -> None:
        answer, queries = self._waiting.pop(head["number"])
        self.queries -= queries
        if not self._waiting:
            self._idle.set()
        if answer.done():  # nobody waits for it any more
            return
        if "error" not in head:
            answer.set_result(Reply(self.release, bytes(body), head["batch"], head["probes"]))
        elif head["error"]["kind"]:
            answer.set_exception(raised(head["error"]))
        else:
            answer.set_exception(RuntimeError(head["error"]["message"]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self._opened.done():
            self.died = True
            message = f"release {self.release}: the process that opened it died"
            self._opened.set_exception(ReleaseError(message, "see the server's log; `simpipe fsck` looks at the release"))
            self._opened.exception()  # looked at: nobody may be waiting
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(NotReadyError(f"the process of release {self.release} died", "ask again in a moment"))
        self._waiting.clear()
        self.queries = 0
        self._idle.set()
        if not self._closing:
            self._lost(self)


def _late(answer: asyncio.Future[Reply], timeout: float) -> None:
    if not answer.done():
        answer.set_exception(DeadlineError(f"no answer in {timeout:g} s", "ask again, ask for less, or allow more time"))


def _start(opening: Opening, batch: int, slowly: bool) -> tuple[Any, socket.socket]:
    """A process, and the server's end of the pipe to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = _CONTEXT.Process(target=release_process.main, args=(theirs, opening, batch, slowly), daemon=True)
        process.start()
    ours.setblocking(False)
    atexit.register(process.kill)  # it does not heed the signal that multiprocessing sends at the end
    return process, ours


def _end(process: Any) -> None:
    process.join(_GRACE)
    if process.is_alive():
        process.kill()
        process.join(_GRACE)
    atexit.unregister(process.kill)
    process.close()
