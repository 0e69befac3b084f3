"""A line of JSON a request, on stderr; gathered, so that a request does not wait for a slow reader."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

_AFTER = 0.1  # seconds until lines are written
_MOST = 10_000  # lines that may wait


class AccessLog:
    """Writes what it is given; nothing where `on` is false.

    Args:
      on: whether it writes. stream: of bytes; None: stderr.
    """

    def __init__(self, on: bool = True, stream: BinaryIO | None = None) -> None:
        self.on = on
        self._stream = stream
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, record: dict[str, Any]) -> None:
        """A line; `time` is put before it. What is None is left out."""
        now = datetime.fromtimestamp(time.time(), UTC)
        said = {"time": now, **{name: value for name, value in record.items() if value is not None}}
        self._lines.append(orjson.dumps(said, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))
        if len(self._lines) >= _MOST:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AFTER, self.flush)

    def flush(self) -> None:
        """Writes what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            lines, self._lines = b"".join(self._lines), []
            stream = sys.stderr.buffer if self._stream is None else self._stream
            stream.write(lines)
            stream.flush()
