"""A transport that sends an answer's head together with its body: one system call less, a quarter of a small answer's cost."""

from __future__ import annotations

import asyncio
from typing import Any

_HEAD = b"HTTP/1.1 "


class WholeWrites:
    """Another transport, of which a write that begins an answer waits for the next one, or for the loop's next turn.

    Args:
      transport: of the connection. loop: that it lives on.
    """

    __slots__ = ("_held", "_loop", "_transport", "get_write_buffer_size", "is_closing")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_write_buffer_size = transport.get_write_buffer_size

    def write(self, data: bytes) -> None:
        held = self._held
        if self.is_closing():  # uvloop would raise
            self._held = None
        elif held is not None:
            self._held = None
            self._transport.write(held + data)
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
