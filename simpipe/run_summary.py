"""`ROOT/runs/RUN.json`: how one run of a verb ended, for people, schedulers and alerts; see docs/monitoring.md."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from simpipe import files
from simpipe.errors import ContractError, GateFailedError, PublishConflictError
from simpipe.gs_path import GsPath
from simpipe.job import JobResult
from simpipe.leases import RELEASES
from simpipe.manifest import MANIFEST_JSON

RUNS = "runs"
FORMAT = 1
KEPT = 100  # newest ones that prune leaves, however old
_TIME = "%Y-%m-%dT%H:%M:%SZ"

State = Literal["done", "failed", "conflict", "gate_failed"]
StepState = Literal["done", "skipped", "failed"]
_STATES: dict[int, State] = {0: "done", PublishConflictError.exit_code: "conflict", GateFailedError.exit_code: "gate_failed"}


@dataclass(frozen=True)
class Step:
    """One step of a run. `numbers`: what it measured of itself, such as a training's epochs, steps and last loss."""

    step: str
    state: StepState
    seconds: float
    detail: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Why a run ended with an exit code above 0."""

    message: str
    cure: str
    exit_code: int


@dataclass(frozen=True)
class GateResult:
    """What the gates said. `failed`: their names."""

    passed: bool
    failed: tuple[str, ...]


@dataclass(frozen=True)
class RunSummary:
    """The end of a run.

    Attributes:
      run_id: the file's name. verb, config, runner: what was run, with which file, where its jobs ran.
      state: `done`; `conflict`: another run published or works, nothing was changed; `gate_failed`: live stays; `failed`.
      outcome: more exactly: `published`, `unchanged`, `built` (a re-index that was not to publish), else the state.
      started_at, finished_at: UTC. seconds: between them. cpu_seconds: of this process and its children, not of remote workers.
      release: that the run made, judged or moved; items: in it. live: the release that is live at the end.
      message: one sentence.
      steps: in order; one may lie within another. jobs: Beam jobs in order.
      gate: None where nothing was judged.
      facts: what only this verb tells: a re-index its changes and partitions, `fsck` its errors, `prune` what went.
    """

    run_id: str
    verb: str
    config: str
    state: State
    outcome: str
    started_at: str
    finished_at: str
    seconds: float
    cpu_seconds: float
    simpipe_version: str
    runner: str
    release: str | None = None
    items: int | None = None
    live: str | None = None
    message: str = ""
    error: Problem | None = None
    steps: tuple[Step, ...] = ()
    jobs: tuple[JobResult, ...] = ()
    gate: GateResult | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def save(self, root: Path) -> None:
        """Writes it; an earlier attempt of the same run is replaced."""
        files.write_json(root / RUNS / f"{self.run_id}.json", self.to_json())


def root_of(where: Path) -> Path | None:
    """The root that a command works on, given as such or as the folder of one of its releases; None: a release without a root."""
    if not (where / MANIFEST_JSON).is_file():
        return where
    return where.parent.parent if where.parent.name == RELEASES else None


def state_of(exit_code: int) -> State:
    return _STATES.get(exit_code, "failed")


def time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)


def latest_runs(root: Path, *, limit: int) -> list[dict[str, Any]]:
    """The newest summaries, newest first, as they were written; a damaged one is told as such.

    Returns:
      Their JSON; of one that cannot be read `run_id` and `state`: `unreadable`.
    """
    found = []
    for path, _, _ in _by_age(root)[:limit]:
        try:
            told = files.read_json(path)
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                raise ContractError(f"{path}: no run summary of format {FORMAT}")
        except ContractError:
            told = {"run_id": path.stem, "state": "unreadable"}
        found.append(told)
    return found


def forget_runs(root: Path, *, older_than_days: float, dry_run: bool) -> tuple[int, int]:
    """Removes summaries older than that, but for the newest `KEPT`; how many, and their bytes."""
    oldest = datetime.now(UTC).timestamp() - 86400 * older_than_days
    gone = [(path, size) for path, written, size in _by_age(root)[KEPT:] if written <= oldest]
    if not dry_run:
        for path, _ in gone:
            path.unlink(missing_ok=True)
    return len(gone), sum(size for _, size in gone)


def _by_age(root: Path) -> list[tuple[Path, float, int]]:
    """Path, time of writing and size of each summary, newest first."""
    folder, found = root / RUNS, []
    if isinstance(folder, GsPath):  # one request for all
        found = [(folder / name, each.updated / 1e9, each.size) for name, each in folder.objects().items()]
    elif folder.is_dir():
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                about = path.stat()
                found.append((path, about.st_mtime, about.st_size))
    summaries = [each for each in found if each[0].suffix == ".json" and not each[0].name.startswith(".")]
    return sorted(summaries, key=lambda each: (each[1], each[0].name), reverse=True)
