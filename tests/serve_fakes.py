"""An engine and pictures in this process, over a small release, for tests of the HTTP side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
from conftest import clustered
from release_maker import RELEASE, make_release

from simpipe.config.serve import ServeConfig
from simpipe.errors import QueryError
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher, open_release
from simpipe.serve.access_log import AccessLog
from simpipe.serve.answers import answer
from simpipe.serve.app import make_app
from simpipe.serve.errors import NotFoundError
from simpipe.serve.facts import facts_of
from simpipe.serve.front import Front
from simpipe.serve.jobs import EngineStatus, Job, Reply

DIM, ITEMS = 6, 300
PNG = b"\x89PNG\r\n\x1a\n not really"


def make_root(root: Path) -> Path:
    """A root with one small live release of items `i0`, `i1`, and so on, not calibrated."""
    make_release(root, clustered(ITEMS, dim=DIM, seed=0)[0], Router(3))
    return root


class FakeEngine:
    """`Engine` over a searcher of this process.

    Attributes:
      fails: raised by every ask. ready: as `status` says. asked: jobs with their release and timeout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.searcher: Searcher = open_release(root)
        self.searcher.calibrated = {
            "matcher": "match_nearest",
            "k": 1,
            "depth": 3,
            "matchers": {},
            "by": None,
            "probability": None,
            "cutpoints": {"optimal": {"name": "optimal", "distance": 0.4}},
        }
        self.fails: Exception | None = None
        self.ready = True
        self.asked: list[tuple[Job, str | None, float]] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def status(self) -> EngineStatus:
        name = RELEASE if self.ready else None
        return EngineStatus(ready=self.ready, release=name, queued=7, swaps=2, cache_bytes=4096, open=(RELEASE,))

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        self.asked.append((job, release, timeout))
        if self.fails is not None:
            raise self.fails
        self._check(release)
        (found,) = answer(self.searcher, [job])
        if found.body is None:
            assert found.error is not None
            raise found.error
        return Reply(RELEASE, found.body, batch=job.queries, probes=2.0)

    async def about(self, release: str | None = None) -> dict[str, Any]:
        self._check(release)
        return facts_of(self.searcher, self.root)

    async def releases(self) -> list[dict[str, Any]]:
        return [
            {
                "release": RELEASE,
                "created_at": "2025-01-01T00:00:00Z",
                "items": ITEMS,
                "live": True,
                "previous": False,
                "tags": [],
            }
        ]

    def _check(self, release: str | None) -> None:
        if release not in (None, RELEASE):
            raise NotFoundError(f"no release {release!r}", "see /v1/releases")


class FakePictures:
    """`Pictures` of which every file that is no fake PNG is refused; its embedding is that of the item that it names."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def embed(self, about: Mapping[str, Any], images: Sequence[bytes], *, timeout: float) -> np.ndarray:
        assert about["release"] == RELEASE
        if not all(image.startswith(PNG) for image in images):
            raise QueryError("image 0 is no picture", "send PNG or JPEG")
        return self._searcher.vectors_of([image.removeprefix(PNG).decode() for image in images])

    async def picture(self, about: Mapping[str, Any], item: str, label: str | None, *, timeout: float) -> bytes:
        if label is None:
            raise NotFoundError(f"{item!r} has no picture", "see another one")
        return PNG + item.encode()

    async def map(self, about: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        return {"release": about["release"], "ids": ["i1"], "labels": ["l1"], "x": [0.5], "y": [0.5], "method": "pca"}


def app_of(engine: FakeEngine, *, pictures: bool = True, log: AccessLog | None = None, **settings: Any) -> Front:
    """The application over fakes."""
    return make_app(
        engine,
        FakePictures(engine.searcher) if pictures else None,
        ServeConfig(**{"access_log": False, **settings}),
        log=log,
    )


def call(app: Any, method: str, url: str, **request: Any) -> httpx.Response:
    """One request to an application, without a network."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, url, **request)

    return asyncio.run(asked())


def raw_get(app: Any, path: str) -> tuple[int, bytes]:
    """Status and body of GET, by a path that no client puts in order before; decoded as a web server does."""
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
    scope |= {"client": ("127.0.0.1", 1), "server": ("test", 80)}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
