"""The OpenAPI document is kept: drawn requests get answers of its shapes, and never a server's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from release_maker import RELEASE
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_fakes import DIM, FakeEngine, app_of, call, make_root

from simpipe.serve.front import Front

_CHECKS = (
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

_OPERATIONS = (
    *(("POST", "/v1/lookup"), ("POST", "/v1/match"), ("GET", "/v1/items"), ("GET", "/v1/items/{item}"), ("GET", "/v1/release")),
    *(("GET", "/v1/items/{item}/picture"), ("GET", "/v1/map")),
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Front:
    return app_of(FakeEngine(make_root(tmp_path_factory.mktemp("root"))), max_k=20, max_queries=64, max_body_bytes=1 << 20)


@pytest.fixture(scope="module")
def schema(app: Front) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("operation", _OPERATIONS, ids="-".join)
def test_drawn_requests_are_answered_as_the_document_says(schema: Any, operation: tuple[str, str], mode: Any) -> None:
    method, path = operation
    drawn = schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=25 if method == "POST" else 8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=drawn)
    def answered(case: Any) -> None:
        if method == "POST" and mode == schemathesis.GenerationMode.POSITIVE:
            case.body = _of_this_release(case.body)
        statuses.add(case.call_and_validate(checks=_CHECKS).status_code)

    statuses: set[int] = set()
    try:
        answered()
    except Unsatisfiable:  # it takes nothing that could be wrong
        assert mode == schemathesis.GenerationMode.NEGATIVE
    if method == "POST":
        assert (200 in statuses) == (mode == schemathesis.GenerationMode.POSITIVE)


def _of_this_release(body: dict[str, Any]) -> dict[str, Any]:
    """A drawn body with items, vectors and a cutpoint that the release has; what else names something is left out."""
    kept = {name: body[name] for name in ("k", "exact", "target_recall", "by_label", "timeout") if name in body}
    kept |= {"cutpoint": "optimal"} if body.get("cutpoint") is not None else {}
    kept |= {"metadata": bool(body["metadata"])} if "metadata" in body else {}
    if body.get("vectors"):
        return {**kept, "vectors": np.resize(np.linspace(-1, 1, 97), (len(body["vectors"]), DIM)).tolist()}
    return {**kept, "ids": [f"i{number}" for number in range(len(body.get("ids") or "x"))]}


def test_the_document_names_what_this_server_takes(app: Front) -> None:
    document = call(app, "GET", "/openapi.json").json()
    lookup = document["components"]["schemas"]["LookupRequest"]
    assert lookup["properties"]["k"]["maximum"] == 20
    assert {tuple(way["required"]) for way in lookup["oneOf"]} == {("vectors",), ("ids",), ("images",)}
    assert set(document["paths"]) == {
        *("/v1/lookup", "/v1/match", "/v1/items", "/v1/items/{item}", "/v1/items/{item}/picture", "/v1/release"),
        *("/v1/releases", "/v1/map", "/healthz", "/readyz", "/metrics"),
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            assert set(operation["responses"]) >= {"200", "400", "404", "422", "429", "503", "504"}


def test_the_documents_examples_are_answered(app: Front) -> None:
    """Of their shape: ids and vectors are put in that the release has."""
    document = call(app, "GET", "/openapi.json").json()
    for verb, model in (("lookup", "LookupRequest"), ("match", "MatchRequest")):
        for example in document["components"]["schemas"][model]["examples"]:
            own = {"ids": ["i3"]} if "ids" in example else {"vectors": [[0.5] * DIM] * len(example["vectors"])}
            own |= {"cutpoint": "optimal"} if "cutpoint" in example else {}
            answer = call(app, "POST", f"/v1/{verb}", json={**example, **own})
            assert answer.status_code == 200, answer.text
            assert answer.json()["release"] == RELEASE


def test_the_folder_of_the_root_is_not_told(app: Front, tmp_path: Path) -> None:
    for url in ("/openapi.json", "/v1/release", "/v1/releases", "/metrics", "/v1/items?limit=3", "/v1/release?release=no"):
        assert str(tmp_path.parent) not in call(app, "GET", url).text
