"""A server of two small releases in this process, for tests of the client: no port, no other process, the real application."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
from conftest import clustered
from release_maker import RELEASE, make_release

import simpipe
from simpipe.calibration.pairs import PairCounts
from simpipe.config.serve import ServeConfig
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher
from simpipe.probability import fit_probability
from simpipe.serve.answers import answer
from simpipe.serve.app import make_app
from simpipe.serve.errors import NotFoundError
from simpipe.serve.facts import facts_of
from simpipe.serve.jobs import EngineStatus, Job, Reply

OTHER = "20250102T000000Z-bbbbbb"
DIM, ITEMS = 6, 400


def open_both(root: Path) -> dict[str, Searcher]:
    """Two releases of other vectors, of which `OTHER` is live; both calibrated, in memory."""
    opened = {}
    for seed, release in enumerate((RELEASE, OTHER)):
        make_release(root, clustered(ITEMS, dim=DIM, seed=seed)[0], Router(3), release=release)
        opened[release] = simpipe.open_release(root, release)
        rng = np.random.default_rng(seed)
        pairs = PairCounts(
            np.linspace(0, 2, 100).astype(np.float32), rng.integers(0, 5, 100), np.full(100, 5), np.zeros(100, np.int64)
        )
        fitted = fit_probability(pairs, method="logistic")
        assert fitted is not None
        points = {name: {"name": name, "distance": at} for name, at in (("optimal", 0.4), ("tight", 0.05))}
        record = {"matcher": "match_nearest", "k": 1, "depth": 3, "cutpoints": points, "matchers": {}, "by": None}
        opened[release].calibrated = {**record, "probability": fitted.to_json()}
    return opened


class SearcherEngine:
    """`Engine` over searchers of this process. `live` may be a list: what is live for one ask after the other, then the last."""

    def __init__(self, root: Path, searchers: dict[str, Searcher], live: Sequence[str]) -> None:
        self.root, self.searchers, self.live, self.asked = root, searchers, list(live), []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def status(self) -> EngineStatus:
        return EngineStatus(ready=True, release=self.live[0])

    def _find(self, release: str | None) -> Searcher:
        if release is None:
            release = self.live.pop(0) if len(self.live) > 1 else self.live[0]
        if release not in self.searchers:
            raise NotFoundError(f"no release {release!r}", "see /v1/releases")
        return self.searchers[release]

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        self.asked.append(job)
        searcher = self._find(release)
        (found,) = answer(searcher, [job])
        if found.body is None:
            assert found.error is not None
            raise found.error
        return Reply(searcher.manifest.release, found.body)

    async def about(self, release: str | None = None) -> dict[str, Any]:
        return facts_of(self._find(release), self.root)

    async def releases(self) -> list[dict[str, Any]]:
        return [{"release": name, "created_at": "", "items": ITEMS} for name in self.searchers]


class InProcess(httpx.BaseTransport):
    """Requests of a client without a network: to an application on an event loop of its own. Counts them."""

    def __init__(self, engine: Any, **limits: Any) -> None:
        self.requests = 0
        self._app = httpx.ASGITransport(cast(Any, make_app(engine, None, ServeConfig(access_log=False, **limits))))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        request.read()
        return asyncio.run_coroutine_threadsafe(self._ask(request), self._loop).result()

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        answered = await self._app.handle_async_request(request)
        return httpx.Response(answered.status_code, headers=answered.headers, content=await answered.aread())

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
