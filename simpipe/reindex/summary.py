"""What one `simpipe reindex` did, for people and for schedulers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from simpipe import recording
from simpipe.errors import GateFailedError, PublishConflictError
from simpipe.reindex.changes import ChangeCounts

Outcome = Literal["published", "unchanged", "built", "gate_failed", "conflict"]
_EXIT = {"gate_failed": GateFailedError.exit_code, "conflict": PublishConflictError.exit_code}


@dataclass(frozen=True)
class ReindexSummary:
    """The end of a re-index.

    Attributes:
      outcome: `published`; `unchanged`: nothing to do, no new release; `built`: not published, as asked; `gate_failed`: the
        live release stays; `conflict`: another one went live meanwhile, or is being made.
      message: one sentence.
      live: the release that is live at the end. base: that was compared with. release: that was built, if any.
      items, queries: how many were added, changed, deleted, unchanged; None where they were not compared.
      reasons: why more was done than the changes ask for.
      partitions: of the release: total, rebuilt, carried, and others; see the release's provenance.
      untouched: share of partitions whose files were carried over.
      failed: gates that failed. forced: whether it went live nevertheless.
      seconds, cpu_seconds: of this process, by stage.
    """

    outcome: Outcome
    message: str
    live: str | None
    base: str | None = None
    release: str | None = None
    items: ChangeCounts | None = None
    queries: ChangeCounts | None = None
    reasons: tuple[str, ...] = ()
    partitions: Mapping[str, int] = field(default_factory=dict)
    untouched: float | None = None
    failed: tuple[str, ...] = ()
    forced: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where live is as it should be, else that of the error of the same name."""
        return _EXIT.get(self.outcome, 0)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**self._fields(), "exit_code": self.exit_code}, ensure_ascii=False)

    def note(self) -> None:
        """Puts it into the summary of the run, whose steps are the stages."""
        own = ("outcome", "message", "live", "release", "seconds", "cpu_seconds")  # what every run tells
        facts = {name: value for name, value in self._fields().items() if name not in own}
        recording.note(outcome=self.outcome, message=self.message, release=self.release or self.live, facts=facts)

    def _fields(self) -> dict[str, Any]:
        counts = {name: value.model_dump() if (value := getattr(self, name)) else None for name in ("items", "queries")}
        return {**{name: value for name, value in vars(self).items() if name not in counts}, **counts}


@dataclass
class Stages:
    """Wall and CPU seconds of this process, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what the block takes to a stage; it is a step of the run's summary as well."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            with recording.step(name):
                yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - wall, 3)
            self.cpu_seconds[name] = round(self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu, 3)
