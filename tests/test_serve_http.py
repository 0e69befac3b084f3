"""All routes of the server, its limits and its refusals, without a network."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from release_maker import RELEASE
from serve_fakes import DIM, ITEMS, PNG, FakeEngine, app_of, call, make_root

from simpipe.errors import IncompatibleError, QueryError, ReleaseError
from simpipe.serve.access_log import AccessLog
from simpipe.serve.errors import DeadlineError, NotReadyError, QueueFullError
from simpipe.serve.front import Front

_VECTOR = [0.1] * DIM


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FakeEngine:
    return FakeEngine(make_root(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="module")
def app(engine: FakeEngine) -> Front:
    return app_of(engine, max_body_bytes=20_000, max_k=50, max_queries=64)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The error of an answer, after its shape was checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"code", "message", "cure"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    return body["error"]


# --- answers -----------------------------------------------------------------------------------------------------------


def test_lookup_by_vectors_is_the_searchers(engine: FakeEngine, app: Front) -> None:
    vectors = engine.searcher.vectors_of(["i3", "i8"]) + np.float32(0.01)
    found = call(app, "POST", "/v1/lookup", json={"vectors": vectors.tolist(), "k": 4, "names": ["a", "b"]}).json()
    neighbors = engine.searcher.lookup(vectors, 4)
    assert (found["release"], found["distance"]) == (RELEASE, "euclidean")
    assert [result["query"] for result in found["results"]] == ["a", "b"]
    for row, result in enumerate(found["results"]):
        assert [near["id"] for near in result["neighbors"]] == neighbors.ids[row].tolist()
        assert np.float32([near["distance"] for near in result["neighbors"]]).tolist() == neighbors.distances[row].tolist()
        assert [near["rank"] for near in result["neighbors"]] == [1, 2, 3, 4]


def test_an_item_finds_itself_in_lookup_and_not_in_match(app: Front) -> None:
    found = call(app, "POST", "/v1/lookup", json={"ids": ["i3"], "k": 2, "metadata": True}).json()["results"][0]
    assert (found["query"], found["neighbors"][0]["id"], found["neighbors"][0]["number"]) == ("i3", "i3", 3)
    matched = call(app, "POST", "/v1/match", json={"ids": ["i3"], "k": 2}).json()["results"][0]
    assert "i3" not in [near["id"] for near in matched["neighbors"]]
    assert matched["match"]["cutpoint"] == "optimal"


def test_images_go_through_the_encoder_of_the_release_that_answers(engine: FakeEngine, app: Front) -> None:
    image = base64.b64encode(PNG + b"i12").decode()
    found = call(app, "POST", "/v1/lookup", json={"images": [image], "k": 1}).json()["results"][0]
    assert (found["query"], found["neighbors"][0]["id"]) == ("row 0", "i12")
    assert engine.asked[-1][1] == RELEASE  # by name: the live one may have changed meanwhile
    bad = base64.b64encode(b"GIF89a").decode()
    refused(call(app, "POST", "/v1/lookup", json={"images": [bad]}), 400, "bad_query")
    refused(call(app, "POST", "/v1/lookup", json={"images": ["data:image/png;base64,AAAA"]}), 422, "schema")
    refused(call(app_of(engine, pictures=False), "POST", "/v1/lookup", json={"images": [image]}), 400, "incompatible")


def test_items_release_releases_map_and_pictures(app: Front) -> None:
    item = call(app, "GET", "/v1/items/i5").json()
    assert (item["release"], item["id"], item["label"], item["metadata"]) == (RELEASE, "i5", "l0", {"number": 5})
    some = call(app, "GET", "/v1/items?limit=7&label=l2").json()["items"]
    assert len(some) == 7
    assert {each["label"] for each in some} == {"l2"}
    about = call(app, "GET", "/v1/release").json()
    assert (about["release"], about["items"], about["dim"], about["metadata"]) == (RELEASE, ITEMS, DIM, ["number"])
    assert call(app, "GET", f"/v1/release?release={RELEASE}").json() == about
    assert [each["release"] for each in call(app, "GET", "/v1/releases").json()["releases"]] == [RELEASE]
    assert call(app, "GET", "/v1/map").json()["ids"] == ["i1"]
    picture = call(app, "GET", "/v1/items/i5/picture")
    assert (picture.content, picture.headers["content-type"]) == (PNG + b"i5", "image/png")
    refused(call(app, "GET", "/v1/items/i0/picture"), 404, "not_found")
    refused(call(app, "GET", "/v1/items/nobody"), 404, "not_found")
    refused(call(app, "GET", "/v1/items/" + "x" * 2049), 404, "not_found")
    refused(call(app, "GET", "/v1/release?release=nobody"), 404, "not_found")
    refused(call(app, "GET", "/v1/items?limit=0"), 422, "schema")


def test_state_and_metrics(engine: FakeEngine, app: Front) -> None:
    assert call(app, "GET", "/healthz").json() == {"status": "ok"}
    assert call(app, "GET", "/readyz").json()["release"] == RELEASE
    engine.ready = False
    try:
        assert call(app, "GET", "/healthz").status_code == 200
        answer = call(app, "GET", "/readyz")
        refused(answer, 503, "not_ready")
        assert answer.headers["retry-after"] == "1"
    finally:
        engine.ready = True
    fresh = app_of(engine)
    call(fresh, "POST", "/v1/lookup", json={"vectors": [_VECTOR] * 3})
    call(fresh, "POST", "/v1/lookup", json={"vectors": [[1.0]]})
    shown = call(fresh, "GET", "/metrics").text
    for line in (
        'simpipe_request_seconds_count{status="200",verb="lookup"} 1.0',
        'simpipe_request_seconds_count{status="400",verb="lookup"} 1.0',
        'simpipe_queries_total{verb="lookup"} 3.0',
        "simpipe_batch_queries_sum 3.0",
        "simpipe_probes_sum 2.0",
        'simpipe_refused_total{code="incompatible"} 1.0',
        "simpipe_queued_queries 7.0",
        "simpipe_swaps_total 2.0",
        "simpipe_cache_bytes 4096.0",
        f'simpipe_release_info{{release="{RELEASE}"}} 1.0',
    ):
        assert line in shown.splitlines()


def test_the_page_comes_from_memory_with_a_policy_and_an_etag(app: Front) -> None:
    page = call(app, "GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    again = call(app, "GET", "/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert call(app, "GET", "/components.css").headers["content-type"].startswith("text/css")
    refused(call(app, "GET", "/front.py"), 404, "not_found")


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b'{"vectors": [[NaN]]}', 400, "bad_json"),
        (b'{"vectors": [[Infinity]]}', 400, "bad_json"),
        (b'{"ids": ["\xff"]}', 400, "bad_json"),
        ('{"ids": ["i1"]}'.encode("utf-16"), 400, "bad_json"),
        (b'{"ids": ["\\ud800"]}', 400, "bad_json"),
        (b"[" * 5000 + b"]" * 5000, 400, "bad_json"),
        (b"[]", 422, "schema"),
        (b"null", 422, "schema"),
        (b"{}", 422, "schema"),
        (b'{"ids": []}', 422, "schema"),
        (b'{"ids": [1]}', 422, "schema"),
        (b'{"ids": "i1"}', 422, "schema"),
        (b'{"ids": ["i1"], "vectors": [[1]]}', 422, "schema"),
        (b'{"ids": ["i1"], "names": ["a"]}', 422, "schema"),
        (b'{"ids": ["i1"], "nobody": 1}', 422, "schema"),
        (b'{"ids": ["i1"], "k": 0}', 422, "schema"),
        (b'{"ids": ["i1"], "k": true}', 422, "schema"),
        (b'{"ids": ["i1"], "k": 51}', 422, "schema"),
        (b'{"ids": ["i1"], "k": 100000000000000000000000000}', 422, "schema"),
        (b'{"ids": ["i1"], "timeout": 0}', 422, "schema"),
        (b'{"ids": ["i1"], "target_recall": 1.5}', 422, "schema"),
        (b'{"ids": ["i1"], "filter": ' + b'{"a":' * 30 + b"1" + b"}" * 31, 422, "schema"),
        (b'{"ids": ["nobody"]}', 400, "bad_query"),
        (b'{"ids": ["i1"], "release": "nobody"}', 404, "not_found"),
        (b'{"ids": ["i1"], "cutpoint": "nobody"}', 400, "bad_query"),
        (json.dumps({"ids": ["i1", "i" * 2049]}).encode(), 422, "schema"),
        (json.dumps({"ids": ["i1"] * 65}).encode(), 413, "too_many_queries"),
        (json.dumps({"ids": ["i" * 20_000]}).encode(), 413, "too_large"),
    ],
)
def test_bodies_that_are_refused(app: Front, body: bytes, status: int, code: str) -> None:
    refused(call(app, "POST", "/v1/lookup", content=body, headers={"content-type": "application/json"}), status, code)


@pytest.mark.parametrize(
    ("vectors", "status"),
    [
        ([], 422),
        ([[]], 422),
        ([_VECTOR, _VECTOR[:-1]], 422),
        ([_VECTOR, "x"], 422),
        ([[None] * DIM], 422),
        ([["0.1"] * DIM], 422),
        ([[True] * DIM], 422),
        ([[True, *_VECTOR[1:]]], 422),
        ([[{}] * DIM], 422),
        ([[_VECTOR] * DIM], 422),
        ([[[1.0]] + [[1.0, 2.0]] * (DIM - 1)], 422),
        ([[1e39] * DIM], 400),
        ([[10**400] * DIM], 400),
        ([_VECTOR[:-1]], 400),
    ],
)
def test_vectors_that_are_refused(app: Front, vectors: Any, status: int) -> None:
    answer = call(app, "POST", "/v1/lookup", content=json.dumps({"vectors": vectors}).encode())
    assert answer.status_code == status, answer.text
    refused(answer, status, answer.json()["error"]["code"])


def test_headers_that_are_refused(app: Front) -> None:
    body = b'{"ids": ["i1"]}'
    for headers, status, code in (
        ({"content-type": "text/plain"}, 415, "content_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415, "content_encoding"),
        ({"content-type": "application/json; charset=utf-8"}, 200, ""),
        ({"content-type": "application/problem+json"}, 200, ""),
    ):
        answer = call(app, "POST", "/v1/lookup", content=body, headers=headers)
        assert answer.status_code == 200 if status == 200 else refused(answer, status, code)


def test_a_body_in_pieces_is_held_to_the_limit_too(app: Front) -> None:
    async def pieces(size: int) -> Any:
        yield b'{"ids": ["i1"], "names": null'
        for _ in range(size // 1000):
            yield b" " * 1000
        yield b"}"

    assert call(app, "POST", "/v1/lookup", content=pieces(10_000)).status_code == 200
    refused(call(app, "POST", "/v1/lookup", content=pieces(30_000)), 413, "too_large")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError("full", "later"), 429, "queue_full"),
        (NotReadyError("not yet", "later"), 503, "not_ready"),
        (DeadlineError("late", "again"), 504, "deadline"),
        (QueryError("bad", "mend"), 400, "bad_query"),
        (IncompatibleError("other dim", "mend"), 400, "incompatible"),
        (ReleaseError("not calibrated", "calibrate"), 400, "refused"),
        (RuntimeError("a secret of the inside"), 500, "internal"),
        (QueryError("x" * 10**6, "mend"), 400, "bad_query"),
    ],
)
@pytest.mark.parametrize("url", ["/v1/lookup", "/v1/items"])
def test_errors_of_the_engine(engine: FakeEngine, error: Exception, status: int, code: str, url: str) -> None:
    app = app_of(engine)
    engine.fails = error
    try:
        answer = call(app, "POST" if url == "/v1/lookup" else "GET", url, **({"json": {"ids": ["i1"]}} if "look" in url else {}))
        said = refused(answer, status, code)
    finally:
        engine.fails = None
    assert "secret" not in answer.text
    assert len(said["message"]) < 3000
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_paths_and_methods_that_are_not_there(app: Front) -> None:
    refused(call(app, "GET", "/nothing"), 404, "not_found")
    refused(call(app, "GET", "/v1/items/"), 404, "not_found")
    for method, url in (("GET", "/v1/lookup"), ("DELETE", "/v1/release"), ("PUT", "/v1/match"), ("POST", "/")):
        answer = call(app, method, url)
        refused(answer, 405, "method")
        assert answer.headers["allow"]


# --- ids, the log and what is asked ------------------------------------------------------------------------------------


def test_request_ids_are_echoed_where_they_are_plain(app: Front) -> None:
    def own(given: str) -> str:
        return call(app, "GET", "/healthz", headers={b"x-request-id": given.encode()}).headers["x-request-id"]

    assert own("job-7:3.a_B") == "job-7:3.a_B"
    for given in ("a b", "x" * 129, "é", ""):
        assert own(given) not in (given, "")


def test_a_line_of_the_log_a_request(engine: FakeEngine) -> None:
    stream = io.BytesIO()
    log = AccessLog(stream=stream)
    app = app_of(engine, log=log)
    call(app, "POST", "/v1/lookup", json={"vectors": [_VECTOR] * 2}, headers={"x-request-id": "one"})
    call(app, "GET", "/nothing\udcff?secret=1".encode("utf-8", "replace").decode())
    log.close()
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    known = {"id": "one", "method": "POST", "path": "/v1/lookup", "status": 200, "verb": "lookup", "queries": 2, "batch": 2}
    assert {**first, **known, "release": RELEASE, "client": "127.0.0.1"} == first
    assert first["ms"] > 0
    assert first["time"].endswith("Z")
    assert (second["status"], second["error"]) == (404, "not_found")
    assert "secret" not in json.dumps(second)


@pytest.mark.parametrize(
    ("request_", "options", "timeout"),
    [
        ({}, {"target_recall": 0.9}, 10.0),
        ({"target_recall": 0.95, "timeout": 3}, {"target_recall": 0.95}, 3.0),
        ({"exact": True, "timeout": 1000}, {"exact": True}, 10.0),
        ({"metadata": ["number"], "where": None}, {"target_recall": 0.9, "metadata": ["number"]}, 10.0),
    ],
)
def test_what_a_request_leaves_out_is_as_the_server_is_set(
    engine: FakeEngine, request_: dict[str, Any], options: dict[str, Any], timeout: float
) -> None:
    engine.fails = QueryError("only looked at")
    try:
        call(app_of(engine, target_recall=0.9), "POST", "/v1/lookup", json={"ids": ["i1"], **request_})
    finally:
        engine.fails = None
    job, release, waited = engine.asked[-1]
    assert (dict(job.options), release, waited) == (options, None, timeout)


def test_both_ways_to_a_query_answer_alike(app: Front) -> None:
    """Over HTTP the framework is passed by; whoever mounts it gets the same."""

    for body in ({"ids": ["i1"]}, {"ids": []}):
        direct = call(app, "POST", "/v1/lookup", json=body)
        routed = call(Front(app.app, {}, app.log, app.metrics), "POST", "/v1/lookup", json=body)
        assert direct.status_code == routed.status_code
        assert {**direct.json(), "request_id": ""} == {**routed.json(), "request_id": ""}
