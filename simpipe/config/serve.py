"""Configuration of `simpipe serve`: where it listens, and what it takes at most."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simpipe.config.base import Model, Positive

Seconds = Annotated[float, Field(gt=0)]


class ServeConfig(Model):
    """The server over a root's live release.

    `workers`: server processes that share a port. `target_recall`: how requests are asked that do not say (null: as the
    release is by default). `poll_seconds`: how often the pointer is looked at. `open_releases`: further releases that may be
    open beside the live one, for comparison; one that nobody asked for `idle_seconds` is closed.

    Limits: `max_body_bytes` of a request, `max_k` neighbors, `max_queries` of a request, `queue` queries that wait or are being
    answered (beyond: 429), `batch` queries that are searched together, `timeout_seconds` of an answer where a request does not
    say, and at most; `read_seconds` to receive a request; `max_connections` at the same time.

    `pictures`: a process that embeds pictures with the release's encoder and fetches those of items; it loads TensorFlow.
    `access_log`: a line of JSON a request, on stderr.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Positive = 1
    target_recall: Annotated[float, Field(gt=0, lt=1)] | None = None
    poll_seconds: Seconds = 1.0
    open_releases: Annotated[int, Field(ge=0)] = 2
    idle_seconds: Seconds = 600.0
    max_body_bytes: Positive = 16 << 20
    max_k: Positive = 1000
    max_queries: Positive = 4096
    queue: Positive = 16_384
    batch: Positive = 4096
    timeout_seconds: Seconds = 10.0
    read_seconds: Seconds = 10.0
    max_connections: Positive = 1000
    pictures: bool = True
    access_log: bool = True
