"""Requests to answers, through the engine and the process for pictures; nothing here knows of HTTP's routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from simpipe.config.serve import ServeConfig
from simpipe.errors import IncompatibleError, QueryError
from simpipe.serve.bodies import Bodies
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError
from simpipe.serve.jobs import Engine, Job, Pictures, Reply, Verb
from simpipe.serve.metrics import Seen
from simpipe.serve.parse import parse
from simpipe.serve.requests import LONGEST_ID

_T = TypeVar("_T")
Answer = Callable[[dict[str, Any], Any, Seen], Awaitable[bytes]]


@dataclass(frozen=True)
class Answering:
    """Asks the engine; bodies of answers are JSON.

    Args:
      engine: that answers. pictures: None: the server has none. settings: limits.
    """

    engine: Engine
    pictures: Pictures | None
    settings: ServeConfig
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bodies", Bodies(self.settings.max_body_bytes))

    def query(self, verb: Verb) -> Answer:
        """What answers a POSTed `lookup` or `match`."""

        async def answer(scope: dict[str, Any], receive: Any, seen: Seen) -> bytes:
            seen.verb = verb
            asked = parse(verb, await self.bodies.read(scope["headers"], receive), self.settings)
            job, release, timeout = asked.job, asked.release, asked.timeout
            seen.queries = len(asked.images) or job.queries
            if asked.images:
                began = asyncio.get_running_loop().time()
                about = await self.about(release)
                vectors = await self._pictures().embed(about, asked.images, timeout=timeout)
                # The release that the encoder belongs to: the live one may be another by now.
                job, release = replace(job, vectors=vectors), str(about["release"])
                timeout = max(1e-3, timeout - (asyncio.get_running_loop().time() - began))
            return await self._ask(job, seen, release=release, timeout=timeout)

        return answer

    async def item(self, item: str, release: str | None, seen: Seen) -> bytes:
        """Label, partition and metadata of an item."""
        found = await self._item(item, release, seen)
        return orjson.dumps(found)

    async def items(self, limit: int, label: str | None, release: str | None, seen: Seen) -> bytes:
        """Some items, of one label where it is given."""
        job = Job("sample", k=limit, options={} if label is None else {"label": label})
        return await self._ask(job, seen, release=release, timeout=self.settings.timeout_seconds)

    async def picture(self, item: str, release: str | None, seen: Seen) -> bytes:
        """The PNG of an item."""
        pictures, about = self._pictures(), await self.about(release)
        found = await self._item(item, str(about["release"]), seen)
        return await pictures.picture(about, item, found["label"], timeout=self.settings.timeout_seconds)

    async def map(self, release: str | None) -> bytes:
        pictures, about = self._pictures(), await self.about(release)
        return orjson.dumps(await pictures.map(about, timeout=self.settings.timeout_seconds))

    async def about(self, release: str | None) -> dict[str, Any]:
        with _known(release):
            return await self._in_time(self.engine.about(release))

    async def releases(self) -> bytes:
        return orjson.dumps({"releases": await self._in_time(self.engine.releases())})

    async def _item(self, item: str, release: str | None, seen: Seen) -> dict[str, Any]:
        if len(item) > LONGEST_ID:
            raise NotFoundError(f"no item has an id of more than {LONGEST_ID} characters", "see the data set's ids")
        try:
            body = await self._ask(Job("items", ids=[item]), seen, release=release, timeout=self.settings.timeout_seconds)
        except QueryError as error:
            raise NotFoundError(error.message, error.cure) from None
        found = orjson.loads(body)
        return {"release": found["release"], **found["items"][0]}

    async def _ask(self, job: Job, seen: Seen, *, release: str | None, timeout: float) -> bytes:
        with _known(release):
            reply: Reply = await self.engine.ask(job, release=release, timeout=timeout)
        seen.batch, seen.probes, seen.release = reply.batch, reply.probes, reply.release
        return reply.body

    async def _in_time(self, found: Awaitable[_T]) -> _T:
        try:
            return await asyncio.wait_for(found, self.settings.timeout_seconds)
        except TimeoutError:
            raise DeadlineError(f"no answer in {self.settings.timeout_seconds:g} s", "ask again") from None

    def _pictures(self) -> Pictures:
        if self.pictures is None:
            raise IncompatibleError("this server has no pictures", "start it with serve.pictures: true")
        if not self.engine.status().ready:
            raise NotReadyError("no release answers yet", "ask again in a moment")
        return self.pictures


@contextlib.contextmanager
def _known(release: str | None) -> Iterator[None]:
    """What the engine says of a release that is not there names folders of this machine; nobody outside needs them."""
    try:
        yield
    except NotFoundError:
        raise NotFoundError(f"there is no release or tag {str(release)[:80]!r} that can be opened", "see /v1/releases") from None
