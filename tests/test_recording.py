"""The recorder of a run: what it notes, and that it hides nothing and forgets nothing."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_gcs
import pytest

from simpipe import files, recording, run_summary
from simpipe.errors import GateFailedError, PublishConflictError, SourceError
from simpipe.job import JobResult, Spread
from simpipe.run_summary import GateResult, Problem, RunSummary


def run_of(root: Path, **named: Any) -> recording.Run:
    return recording.Run("build", root, "line.yaml", "local", **named)


def summary_of(root: Path) -> dict[str, Any]:
    (path,) = (root / "runs").iterdir()
    return files.read_json(path)


@pytest.mark.parametrize(
    ("error", "state", "code", "message"),
    [
        (SourceError("no file", "make one"), "failed", 1, "no file"),
        (PublishConflictError("another one"), "conflict", 3, "another one"),
        (GateFailedError("too few"), "gate_failed", 4, "too few"),
        (KeyboardInterrupt(), "failed", 130, "stopped"),
        (ZeroDivisionError("by zero"), "failed", 1, "ZeroDivisionError: by zero"),
    ],
)
def test_what_is_raised_is_noted_and_goes_on(tmp_path, error, state, code, message):
    def work() -> int:
        with recording.step("build") as noted:
            noted.numbers = {"steps": 3}
            raise error

    with pytest.raises(type(error)):
        recording.record(run_of(tmp_path), work)
    summary = summary_of(tmp_path)
    assert summary["state"] == state
    assert (summary["error"]["exit_code"], summary["error"]["message"]) == (code, message)
    assert summary["error"]["cure"] == getattr(error, "cure", "")
    assert summary["steps"][0] | {"seconds": 0} == {
        "step": "build", "state": "failed", "seconds": 0, "detail": "", "numbers": {"steps": 3},
    }  # fmt: skip


def test_a_summary_that_cannot_be_written_hides_nothing(tmp_path, capsys):
    (tmp_path / "runs").write_text("in the way")
    assert recording.record(run_of(tmp_path), lambda: 0) == 0
    assert "no summary of this run" in capsys.readouterr().err

    def fail() -> int:
        raise SourceError("no file", "make one")

    with pytest.raises(SourceError, match="no file"):
        recording.record(run_of(tmp_path), fail)


def test_notes_belong_to_their_run_alone(tmp_path):
    job = JobResult("build", "simpipe-build-x", None, "DONE", 1.0, {"in-items": 3}, {"build-msec": Spread(4, 2, 1, 3)})
    recording.note_job(job)  # nobody records
    with recording.step("build") as noted:
        noted.detail = "alone"

    def work() -> int:
        recording.note_job(job)
        with recording.step("build") as outer, recording.step("build") as inner:
            assert outer is inner, "a step within itself is the same"
        with recording.step("build") as noted:
            noted.state, noted.detail = "skipped", "second"
        thread = threading.Thread(target=lambda: recording.note(message="of another thread"))
        thread.start()
        thread.join()
        return 0

    recording.record(run_of(tmp_path), work)
    summary = summary_of(tmp_path)
    assert [job["name"] for job in summary["jobs"]] == ["simpipe-build-x"]
    assert summary["jobs"][0]["distributions"] == {"build-msec": {"sum": 4, "count": 2, "min": 1, "max": 3}}
    assert [(step["state"], step["detail"]) for step in summary["steps"]] == [("skipped", "second")]
    assert summary["message"] == ""


def test_one_json_line_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    recording.record(run_of(tmp_path), lambda: 0)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("SIMPIPE_LOG", "json")

    def ends(**named: Any) -> dict[str, Any]:
        common = {"run_id": "r", "verb": "run", "config": "", "started_at": "", "finished_at": "", "runner": "local"}
        return recording.log_line(RunSummary(**{**common, "seconds": 1.0, "cpu_seconds": 1.0, "simpipe_version": "1", **named}))

    recording.record(run_of(tmp_path, run_id="asked"), lambda: 0)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["severity"], entry["event"], entry["run"], entry["failed"]) == ("INFO", "done", "asked", [])
    assert ends(state="done", outcome="published")["event"] == "live"
    assert ends(state="done", outcome="unchanged")["event"] == "live"
    assert ends(state="done", outcome="built")["event"] == "done"
    failed = ends(state="gate_failed", outcome="gate_failed", gate=GateResult(False, ("items.min",)))
    assert (failed["severity"], failed["event"], failed["failed"]) == ("WARNING", "gate_failed", ["items.min"])
    assert ends(state="conflict", outcome="conflict")["event"] == "busy"
    broken = ends(state="failed", outcome="failed", message="no file", error=Problem("no file", "", 1))
    assert (broken["severity"], broken["event"], broken["message"]) == ("ERROR", "run_failed", "simpipe run: no file")


def test_summaries_on_object_storage(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    with fake_gcs.serving(tmp_path) as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", service.url)
        root = files.located("gs://bucket/root")
        for name in ("one", "two", "three"):
            recording.record(run_of(root, run_id=name), lambda: 0)
        assert [run["run_id"] for run in run_summary.latest_runs(root, limit=2)] == ["three", "two"]
        monkeypatch.setattr(run_summary, "KEPT", 1)
        assert run_summary.forget_runs(root, older_than_days=1, dry_run=False)[0] == 0
        assert run_summary.forget_runs(root, older_than_days=0, dry_run=True)[0] == 2
        assert run_summary.forget_runs(root, older_than_days=0, dry_run=False)[0] == 2
        assert [run["run_id"] for run in run_summary.latest_runs(root, limit=9)] == ["three"]
        assert recording.record(recording.Run("fsck", files.located("gs://bucket/none"), "", "local"), lambda: 0) == 0
    assert sorted(path.name for path in (tmp_path / "bucket").iterdir()) == ["root"]


def test_an_id_is_made_where_none_is_given(tmp_path):
    for _ in range(3):
        recording.record(run_of(tmp_path), lambda: 0)
    names = [path.stem for path in (tmp_path / "runs").iterdir()]
    assert len(set(names)) == 3
    for name in names:
        when, verb, _ = name.split("-")
        assert verb == "build"
        made = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - made) < timedelta(minutes=5)
