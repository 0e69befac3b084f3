"""The process of one open release: opens it, says so, and answers jobs until its pipe ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from simpipe.errors import SimpipeError
from simpipe.index.searcher import Searcher
from simpipe.serve.answers import Answer, answer
from simpipe.serve.errors import DeadlineError
from simpipe.serve.frames import Frames, frame, job_of
from simpipe.serve.freed import give_back
from simpipe.serve.jobs import Job
from simpipe.serve.opening import Opening, open_whole
from simpipe.serve.pacing import stopping_itself
from simpipe.serve.pictures_wire import error_of

_READ = 1 << 20
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_YOUNG = 20_000  # objects until the collector looks: answers make many that live for milliseconds
_FEW = 16  # neighbors up to which a query counts once
_MUCH = 1024  # queries that wait from which on a second thread takes some
_TRIM_AFTER = 0.5  # seconds without a job until freed memory goes back


@dataclass(frozen=True)
class _Waiting:
    number: int
    until: float
    job: Job


class _Inbox:
    """Jobs that wait. One thread puts, several take."""

    def __init__(self) -> None:
        self._jobs: deque[_Waiting] = deque()
        self._queries = 0
        self._news = threading.Condition()
        self._ended = False

    def put(self, jobs: list[_Waiting]) -> None:
        with self._news:
            self._jobs.extend(jobs)
            self._queries += sum(_weight(each.job) for each in jobs)
            self._news.notify_all()

    def end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def take(self, queries: int, timeout: float | None, least: int = 1) -> list[_Waiting] | None:
        """What waits, up to so many queries (one job in any case), once `least` wait; empty after `timeout` seconds, None at the
        end."""
        with self._news:
            if not self._news.wait_for(lambda: self._queries >= least or self._ended, timeout):
                return []
            if not self._jobs:
                return None
            taken = [self._jobs.popleft()]
            count = _weight(taken[0].job)
            while self._jobs and count + _weight(self._jobs[0].job) <= queries:
                taken.append(self._jobs.popleft())
                count += _weight(taken[-1].job)
            self._queries -= count
            return taken


def _weight(job: Job) -> int:
    """Its queries (1 at least); those that ask for many neighbors count several times: answers take most of the memory."""
    return job.queries * max(1, job.k // _FEW)


def main(link: socket.socket, opening: Opening, batch: int, slowly: bool) -> None:
    """Entry point of the process.

    Args:
      link: to the server. opening: what is opened. batch: queries that are searched together, at most.
      slowly: opening may not take much from others; the server has to let it go on, see `pacing`.
    """
    _settle()
    try:
        try:
            with stopping_itself() if slowly else contextlib.nullcontext():
                searcher, about = open_whole(opening)
        except SimpipeError as error:
            link.sendall(frame({"error": error_of(error)}))
            return
        except Exception as error:  # a library's: the server is told, and goes on with what answers
            traceback.print_exc()
            said = {"kind": "ReleaseError", "message": f"release {opening.release}: {type(error).__name__}: {error}", "cure": ""}
            link.sendall(frame({"error": said}))
            return
        gc.collect()
        gc.freeze()
        link.sendall(frame({"about": about, "cache_bytes": searcher.cached_bytes}))
        _serve(link, searcher, batch)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has gone
    except Exception:  # a fault of ours: the server sees the pipe end, and starts another process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)  # nobody waits for what is still being made


def _settle() -> None:
    """Ends with the server, and not by the signals that a terminal or a supervisor sends to all: it ends the pipe.

    Also where it is stopped at that moment: the process that it was forked from ends with the server, and this one with that. So
    it may not hold the pipe by which that one sees that somebody still wants it.
    """
    with contextlib.suppress(AttributeError, TypeError, OSError):
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.set_threshold(_YOUNG, 20, 100)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


class _Lane:
    """A thread that answers what waits for it.

    Args:
      link: to the server. lock: of who sends. searcher: that is asked. batch: queries that are searched together, at most.
      helped: another lane whose inbox it shares, and takes from only where much waits.
    """

    def __init__(
        self, link: socket.socket, lock: threading.Lock, searcher: Searcher, batch: int, *, helped: _Lane | None = None
    ) -> None:
        self.inbox = _Inbox() if helped is None else helped.inbox
        self._link, self._lock, self._searcher, self._batch = link, lock, searcher, batch
        self._least = 1 if helped is None else _MUCH
        self._told = searcher.cached_bytes

    def run(self) -> None:
        """Answers until the pipe ends."""
        dirty = False
        while (waiting := self.inbox.take(self._batch, _TRIM_AFTER if dirty else None, self._least)) is not None:
            if waiting:
                self._answer(waiting)
            else:
                _give_back()
            dirty = bool(waiting)

    def _answer(self, waiting: list[_Waiting]) -> None:
        now = time.monotonic()
        late = [each for each in waiting if each.until <= now]
        waiting = [each for each in waiting if each.until > now]
        sent = [_reply(each, Answer(None, DeadlineError("it waited too long", "ask again, or allow more time"))) for each in late]
        for each, found in zip(waiting, answer(self._searcher, [each.job for each in waiting]), strict=True):
            sent.append(_reply(each, found))
        held = self._searcher.cached_bytes
        if held != self._told:
            self._told = held
            sent.append(frame({"cache_bytes": held}))
        with self._lock:
            self._link.sendall(b"".join(sent))


def _serve(link: socket.socket, searcher: Searcher, batch: int) -> None:
    """Two lanes: what reads whole columns or partitions does not keep quick jobs waiting.

    A third one helps with large blocks: while one is routed or written as JSON, which takes one processor, the other is searched.
    """
    lock = threading.Lock()
    quick, slow = _Lane(link, lock, searcher, batch), _Lane(link, lock, searcher, batch)
    threading.Thread(target=_receive, args=(link, quick.inbox, slow.inbox), daemon=True).start()
    for lane in (slow, _Lane(link, lock, searcher, batch, helped=quick)):
        threading.Thread(target=lane.run, daemon=True).start()
    quick.run()


def _receive(link: socket.socket, quick: _Inbox, slow: _Inbox) -> None:
    frames, space = Frames(), memoryview(bytearray(_READ))
    with contextlib.suppress(OSError):
        while count := link.recv_into(space):
            found = [_Waiting(head["number"], head["until"], job_of(head, body)) for head, body in frames.feed(space[:count])]
            waits = [bool(each.job.options.get("exact") or each.job.options.get("filter")) for each in found]
            for inbox, wanted in ((quick, False), (slow, True)):
                if jobs := [each for each, long in zip(found, waits, strict=True) if long is wanted]:
                    inbox.put(jobs)
    quick.end()
    slow.end()


def _reply(waiting: _Waiting, found: Answer) -> bytes:
    head: dict[str, Any] = {"number": waiting.number}
    if found.body is not None:
        return frame({**head, "batch": found.batch, "probes": found.probes}, found.body)
    error = found.error
    if isinstance(error, SimpipeError):
        return frame({**head, "error": error_of(error)})
    assert error is not None
    traceback.print_exception(error)
    return frame({**head, "error": {"kind": "", "message": f"{type(error).__name__}: {error}", "cure": ""}})


def _give_back() -> None:
    """Lets the system have the memory that large answers took."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    give_back()
