"""What a refused request is told: a status, a code, a message and a cure, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from simpipe.errors import IncompatibleError, QueryError, SimpipeError
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError, QueueFullError

_MOST_TEXT = 2000  # characters of a message: it may quote the request
_STATUS: tuple[tuple[type[SimpipeError], int, str], ...] = (
    (QueueFullError, 429, "queue_full"),
    (NotReadyError, 503, "not_ready"),
    (DeadlineError, 504, "deadline"),
    (NotFoundError, 404, "not_found"),
    (IncompatibleError, 400, "incompatible"),
    (QueryError, 400, "bad_query"),
    (SimpipeError, 400, "refused"),
)
_RETRY: Mapping[int, str] = {429: "1", 503: "1"}


class RefusedError(SimpipeError):
    """A request that HTTP itself refuses, before any release is asked.

    Args:
      status: of HTTP. code: one word for programs.
      headers: that the answer gets.
    """

    def __init__(self, status: int, code: str, message: str, cure: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, cure)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def refusal(error: Exception) -> RefusedError:
    """How an error is answered. What is nobody's to mend says nothing of the server's inside."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, SimpipeError):
        for kind, status, code in _STATUS:
            if isinstance(error, kind):
                headers = {"retry-after": _RETRY[status]} if status in _RETRY else None
                return RefusedError(status, code, error.message, error.cure, headers)
    return RefusedError(500, "internal", "the server failed on this request", "its log names the error by the request's id")


def body_of(refused: RefusedError, request_id: str) -> bytes:
    """The answer: `{"error": {"code", "message", "cure"}, "request_id"}`."""
    about: dict[str, Any] = {"code": refused.code, "message": _clean(refused.message), "cure": _clean(refused.cure)}
    return orjson.dumps({"error": about, "request_id": request_id})


def _clean(text: str) -> str:
    """Text that JSON can hold, of a bounded length."""
    if len(text) > _MOST_TEXT:
        text = text[:_MOST_TEXT] + "..."
    return text.encode("utf-8", "replace").decode("utf-8")
