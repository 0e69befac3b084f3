"""What surrounds every request: its id, its time, its line in the log, its counts, and an answer whatever happens."""

from __future__ import annotations

import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simpipe.serve.access_log import AccessLog
from simpipe.serve.bodies import GoneError
from simpipe.serve.metrics import Metrics, Seen
from simpipe.serve.refusals import body_of, refusal

Scope = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]
Hot = Callable[[Scope, Any, Seen], Awaitable[bytes]]

SEEN, REQUEST_ID, RAISED = "simpipe.seen", "simpipe.id", "simpipe.raised"  # where a scope holds them
GONE = 499  # status in the log of a request whose client went away
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_JSON = (b"content-type", b"application/json")
_PLAIN = (b"x-content-type-options", b"nosniff")
_LONGEST_PATH = 200  # characters in the log


@dataclass(frozen=True)
class Front:
    """An ASGI application around another one.

    Args:
      app: answers what is not `hot`. It may find `Seen` and the request's id in the scope.
      hot: POST paths that are answered without a router, since they are asked most: JSON, status 200.
      log, metrics: where requests are told.
    """

    app: Any
    hot: Mapping[str, Hot]
    log: AccessLog
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        own = given if given is not None and _ID.fullmatch(given) else secrets.token_hex(8).encode()
        seen, status, started = Seen(), 0, False
        scope[SEEN], scope[REQUEST_ID] = seen, own.decode()

        async def answer(message: Any) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", own), _PLAIN]
            await send(message)

        try:
            hot = self.hot.get(scope["path"]) if scope["method"] == "POST" else None
            if hot is None:
                await self.app(scope, receive, answer)
                if RAISED in scope:
                    raise scope[RAISED]
            else:
                body = await hot(scope, receive, seen)
                await answer(_start(200, len(body)))
                await send({"type": "http.response.body", "body": body})
        except GoneError:  # nobody is there to be answered
            status = GONE
        except Exception as error:  # whatever it is, it becomes an answer
            refused = refusal(error)
            seen.error = refused.code
            if refused.status >= 500 and refused.code == "internal":
                self._tell(error, own.decode())
            if started:  # half an answer is none: the connection is cut
                raise
            body = body_of(refused, own.decode())
            await answer(_start(refused.status, len(body), refused.headers))
            await send({"type": "http.response.body", "body": body})
        finally:
            seconds = time.perf_counter() - began
            self.metrics.answered(seen, status, seconds)
            if self.log.on:
                self._line(scope, own.decode(), status, seconds, seen)

    def _line(self, scope: Scope, own: str, status: int, seconds: float, seen: Seen) -> None:
        client = scope.get("client")
        self.log.write(
            {
                "id": own,
                "method": scope["method"],
                "path": scope["path"][:_LONGEST_PATH],
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "verb": seen.verb,
                "queries": seen.queries,
                "batch": seen.batch,
                "release": seen.release,
                "error": seen.error,
                "client": client[0] if client else None,
            }
        )

    def _tell(self, error: Exception, own: str) -> None:
        """An error that nobody expected, with where it arose, in the log whether or not requests are."""
        said = "".join(traceback.format_exception(error))
        self.log.write({"id": own, "error": "internal", "traceback": said})


@dataclass(frozen=True)
class Raised:
    """An ASGI middleware that hands errors to `Front`, before the framework answers them in its own way."""

    app: Any

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # whatever it is, `Front` answers
            scope[RAISED] = error


def _start(status: int, length: int, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    further = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [_JSON, (b"content-length", str(length).encode()), *further],
    }
