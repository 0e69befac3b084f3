"""The engine: processes of open releases, and the one that is live. Follows the pointer, swaps, starts again what died."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import traceback
from typing import Any

from simpipe import files, releases
from simpipe.config.serve import ServeConfig
from simpipe.errors import QueryError, ReleaseError, SimpipeError
from simpipe.pointer import Pointer, read_pointer
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError, QueueFullError
from simpipe.serve.jobs import EngineStatus, Job, Reply
from simpipe.serve.link import Link
from simpipe.serve.listing import list_releases
from simpipe.serve.opening import Opening

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_AGAIN = 30.0  # seconds until a release that could not be opened is tried again
_LINGER = 1.0  # seconds that an old release stays after a swap
_BUSY = 1.0  # seconds since the last job in which a release counts as answering
_BACKOFF = 0.5  # seconds until a process that died soon is started again, doubled each time
_SOON = 60.0  # seconds that a process has to live for a death to count as the first


class ProcessEngine:
    """`Engine` by a process an open release.

    Args:
      root: of the releases, local or `gs://`. settings: limits and intervals.
    """

    def __init__(self, root: str, settings: ServeConfig) -> None:
        self._root, self._settings = root, settings
        self._live: Link | None = None
        self._last: Opening | None = None  # the release that answered last
        self._opening: Opening | None = None
        self._retiring: dict[Link, asyncio.Task[None]] = {}
        self._others: dict[str, asyncio.Task[Link]] = {}
        self._tending: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._failed: str | None = None
        self._off: dict[Opening, tuple[float, str | None]] = {}  # until when it is left alone, and why
        self._swaps = self._deaths = self._quick_deaths = 0
        self._closed = False
        self._listed: tuple[float, list[dict[str, Any]]] | None = None
        self._listing = asyncio.Lock()

    async def start(self) -> None:
        """Opens the live release; returns when it answers.

        Raises:
          SimpipeError: it cannot be opened.
        """
        opening = await self._wanted()
        if opening is None:
            cure = "run `simpipe publish`: a server answers from the live release"
            raise ReleaseError(f"{self._root}: nothing is published", cure)
        self._put(await self._opened(opening))
        self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Ends all processes."""
        self._closed = True
        if self._tending is not None:
            self._tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tending
        others = list(self._others.values())
        for task in others:
            if not task.done():
                task.cancel()
        found = await asyncio.gather(*others, return_exceptions=True)
        links = [link for link in (*found, self._live) if isinstance(link, Link)]
        self._live = None
        await asyncio.gather(*(link.close() for link in links), *self._retiring.values(), return_exceptions=True)

    def status(self) -> EngineStatus:
        live = self._live
        return EngineStatus(
            ready=live is not None,
            release=live.release if live else None,
            opening=self._opening.release if self._opening else None,
            queued=sum(link.queries for link in self._links()),
            swaps=self._swaps,
            deaths=self._deaths,
            cache_bytes=live.cache_bytes if live else 0,
            open=tuple(dict.fromkeys(link.release for link in self._links())),
            failed=self._failed,
        )

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        """See `Engine.ask`."""
        if self._live is not None and release is None:  # nothing is awaited: no swap can come between
            return await self._asked(self._live, job, timeout)
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                link = await self._named(release)
        except TimeoutError:
            raise DeadlineError(f"release {release} is still being opened", "ask again in some seconds") from None
        return await self._asked(link, job, max(1e-3, timeout - (time.monotonic() - began)))

    async def _asked(self, link: Link, job: Job, timeout: float) -> Reply:
        waiting = sum(each.queries for each in self._links())
        if waiting and waiting + job.queries > self._settings.queue:
            raise QueueFullError(f"{waiting} queries wait, the server takes {self._settings.queue}", "ask again in a moment")
        return await link.ask(job, timeout)

    async def about(self, release: str | None = None) -> dict[str, Any]:
        """See `Engine.about`."""
        return (await self._named(release)).about

    async def releases(self) -> list[dict[str, Any]]:
        """See `Engine.releases`; read at most once in `poll_seconds`."""
        async with self._listing:
            if self._listed is None or time.monotonic() - self._listed[0] > self._settings.poll_seconds:
                self._listed = time.monotonic(), await asyncio.to_thread(list_releases, self._root)
            return self._listed[1]

    # --- which release -------------------------------------------------------------------------------------------------

    def _links(self) -> list[Link]:
        return [*([self._live] if self._live else []), *self._open_others().values(), *self._retiring]

    def _open_others(self) -> dict[str, Link]:
        done = {name: task for name, task in self._others.items() if task.done() and not task.cancelled()}
        return {name: task.result() for name, task in done.items() if task.exception() is None}

    async def _named(self, release: str | None) -> Link:
        """The link of a release, which is opened where it is not."""
        if release is None:
            if self._live is None:
                raise NotReadyError("no release answers yet", "ask again in a moment")
            return self._live
        if not _NAME.fullmatch(release):
            raise NotFoundError(f"release {release[:80]!r}: no id and no tag", "see the list of releases")
        for link in self._links():
            if link.release == release and link.alive:
                return link
        if release not in self._others:
            try:
                release = await asyncio.to_thread(_resolve, self._root, release)
            except ReleaseError as error:
                raise NotFoundError(error.message, error.cure) from None
            for link in self._links():
                if link.release == release and link.alive:
                    return link
        try:
            return await asyncio.shield(self._other(release))
        except ReleaseError as error:
            raise NotFoundError(error.message, error.cure) from None

    def _other(self, release: str) -> asyncio.Task[Link]:
        """A release beside the live one, open or being opened."""
        if release in self._others:
            return self._others[release]
        if self._closed:
            raise NotReadyError("the server ends", "ask again in a moment")
        most = self._settings.open_releases
        if not most:
            raise QueryError("this server answers from the live release only", "set serve.open_releases above 0")
        if len(self._others) >= most:
            free = {name: link for name, link in self._open_others().items() if not link.queries}
            if not free:
                message = f"{most} other releases are open and asked"
                raise QueueFullError(message, "ask again later, or set serve.open_releases higher")
            self._close_other(min(free, key=lambda name: free[name].asked))
        opening = Opening(self._root, release, target_recall=self._settings.target_recall)
        task = self._others[release] = asyncio.create_task(self._opened(opening))
        task.add_done_callback(lambda done: self._forget(release, done))
        return task

    def _forget(self, release: str, task: asyncio.Task[Link]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._others.pop(release, None)

    async def _opened(self, opening: Opening) -> Link:
        link = Link(opening, self._lost)
        await link.open(self._settings.batch, slowly=self._live is not None, disturbs=self._answers)
        return link

    def _answers(self) -> bool:
        """Whether a release is asked at this moment."""
        since = time.monotonic() - _BUSY
        return any(link.queries or link.asked > since for link in self._links())

    # --- what happens by itself ----------------------------------------------------------------------------------------

    async def _wanted(self) -> Opening | None:
        pointer: Pointer | None = await asyncio.to_thread(read_pointer, files.located(self._root))
        if pointer is None:
            return None
        return Opening(self._root, pointer.release, pointer.manifest_sha256, self._settings.target_recall)

    async def _tend(self) -> None:
        """Looks at the pointer time and again; opens what it names, or what died."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.poll_seconds)
            self._wake.clear()
            try:
                self._failed = await self._follow()
                self._close_idle()
            except Exception as error:  # a fault of ours: what answers goes on
                traceback.print_exc()
                self._failed = f"{type(error).__name__}: {error}"

    async def _follow(self) -> str | None:
        """Makes the release answer that the pointer names; where it cannot, and nothing else does, what answered last.

        Returns:
          Why it could not be opened.
        """
        failed: str | None = None
        try:
            wanted = await self._wanted() or self._last
        except (SimpipeError, OSError) as error:  # as long as it cannot be read, what answered last goes on
            wanted, failed = self._last, str(error)
        if wanted is None or (self._live is not None and self._live.opening == wanted):
            return failed
        failed = await self._try(wanted) or failed
        if self._live is None and self._last is not None and self._last != wanted:
            await self._try(self._last)
        return failed

    async def _try(self, opening: Opening) -> str | None:
        """Makes a release the live one, unless it could not be opened a moment ago; returns why it could not."""
        until, why = self._off.get(opening, (0.0, None))
        if until > time.monotonic():
            return why
        self._opening = opening
        try:
            self._put(await self._opened(opening))
        except (SimpipeError, OSError) as error:
            why = error.message if isinstance(error, SimpipeError) else str(error)
            self._off = {name: each for name, each in self._off.items() if each[0] > time.monotonic()}
            self._off[opening] = time.monotonic() + _AGAIN, why
            return why
        finally:
            self._opening = None
        return None

    def _put(self, link: Link) -> None:
        """Makes a link the live one."""
        before, self._live, self._last = self._live, link, link.opening
        self._off.pop(link.opening, None)
        if before is not None:
            self._swaps += 1
            self._retire(before, _LINGER)

    def _retire(self, link: Link, seconds: float) -> None:
        async def end() -> None:
            try:
                if not self._closed:
                    await asyncio.sleep(seconds)
            finally:
                await link.close(self._settings.timeout_seconds + _LINGER)

        task = self._retiring[link] = asyncio.create_task(end())
        task.add_done_callback(lambda _: self._retiring.pop(link, None))

    def _lost(self, link: Link) -> None:
        """The process of a link has ended by itself."""
        if not link.about:  # it was being opened: who does that hears of it
            self._deaths += link.died
            return
        self._deaths += 1
        for name, other in self._open_others().items():
            if other is link:
                del self._others[name]
        if link is self._live:
            self._live = None
            lived = time.monotonic() - link.opened_at
            self._quick_deaths = 0 if lived > _SOON else self._quick_deaths + 1
            if self._quick_deaths > 1:
                self._off[link.opening] = time.monotonic() + min(_AGAIN, _BACKOFF * 2**self._quick_deaths), "its process died"
            self._wake.set()

    def _close_idle(self) -> None:
        since = time.monotonic() - self._settings.idle_seconds
        for name, link in self._open_others().items():
            if not link.queries and link.asked < since:
                self._close_other(name)

    def _close_other(self, name: str) -> None:
        self._retire(self._others.pop(name).result(), 0.0)


def _resolve(root: str, release: str) -> str:
    """The id of the finished release that a name stands for; before a process is started for it."""
    return releases.find(files.located(root), release)[0].name
