"""The server's side of the process for pictures: sends it messages, waits for answers, starts it again where it died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simpipe.errors import QueryError
from simpipe.serve import pictures_wire as wire
from simpipe.serve.errors import DeadlineError, NotReadyError, QueueFullError

_MODULE = "simpipe.serve.pictures_process"
_WAITING = 256  # answers
_WAITING_BYTES = 128 << 20  # of pictures that wait to be embedded
_KEPT_BYTES = 32 << 20  # of items' pictures
_MAPS = 8
_GRACE = 2.0  # seconds for the process to end by itself
_RESTART = 1.0  # seconds between two starts


class ProcessPictures:
    """`Pictures` by a process of its own, which has TensorFlow.

    Args:
      root: of releases, embeddings, examples and encoders, local or `gs://`.
      warm: the process loads the live release's encoder as soon as it starts; else with the first picture.

    Attributes:
      deaths: how often the process died.
    """

    def __init__(self, root: str, *, warm: bool = True) -> None:
        self.deaths = 0
        self._root, self._warm = root, warm
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._bytes = self._number = 0
        self._started = float("-inf")
        self._starting = asyncio.Lock()
        self._closed = False
        self._awake: set[str] = set()  # what the process has answered already
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._maps: OrderedDict[str, asyncio.Task[dict[str, Any]]] = OrderedDict()

    async def start(self) -> None:
        """Starts the process; it gets ready by itself."""
        await self._running()

    async def close(self) -> None:
        """Ends the process; whoever waits hears NotReadyError."""
        self._closed = True
        for task in self._maps.values():
            task.cancel()
        child, self._child = self._child, None
        if child is not None:
            if child.stdin is not None:
                child.stdin.close()
            try:
                await asyncio.wait_for(child.wait(), _GRACE)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if self._reader is not None:
            await self._reader

    async def embed(self, about: Mapping[str, Any], images: Sequence[bytes], *, timeout: float) -> np.ndarray:
        """Embeddings float32[n, dim] of PNG or JPEG files; see `Pictures.embed`.

        Raises:
          QueryError, IncompatibleError: see there. DeadlineError, QueueFullError, NotReadyError: see there.
        """
        if not images:
            raise QueryError("no images are given", "give one at least")
        head = {"verb": "embed", "release": about["release"], "sizes": [len(image) for image in images]}
        answer, body = await self._ask(head, b"".join(images), timeout)
        return np.frombuffer(body, "<f4").reshape(answer["shape"])

    async def picture(self, about: Mapping[str, Any], item: str, label: str | None, *, timeout: float) -> bytes:
        """The PNG of an item, such that asked as a query it is embedded as the item was.

        Raises:
          NotFoundError: there is none. DeadlineError, QueueFullError, NotReadyError: see there.
        """
        key = (str(about["release"]), item)
        if key not in self._kept:
            head = {"verb": "picture", "release": key[0], "item": item, "label": label}
            _, body = await self._ask(head, b"", timeout)
            self._keep(key, body)
            return body
        self._kept.move_to_end(key)
        return self._kept[key]

    async def map(self, about: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """See `simpipe.release_map.release_map`. It is made once a release, also where nobody waits for it any longer.

        Raises:
          DeadlineError, NotReadyError: see there.
        """
        release = str(about["release"])
        made = self._maps.get(release)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = self._maps[release] = asyncio.create_task(self._make_map(release))
        self._maps.move_to_end(release)
        while len(self._maps) > _MAPS:
            self._maps.popitem(last=False)
        done, _ = await asyncio.wait([made], timeout=timeout)
        if not done:
            raise DeadlineError("the map is still being made", "ask again in some seconds")
        return made.result()

    async def _make_map(self, release: str) -> dict[str, Any]:
        _, body = await self._ask({"verb": "map", "release": release}, b"", None)
        return json.loads(body)

    def _keep(self, key: tuple[str, str], picture: bytes) -> None:
        self._kept_bytes += len(picture) - len(self._kept.pop(key, b""))
        self._kept[key] = picture
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    async def _ask(self, head: dict[str, Any], body: bytes, timeout: float | None) -> tuple[dict[str, Any], bytes]:
        """Sends a message, waits for the answer."""
        if len(self._waiting) >= _WAITING or (self._bytes and self._bytes + len(body) > _WAITING_BYTES):
            raise QueueFullError("too many pictures wait", "ask again in a moment")
        until = time.monotonic() + (timeout if timeout is not None else float("inf"))
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._bytes += len(body)
        try:
            async with asyncio.timeout(timeout):
                child = await self._running()
                assert child.stdin is not None
                late = {"until": until} if timeout is not None else {}
                child.stdin.write(wire.encode({**head, "number": number, **late}, body))
                with contextlib.suppress(ConnectionError):  # it died: the reader says so
                    await child.stdin.drain()
                about, data = await answer
        except TimeoutError:
            if head["verb"] not in self._awake:
                raise NotReadyError(
                    "the process for pictures is still loading its libraries", "ask again in some seconds"
                ) from None
            message = f"no answer within {timeout:g} s from the process for pictures"
            raise DeadlineError(message, "send fewer or smaller pictures, or allow more time") from None
        finally:
            self._bytes -= len(body)
            self._waiting.pop(number, None)
            answer.cancel()
        if "error" in about:
            raise wire.raised(about["error"])
        return about, data

    async def _running(self) -> asyncio.subprocess.Process:
        """The process, started again where it died.

        Raises:
          NotReadyError: it died a moment ago, or everything ends.
        """
        async with self._starting:
            if self._closed:
                raise NotReadyError("the server ends", "ask again in a moment")
            if self._child is not None:
                return self._child
            rest = self._started + _RESTART - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            self._started, self._awake = time.monotonic(), set()
            more = ["--warm"] if self._warm else []
            # Where this process found simpipe, the other one finds it too, whatever its folder.
            found = os.pathsep.join(path for path in sys.path if path)
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, self._root, *more),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": found},
            )
            self._reader = asyncio.create_task(self._read(self._child))
            return self._child

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        """Hands out the answers of a process until it ends."""
        assert child.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body = wire.LENGTHS.unpack(await child.stdout.readexactly(wire.LENGTHS.size))
                about = json.loads(await child.stdout.readexactly(head))
                data = await child.stdout.readexactly(body)
                self._awake.add(about["verb"])
                answer = self._waiting.get(about["number"])
                if answer is not None and not answer.done():
                    answer.set_result((about, data))
        if self._child is child:
            self._child = None
            self.deaths += 1
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NotReadyError("the process for pictures ended before it answered", "ask again in a moment"))
        await child.wait()
