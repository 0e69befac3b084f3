"""Connections that are slow, silent, half-closed, garbage or too many, against a real server; overload; the end by a signal."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serve_fakes import DIM, make_root
from serve_process import WAIT, Served, answers_in, processes_of, read_all, request_of, start, stop

READ, LIMIT, CONNECTIONS = 1.0, 20_000, 24
_ASK = {"ids": ["i1"], "k": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"read_seconds": READ, "max_body_bytes": LIMIT, "max_connections": CONNECTIONS, "queue": 64}
    server = start(root, tmp_path_factory.mktemp("log") / "log", pictures=False, poll_seconds=0.2, **settings)
    yield server
    stop(server)


@pytest.fixture(autouse=True)
def still_answers(served: Served) -> Iterator[None]:
    """Whatever a test does, the server answers others after it."""
    yield
    if not served.ended:
        assert served.ask("POST", "/v1/lookup", _ASK)[0] == 200


def test_answers_over_one_connection(served: Served) -> None:
    with served.connect() as connection:
        for _ in range(3):
            connection.sendall(request_of("POST", "/v1/lookup", _ASK))
            (answer,) = answers_in(connection.recv(1 << 16))
            assert answer[0] == 200
            assert answer[1]["results"][0]["neighbors"][0]["id"] == "i1"


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    asked = [request_of("POST", "/v1/lookup", {"ids": [f"i{row}"], "k": 1}) for row in range(20)]
    with served.connect() as connection:
        connection.sendall(b"".join(asked) + request_of("GET", "/healthz", connection="close"))
        found = answers_in(read_all(connection))
    assert [status for status, _ in found] == [200] * 21
    assert [body["results"][0]["query"] for _, body in found[:-1]] == [f"i{row}" for row in range(20)]


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, 400),  # TLS
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost\r\n\r\n", 400),
        (b"POST /v1/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST /v1/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST /v1/lookup HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 500_000, 431),
        (b"GET /" + b"a" * 500_000, 431),
        (b"POST /v1/lookup HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (request_of("POST", "/v1/lookup", b" " * (LIMIT + 1), connection="close"), 413),
    ],
)
def test_garbage_and_too_much_is_refused_in_json(served: Served, garbage: bytes, status: int) -> None:
    with served.connect() as connection:
        connection.sendall(garbage)
        found = answers_in(read_all(connection))
    assert [each[0] for each in found] == [status]
    assert set(found[0][1]["error"]) == {"code", "message", "cure"}


def test_silent_and_slow_connections_go(served: Served) -> None:
    whole = request_of("POST", "/v1/lookup", _ASK)
    head = whole.index(b"\r\n\r\n") + 4
    began = time.monotonic()
    slow = {first: served.connect() for first in (0, 1, head - 2, head, head + 3)}
    for first, connection in slow.items():
        connection.sendall(whole[:first])
    stuck = served.connect()
    at = threading.Thread(target=_byte_by_byte, args=(stuck, whole))
    at.start()
    for first, connection in slow.items():
        statuses = [status for status, _ in answers_in(read_all(connection))]
        assert statuses == ([408] if first else [])
        connection.close()
    assert [status for status, _ in answers_in(read_all(stuck))] == [408]
    assert time.monotonic() - began > 0.9 * READ  # none before its time
    at.join()
    stuck.close()


def _byte_by_byte(connection: socket.socket, whole: bytes) -> None:
    try:
        for place in range(len(whole)):
            connection.sendall(whole[place : place + 1])
            time.sleep(0.05)
    except OSError:
        pass  # it was cut, as it should


def test_a_half_closed_connection_gets_its_answer_and_goes(served: Served) -> None:
    whole = request_of("POST", "/v1/lookup", _ASK)
    for sent, statuses in ((whole, [200]), (whole + whole, [200, 200]), (whole[:-3], []), (b"", [])):
        with served.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert [status for status, _ in answers_in(read_all(connection))] == statuses


def test_a_client_that_does_not_read_is_cut(served: Served) -> None:
    whole = request_of("GET", "/openapi.json")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((served.host, served.port))
        connection.settimeout(WAIT)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            _send_for_ever(connection, whole)
        assert time.monotonic() - began > 0.9 * READ


def _send_for_ever(connection: socket.socket, whole: bytes) -> None:
    while True:
        connection.sendall(whole)


def test_more_connections_than_allowed_hear_it(served: Served) -> None:
    held = [served.connect() for _ in range(CONNECTIONS)]
    for connection in held:
        connection.sendall(b"GET")
    with served.connect() as further:
        ((status, body),) = answers_in(read_all(further))
    assert (status, body["error"]["code"]) == (503, "too_many_connections")
    for connection in held:
        connection.close()
    until = time.monotonic() + WAIT
    while served.ask("GET", "/healthz")[0] != 200:
        assert time.monotonic() < until


def test_overload_is_refused_and_passes(served: Served) -> None:
    vectors = np.random.default_rng(0).normal(size=(64, DIM)).round(3).tolist()
    whole = request_of("POST", "/v1/lookup", {"vectors": vectors, "exact": True, "k": 50}, connection="close")
    seen: list[tuple[int, bytes]] = []
    for _ in range(20):
        connections = [served.connect() for _ in range(CONNECTIONS - 4)]
        for connection in connections:
            connection.sendall(whole)
        for connection in connections:
            data = read_all(connection)
            seen.append((int(data.split()[1]), data.lower()))
            connection.close()
        if {status for status, _ in seen} == {200, 429}:
            break
    assert {status for status, _ in seen} == {200, 429}
    assert all(b"retry-after: 1" in data for status, data in seen if status == 429)
    assert served.ask("POST", "/v1/lookup", {"vectors": vectors, "k": 3})[0] == 200


def test_names_of_releases_reach_no_file(served: Served) -> None:
    for name in ("..", "../..", "/etc", "gs://a/b", "live.json", "x%00y", "%2e%2e"):
        assert served.ask("GET", f"/v1/release?release={name}")[0] == 404


def test_the_end_by_a_signal_finishes_what_is_in_flight(served: Served) -> None:
    """The last test of this file: a request whose body is half here is answered, then nothing is left."""
    whole = request_of("POST", "/v1/lookup", _ASK)
    with served.connect() as connection, served.connect() as idle:
        idle.sendall(request_of("GET", "/healthz"))
        assert b"200 OK" in idle.recv(1 << 16)
        connection.sendall(whole[:-5])
        time.sleep(0.1)
        assert len(processes_of(served.process.pid)) > 1
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError):  # noqa: PT011  # refused, or cut
            served.ask("GET", "/healthz")
        connection.sendall(whole[-5:])
        ((status, body),) = answers_in(read_all(connection))
        assert (status, body["results"][0]["query"]) == (200, "i1")
        assert read_all(idle) == b""
    assert served.end() == 0
    lines = served.lines()
    assert not [line for line in lines if "traceback" in line]
    assert {line["status"] for line in lines} >= {200, 413, 429}
    assert {line.get("verb") for line in lines} >= {"lookup", "health", "release"}
