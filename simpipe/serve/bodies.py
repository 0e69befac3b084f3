"""Bodies of requests, read within limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from simpipe.serve.refusals import RefusedError

Receive = Callable[[], Awaitable[Any]]
Headers = Iterable[tuple[bytes, bytes]]
_DRAINED = 64 << 20  # bytes of a refused body that are read all the same: who is still sending would not see the answer
_HELD = 8  # largest bodies that may be held at the same time


class GoneError(Exception):
    """The client went away, or was too slow, before its request was whole."""


class Bodies:
    """Reads bodies of at most `limit` bytes each; of all requests together no more than a few times that is held.

    Args:
      limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._most = _HELD * limit
        self._held = 0

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """The body of a request, JSON by its headers.

        Raises:
          RefusedError: too large (413), not JSON or packed (415), or others hold too much at the moment (429).
          GoneError: it did not come whole.
        """
        length = 0
        for name, value in headers:
            if name == b"content-length":
                length = int(value)  # the parser has let digits through only
            elif name == b"content-type" and not _is_json(value):
                await self._drain(receive, length)
                raise RefusedError(415, "content_type", "the body is no application/json", "send content-type: application/json")
            elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
                await self._drain(receive, length)
                raise RefusedError(415, "content_encoding", "the body is packed", "send plain JSON, without content-encoding")
        if length > self._limit:
            await self._drain(receive, length)
            raise self._too_large()
        message = await receive()
        if message["type"] != "http.request":
            raise GoneError
        if not message.get("more_body"):  # as nearly all are
            body = message.get("body", b"")
            if len(body) > self._limit:
                raise self._too_large()
            return body
        return await self._rest(message, receive)

    async def _rest(self, message: Any, receive: Receive) -> bytes:
        parts, size = [], 0
        try:
            while True:
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                self._held += len(part)
                more = message.get("more_body", False)
                if size > self._limit:
                    parts.clear()
                    if more:
                        await self._drain(receive, 0)
                    raise self._too_large()
                if self._held > self._most:
                    parts.clear()
                    raise RefusedError(
                        429, "busy", "too many large requests at the same time", "ask again", {"retry-after": "1", **_CLOSE}
                    )
                if not more:
                    return b"".join(parts)
                message = await receive()
                if message["type"] != "http.request":
                    raise GoneError
        finally:
            self._held -= size

    async def _drain(self, receive: Receive, length: int) -> None:
        """Reads a body that is refused, unless it says that it is very large."""
        size = 0
        while length <= _DRAINED and size <= _DRAINED:
            message = await receive()
            if message["type"] != "http.request":
                raise GoneError
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                return

    def _too_large(self) -> RefusedError:
        cure = f"send at most {self._limit} bytes a request (serve.max_body_bytes)"
        return RefusedError(413, "too_large", f"the body has more than {self._limit} bytes", cure, _CLOSE)


_CLOSE = {"connection": "close"}  # what follows on the connection may be the rest of the body


def _is_json(content_type: bytes) -> bool:
    kind = content_type.split(b";", 1)[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
