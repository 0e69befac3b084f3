"""Notes what a run does, and writes its summary when it ends, however it ends.

A command opens a recorder with `record`; steps, jobs, releases and verdicts are noted where they happen. Where nothing
records (the library alone) a note does nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simpipe import __version__
from simpipe.errors import SimpipeError
from simpipe.job import JobResult
from simpipe.manifest import Manifest
from simpipe.pointer import read_pointer
from simpipe.run_summary import GateResult, Problem, RunSummary, Step, StepState, state_of, time_text
from simpipe.verdict import Verdict

_OF_A_ROOT = ("publish", "reindex", "gate", "tag", "rollback", "prune", "fsck", "lookup", "match", "export")  # they make none
_EVENTS = {"conflict": "busy", "gate_failed": "gate_failed", "failed": "run_failed"}
_SEVERITIES = {"done": "INFO", "conflict": "WARNING", "gate_failed": "WARNING", "failed": "ERROR"}


@dataclass(frozen=True)
class Run:
    """What is run: `config` names the file; `runner` is its kind; `run_id` None: one is made."""

    verb: str
    root: Path
    config: str
    runner: str
    run_id: str | None = None


@dataclass
class StepNote:
    """What a step says of itself until it ends."""

    state: StepState = "done"
    detail: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Notes:
    steps: dict[str, Step] = field(default_factory=dict)
    open: dict[str, StepNote] = field(default_factory=dict)
    jobs: list[JobResult] = field(default_factory=list)
    release: str | None = None
    items: int | None = None
    gate: GateResult | None = None
    outcome: str | None = None
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


_NOTES: contextvars.ContextVar[_Notes | None] = contextvars.ContextVar("notes", default=None)


# --- what is noted on the way ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def step(name: str) -> Iterator[StepNote]:
    """Records a step of the run; seconds of steps of one name add up, and one within itself is the same."""
    notes = _NOTES.get()
    if notes is None or name in notes.open:
        yield StepNote() if notes is None else notes.open[name]
        return
    note = notes.open[name] = StepNote()
    started = time.monotonic()
    try:
        yield note
    except BaseException:
        note.state = "failed"
        raise
    finally:
        del notes.open[name]
        before = notes.steps.get(name)
        seconds = time.monotonic() - started + (before.seconds if before else 0.0)
        notes.steps[name] = Step(name, note.state, round(seconds, 3), note.detail, note.numbers)


def note_job(result: JobResult) -> None:
    notes = _NOTES.get()
    if notes is not None:
        notes.jobs.append(result)


def note_release(manifest: Manifest) -> None:
    """The release that the run is about; the last one counts."""
    note(release=manifest.release, items=manifest.items)


def note_gate(verdict: Verdict) -> None:
    note(gate=GateResult(verdict.passed, verdict.failed))


def note(
    *,
    outcome: str | None = None,
    message: str | None = None,
    release: str | None = None,
    items: int | None = None,
    gate: GateResult | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Notes what of these is given; see `RunSummary`."""
    notes = _NOTES.get()
    if notes is None:
        return
    given = {"outcome": outcome, "message": message, "release": release, "items": items, "gate": gate}
    for name, value in given.items():
        if value is not None:
            setattr(notes, name, value)
    notes.facts.update(facts or {})


# --- the run -----------------------------------------------------------------------------------------------------------


def record(run: Run, work: Callable[[], int]) -> int:
    """Does the work, and writes its summary under the root.

    Args:
      work: returns an exit code. What it raises is noted and goes on.
    """
    notes = _Notes()
    before = _NOTES.set(notes)
    began, started, spent = datetime.now(UTC), time.monotonic(), sum(os.times()[:4])
    code, error = 1, None
    try:
        code = work()
        return code
    except BaseException as raised:
        error = raised
        raise
    finally:
        _NOTES.reset(before)
        code = code if error is None else _exit_code(error)
        seconds, cpu = time.monotonic() - started, sum(os.times()[:4]) - spent
        state = state_of(code)
        summary = RunSummary(
            run_id=run.run_id or f"{began:%Y%m%dT%H%M%SZ}-{run.verb}-{secrets.token_hex(2)}",
            verb=run.verb,
            config=run.config,
            state=state,
            outcome=notes.outcome if state == "done" and notes.outcome else state,
            started_at=time_text(began),
            finished_at=time_text(datetime.now(UTC)),
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu, 3),
            simpipe_version=__version__,
            runner=run.runner,
            release=notes.release,
            items=notes.items,
            live=_live(run.root),
            message=notes.message if error is None else _message(error),
            error=_problem(code, error, notes),
            steps=tuple(notes.steps.values()),
            jobs=tuple(notes.jobs),
            gate=notes.gate,
            facts=notes.facts,
        )
        _keep(summary, run)
        if os.environ.get("SIMPIPE_LOG") == "json":
            print(json.dumps(log_line(summary), ensure_ascii=False), file=sys.stderr, flush=True)


def log_line(summary: RunSummary) -> dict[str, Any]:
    """A run's end as one entry of a structured log."""
    event = _EVENTS.get(summary.state) or ("live" if summary.outcome in ("published", "unchanged") else "done")
    return {
        "severity": _SEVERITIES[summary.state],
        "message": f"simpipe {summary.verb}: {summary.message or summary.outcome}",
        "event": event,
        "run": summary.run_id,
        **{name: getattr(summary, name) for name in ("verb", "state", "outcome", "release", "live", "seconds")},
        "failed": list(summary.gate.failed) if summary.gate else [],
    }


def _keep(summary: RunSummary, run: Run) -> None:
    try:
        if run.verb not in _OF_A_ROOT or run.root.is_dir():
            summary.save(run.root)
    except Exception as error:  # whatever storage raises: it must not hide how the verb itself ended
        print(f"simpipe: no summary of this run: {_message(error)}", file=sys.stderr, flush=True)


def _live(root: Path) -> str | None:
    try:
        pointer = read_pointer(root)
    except Exception:  # a damaged pointer, or storage that cannot be reached: the verb has said so, or does not need it
        return None
    return pointer.release if pointer else None


def _problem(code: int, error: BaseException | None, notes: _Notes) -> Problem | None:
    if code == 0:
        return None
    cure = error.cure if isinstance(error, SimpipeError) else ""
    return Problem(notes.message if error is None else _message(error), cure, code)


def _message(error: BaseException) -> str:
    if isinstance(error, SimpipeError):
        return error.message
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return f"{type(error).__name__}: {error}"


def _exit_code(error: BaseException) -> int:
    """As the command line exits."""
    if isinstance(error, SimpipeError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 0 if isinstance(error, BrokenPipeError) else 1
