"""Requests of a client: sent again where the server says later, and its refusals as the errors that the library raises."""

from __future__ import annotations

import email.utils
import random
import time
from typing import Any

import httpx
import orjson

from simpipe.errors import IncompatibleError, QueryError, SimpipeError
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError, QueueFullError

_BY_CODE: dict[str, type[SimpipeError]] = {
    "queue_full": QueueFullError,
    "not_ready": NotReadyError,
    "deadline": DeadlineError,
    "not_found": NotFoundError,
    "incompatible": IncompatibleError,
    "refused": SimpipeError,
    "internal": SimpipeError,
}
_BY_STATUS: dict[int, type[SimpipeError]] = {429: QueueFullError, 503: NotReadyError, 504: DeadlineError, 404: NotFoundError}
TOO_LARGE = 413
_LATER = (429, 503)
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds
_LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)  # a connection that ended before the answer


class TooLargeError(QueryError):
    """The server takes less in one request."""


class Http:
    """One server.

    Args:
      url: its address. timeout: seconds of one request. patience: seconds that a call waits in all while the server is busy.
      transport: in the place of the network, for tests.
    """

    def __init__(self, url: str, *, timeout: float, patience: float, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        try:
            known = httpx.URL(self.url)
        except (httpx.InvalidURL, TypeError) as error:
            raise QueryError(f"{url}: no address of a server ({error})", "give one such as http://127.0.0.1:8080") from None
        if known.scheme not in ("http", "https") or not known.host:
            raise QueryError(f"{url}: no address of a server", "give one such as http://127.0.0.1:8080")
        headers = {"accept": "application/json", "user-agent": "simpipe"}
        self._client = httpx.Client(timeout=timeout, transport=transport, headers=headers)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a JSON object; arrays in it go as lists.

        Raises:
          SimpipeError: see `send`.
        """
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._json(self.send("POST", path, content=content, headers={"content-type": "application/json"}))

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """The JSON of a path; what is None is not asked for."""
        return self._json(self.send("GET", path, params={name: value for name, value in params.items() if value is not None}))

    def send(self, method: str, path: str, **how: Any) -> httpx.Response:
        """A good answer; asks again, ever less often, while the server says later (429, 503) or connections are lost.

        Raises:
          QueueFullError, NotReadyError, DeadlineError, NotFoundError, IncompatibleError, QueryError, SimpipeError: what the
            server says, with its message and cure.
          NotReadyError: nobody answers there, or not in time.
        """
        until, wait = time.monotonic() + self._patience, _FIRST_WAIT
        while True:
            rest = wait * random.uniform(0.5, 1.0)  # not all clients at the same time
            try:
                answer = self._client.request(method, self.url + path, **how)
            except _LOST as error:
                refused: SimpipeError = NotReadyError(f"{self.url}: the connection was lost ({_said(error)})", "ask again")
            except httpx.TimeoutException:
                raise DeadlineError(f"{self.url}: no answer in time", "ask for less at once, or allow a longer timeout") from None
            except httpx.HTTPError as error:
                cure = "start `simpipe serve`, or check the address"
                raise NotReadyError(f"{self.url}: no server can be reached ({_said(error)})", cure) from None
            else:
                if answer.is_success:
                    return answer
                refused = self._refusal(answer)
                if answer.status_code not in _LATER:
                    raise refused
                rest = _retry_after(answer) or rest
            if time.monotonic() + rest > until:
                raise refused
            time.sleep(rest)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            found = orjson.loads(answer.content)
        except orjson.JSONDecodeError:  # another server, or a proxy's page
            found = None
        if not isinstance(found, dict):
            raise self._stranger(answer)
        return found

    def _refusal(self, answer: httpx.Response) -> SimpipeError:
        """The error that an answer tells of."""
        try:
            about = orjson.loads(answer.content)["error"]
            code, message, cure = str(about["code"]), str(about["message"]), str(about["cure"])
        except (orjson.JSONDecodeError, KeyError, TypeError):  # a proxy's page: its status has to do
            kind = _BY_STATUS.get(answer.status_code)
            return self._stranger(answer) if kind in (None, NotFoundError) else kind(*self._stranger(answer).args)
        if answer.status_code == TOO_LARGE:
            return TooLargeError(message, cure)
        kind = _BY_CODE.get(code) or _BY_STATUS.get(answer.status_code, QueryError)
        return kind(message, cure)

    def _stranger(self, answer: httpx.Response) -> SimpipeError:
        cure = "check the address: it is that of `simpipe serve`, without a path"
        return SimpipeError(f"{self.url}: answers {answer.status_code} as no server of simpipe does", cure)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, given as such or as a date; None where it does not say."""
    text = answer.headers.get("retry-after", "")
    try:
        return max(float(text), 0.0)
    except ValueError:  # a date, then
        pass
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):  # nothing, or what nobody can read
        return None
