"""An engine in this process, until the one with processes of its own is there."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from simpipe import files, releases, tags
from simpipe.errors import ReleaseError
from simpipe.index.searcher import Searcher, open_release
from simpipe.queries import Queries, answer
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError
from simpipe.serve.jobs import EngineStatus, Job, Reply


class InProcessEngine:
    """`Engine` by searchers in this process."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._live: Searcher | None = None
        self._open: dict[str, Searcher] = {}

    async def start(self) -> None:
        self._live = await asyncio.to_thread(open_release, self._root)
        self._open[self._live.manifest.release] = self._live

    async def close(self) -> None:
        for searcher in self._open.values():
            searcher.close()
        self._live = None

    def status(self) -> EngineStatus:
        name = self._live.manifest.release if self._live else None
        return EngineStatus(ready=self._live is not None, release=name, open=tuple(self._open))

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        searcher = await self._searcher(release)
        try:
            body = await asyncio.wait_for(asyncio.to_thread(_answered, searcher, job), timeout)
        except TimeoutError:
            raise DeadlineError(f"no answer in {timeout:g} s", "ask again") from None
        return Reply(searcher.manifest.release, body, job.queries, 1.0)

    async def about(self, release: str | None = None) -> dict[str, Any]:
        return await asyncio.to_thread(_about, await self._searcher(release))

    async def releases(self) -> list[dict[str, Any]]:
        live = self.status().release
        found = await asyncio.to_thread(releases.finished, files.located(self._root))
        return [
            {"release": about.release, "created_at": about.created_at, "items": about.items, "tags": []}
            | {"live": about.release == live, "previous": False}
            for _, about in found
        ]

    async def _searcher(self, release: str | None) -> Searcher:
        if self._live is None:
            raise NotReadyError("no release answers yet", "ask again in a moment")
        if release is None:
            return self._live
        try:
            name = await asyncio.to_thread(tags.resolve, files.located(self._root), release)
            if name not in self._open:
                self._open[name] = await asyncio.to_thread(open_release, self._root, name)
        except ReleaseError as error:
            raise NotFoundError(error.message, error.cure) from None
        return self._open[name]


def _answered(searcher: Searcher, job: Job) -> bytes:
    about: dict[str, Any] = {"release": searcher.manifest.release}
    if job.verb in ("items", "sample"):
        ids = list(job.ids or [])
        if job.verb == "sample":
            ids = searcher.rows(0).ids[: job.k]
            ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        return orjson.dumps({**about, "items": searcher.items_of(ids).to_pylist()}, default=str)
    options = dict(job.options)
    options.pop("metadata", None)
    if job.vectors is None:
        ids = list(job.ids or [])
        labels = searcher.items_of(ids).column("label").to_pylist()
        queries = Queries(ids, searcher.vectors_of(ids), labels, own_ids=True, indexed=(True,) * len(ids))
    else:
        names = list(job.names or [f"row {row}" for row in range(len(job.vectors))])
        queries = Queries(names, job.vectors, [None] * len(names))
    how = {name: options[name] for name in ("target_recall", "exact", "where", "matcher", "group") if name in options}
    how |= {"by_group": True} if options.get("by_label") else {}
    cutpoint = options.get("cutpoint") if job.verb == "match" else None
    results = answer(searcher, queries, k=job.k, cutpoint=cutpoint, **how)
    return orjson.dumps({**about, "distance": searcher.manifest.distance, "results": results})


def _about(searcher: Searcher) -> dict[str, Any]:
    manifest = searcher.manifest
    about: dict[str, Any] = {"release": manifest.release, "items": manifest.items, "dim": manifest.dim}
    about |= {"distance": manifest.distance, "metadata": list(manifest.metadata), "pictures": False}
    try:
        about["cutpoints"] = searcher.calibration()["cutpoints"]
    except ReleaseError:
        about["cutpoints"] = {}
    return about
