"""What the HTTP side asks of the processes that answer: small records that go through a pipe as JSON and raw vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Verb = Literal["lookup", "match", "items", "sample"]


@dataclass(frozen=True)
class Job:
    """The work of one request for a release.

    Attributes:
      verb: `lookup`, `match`; `items` gives labels and metadata of `ids`; `sample` gives `k` items in the order of the hash of
        their id, of one label where `options` names it.
      vectors: float32[n, dim]; None where `ids` ask.
      ids: indexed items that ask (`lookup`, `match`), or that are asked for (`items`).
      names: of the queries where they are given as vectors, for the answer.
      k: neighbors a query.
      options: as in the request: cutpoint, matcher, group, by_label, target_recall, exact, where, filter, metadata; what is None
        is left out. Requests with equal verb, k and options are searched together.
    """

    verb: Verb
    vectors: np.ndarray | None = None
    ids: Sequence[str] | None = None
    names: Sequence[str] | None = None
    k: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        """How many queries it counts for in the queue."""
        return len(self.vectors) if self.vectors is not None else len(self.ids or ()) or 1


@dataclass(frozen=True)
class Reply:
    """What answers a request: a JSON document, whole and from one release.

    Attributes:
      release: that answered. body: UTF-8 JSON, an object.
      batch: queries that were searched together with these. probes: partitions asked a query, mean.
    """

    release: str
    body: bytes
    batch: int = 1
    probes: float | None = None


@dataclass(frozen=True)
class EngineStatus:
    """For `/readyz` and `/metrics`.

    Attributes:
      ready: a release answers. release: the live one that answers. opening: one that is being opened.
      queued: queries that wait or are being answered. swaps, deaths: releases swapped, processes that died, since the start.
      cache_bytes: of partitions that the live release's process holds. open: all releases that are open.
      failed: why the release that the pointer names could not be opened; the one before goes on answering.
    """

    ready: bool
    release: str | None = None
    opening: str | None = None
    queued: int = 0
    swaps: int = 0
    deaths: int = 0
    cache_bytes: int = 0
    open: tuple[str, ...] = ()
    failed: str | None = None


class Engine(Protocol):
    """Answers jobs from the live release, or from another one by id or tag. Lives on one event loop."""

    async def start(self) -> None:
        """Opens the live release; returns when it answers.

        Raises:
          SimpipeError: it cannot be opened.
        """
        ...

    async def close(self) -> None:
        """Ends all processes."""
        ...

    def status(self) -> EngineStatus: ...

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        """The answer to a job.

        Args:
          release: a release's id or tag, or `previous`; None: the live one.
          timeout: seconds.

        Raises:
          QueueFullError, DeadlineError, NotReadyError, NotFoundError: see there.
          SimpipeError: what the library says of the query.
        """
        ...

    async def about(self, release: str | None = None) -> dict[str, Any]:
        """What `/v1/release` says of a release: id, items, dim, distance, encoder, metadata columns, partitions, cutpoints,
        thresholds, metrics, whether its items have pictures."""
        ...

    async def releases(self) -> list[dict[str, Any]]:
        """All finished releases, newest first: id, created_at, items, live, previous, tags."""
        ...


class Pictures(Protocol):
    """What needs TensorFlow or takes long: a process of its own. Lives on one event loop."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def embed(self, about: Mapping[str, Any], images: Sequence[bytes], *, timeout: float) -> np.ndarray:
        """Embeddings float32[n, dim] of PNG or JPEG files, by the encoder of the release that `Engine.about` describes.

        Raises:
          QueryError: a file is no picture. IncompatibleError: the release has no encoder of pictures.
        """
        ...

    async def picture(self, about: Mapping[str, Any], item: str, label: str | None, *, timeout: float) -> bytes:
        """The PNG of an item, as it was indexed.

        Raises:
          NotFoundError: there is none.
        """
        ...

    async def map(self, about: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """A sample of the release's items in two dimensions: ids, labels, x and y in [0, 1], method, how to read it."""
        ...
