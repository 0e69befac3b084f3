"""The HTTP application: its routes, and the document that describes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from simpipe import __version__
from simpipe.config.serve import ServeConfig
from simpipe.serve import answer_models as answers
from simpipe.serve.access_log import AccessLog
from simpipe.serve.answering import Answer, Answering
from simpipe.serve.front import SEEN, Front, Raised
from simpipe.serve.jobs import Engine, Pictures, Verb
from simpipe.serve.metrics import CONTENT_TYPE, Metrics, Seen
from simpipe.serve.openapi import describe
from simpipe.serve.page_files import POLICY, PageFile, page_files
from simpipe.serve.refusals import RefusedError

_TITLE = "simpipe serve"
_VERBS: tuple[Verb, ...] = ("lookup", "match")
Release = Annotated[str | None, Query(description="a release's id, a tag, or `previous`; else the live one", max_length=256)]
_KEPT = {"cache-control": "no-cache"}  # a browser asks again, by the ETag
_PNG_KEPT = {"cache-control": "private, max-age=3600"}


def make_app(
    engine: Engine,
    pictures: Pictures | None,
    settings: ServeConfig,
    *,
    log: AccessLog | None = None,
    metrics: Metrics | None = None,
) -> Front:
    """The ASGI application over an engine, whose start and end are the caller's; FastAPI's is its `app`.

    Args:
      engine: that answers. pictures: None: images and pictures are refused.
      settings: limits. log: of requests; None: as `settings` says, on stderr. metrics: None: of their own.
    """
    app = FastAPI(title=_TITLE, version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    answering = Answering(engine, pictures, settings)
    metrics = Metrics() if metrics is None else metrics
    hot = {f"/v1/{verb}": answering.query(verb) for verb in _VERBS}
    app.add_middleware(Raised)
    _add_queries(app, answering)
    _add_reading(app, answering)
    _add_state(app, engine, metrics)
    _add_page(app)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(404, _http)
    app.add_exception_handler(405, _http)
    app.add_exception_handler(RequestValidationError, _schema)
    describe(app, settings)
    # Around all of FastAPI, so that what is asked most does not go through it.
    return Front(app, hot=hot, log=AccessLog(settings.access_log) if log is None else log, metrics=metrics)


def _add_queries(app: FastAPI, answering: Answering) -> None:
    """For the document, and for whoever mounts the application; over HTTP `Front` answers them itself."""
    texts = {"lookup": "Nearest items of queries", "match": "Labels of queries, within a cutpoint"}
    for verb in _VERBS:
        about: dict[str, Any] = {"summary": texts[verb], "operation_id": verb, "response_model": answers.QueryAnswer}
        app.add_api_route(f"/v1/{verb}", _query(answering.query(verb)), methods=["POST"], **about)


def _query(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def query(request: Request) -> Response:
        return _json(await answer(request.scope, request.receive, _seen(request)))  # type: ignore[arg-type]  # a dict

    return query


def _add_reading(app: FastAPI, answering: Answering) -> None:
    @app.get("/v1/items", response_model=answers.ItemsAnswer, summary="Some items to ask with", operation_id="items")
    async def items(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000, description="items at most")] = 24,
        label: Annotated[str | None, Query(description="items of this label only", max_length=2048)] = None,
        release: Release = None,
    ) -> Response:
        return _json(await answering.items(limit, label, release, _seen(request, "items")))

    @app.get(
        "/v1/items/{item:path}/picture",
        summary="The picture of an item, PNG",
        operation_id="picture",
        response_class=Response,
        responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def picture(request: Request, item: str, release: Release = None) -> Response:
        png = await answering.picture(item, release, _seen(request, "picture"))
        return Response(png, media_type="image/png", headers=_PNG_KEPT)

    @app.get("/v1/items/{item:path}", response_model=answers.ItemAnswer, summary="An item", operation_id="item")
    async def item(request: Request, item: str, release: Release = None) -> Response:
        return _json(await answering.item(item, release, _seen(request, "item")))

    @app.get("/v1/release", response_model=answers.ReleaseAnswer, summary="A release", operation_id="release")
    async def about(request: Request, release: Release = None) -> Response:
        _seen(request, "release")
        return _json(orjson.dumps(await answering.about(release)))

    @app.get("/v1/releases", response_model=answers.ReleasesAnswer, summary="All releases", operation_id="releases")
    async def releases(request: Request) -> Response:
        _seen(request, "releases")
        return _json(await answering.releases())

    @app.get("/v1/map", response_model=answers.MapAnswer, summary="Items in two dimensions", operation_id="map")
    async def plane(request: Request, release: Release = None) -> Response:
        _seen(request, "map")
        return _json(await answering.map(release))


def _add_state(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=answers.Health, summary="The server runs", operation_id="healthz")
    async def healthz(request: Request) -> Response:
        _seen(request, "health")
        return _json(b'{"status":"ok"}')

    @app.get("/readyz", response_model=answers.Ready, summary="A release answers", operation_id="readyz")
    async def readyz(request: Request) -> Response:
        _seen(request, "health")
        now = engine.status()
        if not now.ready:
            why = now.failed or (f"{now.opening} is being opened" if now.opening else "no release is open")
            raise RefusedError(503, "not_ready", why, "ask again in a moment", {"retry-after": "1"})
        return _json(orjson.dumps({"ready": True, "release": now.release, "opening": now.opening, "failed": now.failed}))

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def exposed(request: Request) -> Response:
        _seen(request, "metrics")
        metrics.show(engine.status())
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    """The page's files by their paths; a request's path is compared, never opened."""
    for path, file in page_files().items():
        app.add_api_route(path, _page(path, file), methods=["GET"], include_in_schema=False)


def _page(path: str, file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    headers = {"etag": file.etag, "content-security-policy": POLICY, "referrer-policy": "no-referrer", **_KEPT}

    async def page(request: Request) -> Response:
        if request.scope["path"] != path:  # a line feed after it, which the router lets through
            raise HTTPException(404)
        _seen(request, "page")
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers={**headers, "content-type": file.type})

    return page


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _seen(request: Request, verb: str | None = None) -> Seen:
    seen: Seen = request.scope[SEEN]
    if verb is not None:
        seen.verb = verb
    return seen


async def _http(request: Request, error: Exception) -> Response:
    """What the router refuses; `Front` answers."""
    status = error.status_code if isinstance(error, HTTPException) else getattr(error, "status_code", 404)
    method, path = request.method, request.scope["path"][:200]
    if status == 405:
        allowed = (getattr(error, "headers", None) or {}).get("Allow", "")
        raise RefusedError(405, "method", f"{method} is not for {path!r}", f"use {allowed}", {"allow": allowed})
    raise RefusedError(404, "not_found", f"there is nothing at {path!r}", "see /openapi.json")


async def _schema(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in found[:10])
    raise RefusedError(422, "schema", said, "see /openapi.json")
