"""Connections: uvicorn's protocol, with limits that it lacks on what a client may take, in time, bytes and number."""

from __future__ import annotations

import secrets
from collections.abc import Sized
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simpipe.serve.refusals import RefusedError, body_of
from simpipe.serve.whole_writes import WholeWrites

_MOST_HEAD = 64 << 10  # bytes of a request line and its headers
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class _OneByOne(FlowControl):
    """Reads on only once all pipelined requests that were read are answered."""

    def __init__(self, transport: Any, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """A connection that has to send a whole request within `read_seconds`, and to take its answer.

    `sweep` is called about every second. Class attributes are the server's limits; see `limited`.
    """

    read_seconds = 10.0
    most_connections = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: float | None = None  # when the request that is being received must be whole
        self._head = -1  # bytes of a head that is not whole, beside the piece in which it began; -1: there is none
        self._began = False  # whether a head began in the piece that is being read
        self._unsent = 0  # bytes that waited for the client to take them, when last swept
        self._stuck = 0.0  # since when they wait

    def connection_made(self, transport: Any) -> None:
        super().connection_made(WholeWrites(transport, self.loop))  # type: ignore[arg-type]  # a transport by duck type
        self.flow = _OneByOne(self.transport, self.pipeline)
        self._due = self.loop.time() + self.read_seconds
        if len(self.connections) > self.most_connections:
            self._refuse(503, "too_many_connections", f"more than {self.most_connections} connections", "ask again in a moment")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._began = 0, True
        if self._due is None:
            self._due = self.loop.time() + self.read_seconds

    def on_headers_complete(self) -> None:
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._due = None
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._began = False
        super().data_received(data)
        if self._due is not None and self._head >= 0 and not self._began:
            self._head += len(data)
            if self._head > _MOST_HEAD and not self.transport.is_closing():
                self._refuse(431, "head_too_large", f"the head has more than {_MOST_HEAD} bytes", "send fewer headers")

    def eof_received(self) -> Any:
        """A client that sends no more may still read: it gets the answers to whole requests."""
        if self._due is not None or self.cycle is None or self.cycle.response_complete:
            return None  # the transport closes itself
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses, as every other refusal."""
        self._refuse(400, "bad_http", "this is no HTTP/1.1 request", "see RFC 9112")

    def sweep(self, now: float) -> None:
        """Ends a connection that was too slow.

        Args:
          now: of the loop's clock.
        """
        if self.transport is None or self.transport.is_closing():
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            if now - self._stuck > self.read_seconds:
                self.transport.abort()
                return
        else:
            self._unsent, self._stuck = unsent, now
        if self.pipeline:  # reading is paused until the request before is answered
            self._due = None if self._due is None else now + self.read_seconds
        elif self._due is not None and now > self._due:
            text = f"the request was not whole after {self.read_seconds:g} s"
            if self._head < 0 and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()  # it has said nothing
            else:
                self._refuse(408, "too_slow", text, "send it faster (serve.read_seconds)")

    def _refuse(self, status: int, code: str, message: str, cure: str) -> None:
        """Answers without the application, where no answer has begun, and closes."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = body_of(RefusedError(status, code, message, cure), secrets.token_hex(8))
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application writes nothing more
            self.cycle.message_event.set()
        self._due = None
        self.transport.close()


def limited(*, read_seconds: float, most_connections: int) -> type[LimitedProtocol]:
    """A protocol with these limits."""
    limits = {"read_seconds": read_seconds, "most_connections": most_connections}
    return type("Protocol", (LimitedProtocol,), limits)
