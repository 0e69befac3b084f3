"""What a client does when a server is busy, gone, or no server of ours: scripted answers, and a clock that does not wait."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Sequence
from types import SimpleNamespace

import httpx
import pytest

import simpipe
from simpipe import client_http
from simpipe.errors import IncompatibleError, QueryError, SimpipeError
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError, QueueFullError

Step = httpx.Response | Exception
GOOD = httpx.Response(200, json={"release": "r"})


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 1000.0, []
        own = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep, time=time.time)
        monkeypatch.setattr(client_http, "time", own)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def refused(status: int, code: str, **headers: str) -> httpx.Response:
    about = {"error": {"code": code, "message": f"{code} it is", "cure": "mend it"}, "request_id": "1"}
    return httpx.Response(status, json=about, headers={name.replace("_", "-"): value for name, value in headers.items()})


def scripted(steps: Sequence[Step], **settings) -> simpipe.Client:
    """A client of a server that answers so, one step a request."""
    left = list(steps)

    def handle(request: httpx.Request) -> httpx.Response:
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    return simpipe.Client("http://simpipe.test/", transport=httpx.MockTransport(handle), **settings)


@pytest.mark.parametrize("lost", [httpx.RemoteProtocolError("gone"), httpx.ReadError(""), refused(503, "not_ready")])
def test_later_means_later(clock: Clock, lost: Step) -> None:
    client = scripted([refused(429, "queue_full"), lost, refused(429, "queue_full"), GOOD])
    assert client.release() == {"release": "r"}
    assert len(clock.slept) == 3
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(clock.slept)), "ever longer, not all alike"


def test_a_wait_that_the_server_names_is_kept(clock: Clock) -> None:
    date = email.utils.formatdate(time.time() + 8, usegmt=True)
    answers = [refused(429, "queue_full", retry_after="3"), refused(503, "not_ready", retry_after=date), GOOD]
    assert scripted(answers).release() == {"release": "r"}
    assert clock.slept[0] == 3
    assert 6 < clock.slept[1] <= 8


def test_patience_ends(clock: Clock) -> None:
    with pytest.raises(QueueFullError, match="queue_full it is") as caught:
        scripted([refused(429, "queue_full")] * 100, patience=4.0).release()
    assert caught.value.cure == "mend it"
    assert 2 < sum(clock.slept) <= 4
    assert max(clock.slept) <= 5
    with pytest.raises(NotReadyError):
        scripted([refused(503, "not_ready", retry_after="60")], patience=4.0).release()
    with pytest.raises(NotReadyError, match="the connection was lost"):
        scripted([httpx.ReadError("")] * 100, patience=4.0).release()


@pytest.mark.parametrize(
    ("step", "kind", "says"),
    [
        (refused(400, "incompatible"), IncompatibleError, "incompatible it is"),
        (refused(400, "bad_query"), QueryError, "bad_query it is"),
        (refused(422, "schema"), QueryError, "schema it is"),
        (refused(413, "too_large"), QueryError, "too_large it is"),
        (refused(404, "not_found"), NotFoundError, "not_found it is"),
        (refused(504, "deadline"), DeadlineError, "deadline it is"),
        (refused(500, "internal"), SimpipeError, "internal it is"),
        (httpx.Response(404, text="<html>"), SimpipeError, "answers 404 as no server of simpipe does"),
        (httpx.Response(200, text="<html>"), SimpipeError, "answers 200 as no server of simpipe does"),
        (httpx.Response(200, json=[1]), SimpipeError, "answers 200 as no server of simpipe does"),
        (httpx.Response(502, text="proxy"), SimpipeError, "answers 502 as no server of simpipe does"),
        (httpx.ReadTimeout("slow"), DeadlineError, "no answer in time"),
        (httpx.ConnectError("refused"), NotReadyError, "no server can be reached"),
    ],
)
def test_anything_else_is_told_at_once(clock: Clock, step: Step, kind: type[SimpipeError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        scripted([step]).release()
    assert type(caught.value) in (kind, client_http.TooLargeError)
    assert caught.value.cure
    assert clock.slept == []


def test_a_server_behind_a_proxy_that_refuses_for_it(clock: Clock) -> None:
    assert scripted([httpx.Response(503, text="proxy"), GOOD]).release() == {"release": "r"}
    with pytest.raises(NotReadyError, match="as no server of simpipe does"):
        scripted([httpx.Response(503, text="proxy")] * 100, patience=1.0).release()


@pytest.mark.parametrize("answer", [{}, {"results": [{}]}, {"release": "r", "results": 3}])
def test_an_answer_of_another_version(clock: Clock, answer: dict) -> None:
    for ask in (lambda client: client.lookup(ids=["a"]), lambda client: client.match(ids=["a"])):
        with pytest.raises(SimpipeError, match="not as expected"):
            ask(scripted([httpx.Response(200, json=answer)]))


@pytest.mark.parametrize("url", ["", "nonsense", "127.0.0.1:8080", "ftp://x", "http://", "http://[::"])
def test_no_address(url: str) -> None:
    with pytest.raises(QueryError, match="no address of a server"):
        simpipe.Client(url)


def test_nobody_listens() -> None:
    with simpipe.Client("http://127.0.0.1:1") as client, pytest.raises(NotReadyError, match="no server can be reached"):
        client.releases()
