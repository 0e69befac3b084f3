"""Prometheus metrics of a server, right with several workers as well.

With several, `PROMETHEUS_MULTIPROC_DIR` names a folder that they share; it must be set before this module is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from simpipe.serve.jobs import EngineStatus

SHARED = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass
class Seen:
    """What becomes known of a request while it is answered, for metrics and the log.

    Attributes:
      verb: what was asked for. queries: of it. batch, probes, release: as in `Reply`. error: code of a refusal.
    """

    verb: str = "other"
    queries: int | None = None
    batch: int | None = None
    probes: float | None = None
    release: str | None = None
    error: str | None = None


@dataclass
class Metrics:
    """Counts requests, and shows the engine's state. One a process."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        disable_created_metrics()  # a second series of each
        about: dict[str, Any] = {"registry": self.registry}
        self._seconds = Histogram("simpipe_request_seconds", "Time of a request", ["verb", "status"], buckets=_SECONDS, **about)
        self._queries = Counter("simpipe_queries", "Queries that were answered", ["verb"], **about)
        self._batch = Histogram("simpipe_batch_queries", "Queries that were searched together", buckets=_SIZES, **about)
        self._probes = Histogram("simpipe_probes", "Partitions asked a query, mean of a request", buckets=_SIZES[:9], **about)
        self._refused = Counter("simpipe_refused", "Requests that were refused", ["code"], **about)
        self._swaps = Counter("simpipe_swaps", "Live releases that were swapped", **about)
        self._deaths = Counter("simpipe_deaths", "Processes that died and were replaced", **about)
        gauge: dict[str, Any] = {"multiprocess_mode": "livesum", **about}
        self._ready = Gauge("simpipe_ready", "Workers whose release answers", **gauge)
        self._queued = Gauge("simpipe_queued_queries", "Queries that wait or are being answered", **gauge)
        self._cache = Gauge("simpipe_cache_bytes", "Partitions that the live release holds in memory", **gauge)
        self._open = Gauge("simpipe_open_releases", "Releases that are open", **gauge)
        self._release = Gauge("simpipe_release_info", "Workers that answer from a release", ["release"], **gauge)
        self._timers: dict[tuple[str, int], Any] = {}
        self._asked: dict[str, Any] = {}
        self._before = EngineStatus(ready=False)

    def answered(self, seen: Seen, status: int, seconds: float) -> None:
        """Counts a request."""
        key = (seen.verb, status)
        if key not in self._timers:
            self._timers[key] = self._seconds.labels(seen.verb, str(status))
        self._timers[key].observe(seconds)
        if seen.error is not None:
            self._refused.labels(seen.error).inc()
        if seen.queries is not None and status == 200:
            if seen.verb not in self._asked:
                self._asked[seen.verb] = self._queries.labels(seen.verb)
            self._asked[seen.verb].inc(seen.queries)
            if seen.batch is not None:
                self._batch.observe(seen.batch)
            if seen.probes is not None:
                self._probes.observe(seen.probes)

    def show(self, status: EngineStatus) -> None:
        """Takes over the engine's state; called every second, so that other workers' answers are fresh too."""
        before, self._before = self._before, status
        self._ready.set(int(status.ready))
        self._queued.set(status.queued)
        self._cache.set(status.cache_bytes)
        self._open.set(len(status.open))
        self._swaps.inc(max(0, status.swaps - before.swaps))
        self._deaths.inc(max(0, status.deaths - before.deaths))
        if status.release != before.release:
            if before.release is not None:
                self._release.labels(before.release).set(0)
            if status.release is not None:
                self._release.labels(status.release).set(1)

    def text(self) -> bytes:
        """All of it as Prometheus reads it; of all workers where there are several."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        whole = CollectorRegistry()
        MultiProcessCollector(whole)
        return generate_latest(whole)
