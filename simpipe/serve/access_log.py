"""A line of JSON a request, on stderr; gathered, and written by a thread, so that no request waits for who reads them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

_AFTER = 0.1  # seconds until lines are written
_MOST = 50_000  # lines that may wait; further ones are counted, not kept
_PIECE = 4096  # bytes that a pipe takes whole, so that lines of several processes do not mix
_LAST = 2.0  # seconds that the end waits for a slow reader
_HOW = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


class AccessLog:
    """Writes what it is given; requests only where `on`.

    Args:
      on: whether requests are told. stream: of bytes; None: stderr.
    """

    def __init__(self, on: bool = True, stream: BinaryIO | None = None) -> None:
        self.on = on
        self._stream = stream
        self._lines: list[bytes] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._writing: Future[None] | None = None

    def write(self, record: dict[str, Any]) -> None:
        """A line; `time` is put before it, and what is None left out."""
        if len(self._lines) >= _MOST:
            self._dropped += 1
            return
        said = {"time": datetime.fromtimestamp(time.time(), UTC)}
        said |= {name: value for name, value in record.items() if value is not None}
        try:
            self._lines.append(orjson.dumps(said, option=_HOW))
        except TypeError:  # text that is no Unicode, such as a path of bytes
            plain = {name: str(value).encode("utf-8", "replace").decode() for name, value in said.items()}
            self._lines.append(orjson.dumps(plain, option=_HOW))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AFTER, self._hand_over)

    def _hand_over(self) -> None:
        """Gives the thread what waits, once it is done with what it has."""
        self._timer = None
        if self._writing is not None and not self._writing.done():
            self._timer = asyncio.get_running_loop().call_later(_AFTER, self._hand_over)
            return
        if self._dropped:
            self._lines.append(orjson.dumps({"time": datetime.now(UTC), "lines_dropped": self._dropped}, option=_HOW))
            self._dropped = 0
        lines, self._lines = self._lines, []
        self._writing = self._thread.submit(self._put, lines)

    def close(self) -> None:
        """Writes what waits, unless nobody reads it."""
        if self._timer is not None:
            self._timer.cancel()
        last = self._thread.submit(self._put, self._lines)
        self._lines = []
        with contextlib.suppress(TimeoutError):
            last.result(_LAST)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _put(self, lines: list[bytes]) -> None:
        stream = sys.stderr.buffer if self._stream is None else self._stream
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            for piece in _pieces(lines):
                stream.write(piece)
                stream.flush()


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Whole lines together, where they fit."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > _PIECE:
            yield b"".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield b"".join(held)
