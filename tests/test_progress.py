"""Progress: a live line on a terminal, from files and from what a running job reports; silence in a log."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from simpipe import progress
from simpipe.beam import metrics
from simpipe.beam.options import run_graph
from simpipe.errors import SimpipeError
from simpipe.job import job_of

PRISM = shutil.which(os.environ.get("SIMPIPE_PRISM", "prism"))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """What a terminal would have been told: title, done, note; looked at all the time."""
    told: list[tuple[str, int, str]] = []

    @contextlib.contextmanager
    def terminal(title: str, total: int, unit: str):
        yield lambda done, note="": told.append((title, done, note))

    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setattr(progress, "progress", terminal)
    monkeypatch.setattr(progress, "_LEAST", 0.001)
    monkeypatch.setattr(progress, "_SHARE", 0)
    return told


def until(shown: list[Any], wanted: Any) -> None:
    while wanted not in shown:
        time.sleep(0.001)


def test_nothing_is_looked_at_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    threads = threading.active_count()

    def done() -> int:
        raise AssertionError

    with progress.watching("build", done, 5), progress.noting(lambda: "x"):
        assert threading.active_count() == threads
    assert capsys.readouterr() == ("", "")


def test_files_are_counted_and_the_job_adds_what_it_reports(shown):
    with progress.watching("build", lambda: 7, 5):
        until(shown, ("build", 5, ""))
        with progress.noting(lambda: "1,200 in"):
            until(shown, ("build", 5, "1,200 in"))
        shown.clear()
        until(shown, ("build", 5, ""))
    assert progress._WATCH.get() is None
    shown.clear()
    with progress.noting(lambda: "nobody looks"):
        time.sleep(0.01)
    assert shown == []


@pytest.mark.parametrize("error", [SimpipeError("gone"), FileNotFoundError("gone")])
def test_a_look_that_fails_is_not_the_last(shown, error):
    looks: list[int] = []

    def done() -> int:
        looks.append(1)
        if len(looks) < 3:
            raise error
        return 2

    with progress.watching("build", done, 5):
        until(shown, ("build", 2, ""))


def test_what_the_work_raises_goes_on(shown):
    threads = threading.active_count()
    with pytest.raises(SimpipeError, match="broken"), progress.watching("build", lambda: 1, 5):
        raise SimpipeError("broken")
    assert threading.active_count() == threads
    assert progress._WATCH.get() is None


def test_looks_take_a_small_part_of_the_time():
    assert progress.pause_after(0.001) == 0.5
    assert progress.pause_after(0.2) == pytest.approx(4)
    assert progress.pause_after(60) == 30


def test_a_terminal_shows_the_note_beside_the_title(monkeypatch):
    from io import StringIO

    import rich.console

    out = StringIO()
    plain = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **_: plain(file=out, force_terminal=True, width=100))
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    with progress.progress("build", 8, "files") as update:
        update(3, "1,200 in, 900 out")
        time.sleep(0.3)  # rich draws ten times a second
    assert "build: 1,200 in, 900 out" in out.getvalue()
    assert "3/8 files" in out.getvalue()


def _slowly(number: int, gate: str) -> int:
    metrics.count("in-items", number)
    with metrics.timed("build-msec"):
        while number == 3 and not Path(gate).exists():
            time.sleep(0.01)
    metrics.count("out-items", number)
    return number


# Prism is a Go program that pip does not install; what the terminal draws is tested above without it.
@pytest.mark.skipif(PRISM is None, reason="no Prism: put its binary on PATH or name it in SIMPIPE_PRISM (docs/runners.md)")
def test_a_portable_job_reports_while_it_runs_and_at_its_end(shown, tmp_path, vectors_config):
    """The last item waits until the terminal has told of the first ones."""
    gate = tmp_path / "gate"
    config = vectors_config(tmp_path / "root", runner={"kind": "prism", "binary": PRISM})

    def graph(pipeline: Any) -> None:
        numbers = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle()
        _ = numbers | beam.Map(_slowly, gate=str(gate))

    def open_gate() -> None:
        while not any(note for _, _, note in shown):
            time.sleep(0.01)
        gate.touch()

    thread = threading.Thread(target=open_gate)
    thread.start()
    with progress.watching("build", lambda: 0, 3):
        ended = run_graph(graph, job_of(config, "build"))
    thread.join()
    assert ended.state == "DONE"
    assert ended.id
    assert (ended.counters["in-items"], ended.counters["out-items"]) == (6, 6)
    assert ended.distributions["build-msec"].count == 3
