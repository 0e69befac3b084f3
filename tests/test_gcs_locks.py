"""Locks and leases on `gs://`: one holder at a time; what a killed or stopped process left is taken over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcs_bucket import bucket_at

from simpipe import files, gcs, gcs_locks
from simpipe.errors import SimpipeError
from simpipe.gs_path import GsPath
from simpipe.leases import take_exclusive, take_lease
from tests.fake_gcs import FakeGcs

LOCK = GsPath("gs:", "bucket", "root", ".locks", "step")
ROOT = GsPath("gs:", "bucket", "root")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, FakeGcs]]:
    monkeypatch.setattr(gcs_locks, "_POLL", 0.02)
    with bucket_at(tmp_path) as (fake, _):
        yield tmp_path, fake


def test_threads_take_turns(served: tuple[Path, FakeGcs]) -> None:
    inside, most, waited = [0], [0], []

    def work() -> None:
        for _ in range(3):
            with files.locked(LOCK, lambda: waited.append(1)):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert waited
    assert not LOCK.exists(), "nothing is left"


def other_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on this process is one of a machine with another cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "elsewhere"))


def test_another_machine_waits_and_is_told(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = served
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with files.locked(LOCK):
            held.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    other_machine(monkeypatch, folder)
    with files.trying_lock(LOCK) as free:
        assert not free
    told = []

    def waiting() -> None:
        told.append(1)
        go.set()

    with files.locked(LOCK, waiting):
        assert told == [1]
    thread.join()
    with files.trying_lock(LOCK) as free:
        assert free
    assert not LOCK.exists()


def test_a_lock_that_is_renewed_is_not_taken_over(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = served
    monkeypatch.setattr(gcs_locks, "EXPIRES", 0.4)
    monkeypatch.setattr(gcs_locks, "_SKEW", 0.0)
    with files.locked(LOCK):
        first = LOCK.about()
        other_machine(monkeypatch, folder)
        time.sleep(1.0)
        with files.trying_lock(LOCK) as free:
            assert not free
        now = LOCK.about()
        assert first is not None
        assert now is not None
        assert now.generation != first.generation, "renewed"


def test_what_another_machine_left_is_taken_over_when_it_expires(
    served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_locks, "EXPIRES", 0.3)
    monkeypatch.setattr(gcs_locks, "_SKEW", 0.0)
    gcs.upload("bucket", LOCK.key, json.dumps({"owner": "another", "pid": 1}).encode())
    with files.trying_lock(LOCK) as free:
        assert not free
    told: list[int] = []
    with files.locked(LOCK, lambda: told.append(1)):
        assert told == [1]
    gcs.upload("bucket", LOCK.key, b"no JSON")
    time.sleep(0.4)
    with files.trying_lock(LOCK) as free:
        assert free


def test_after_a_kill_the_next_process_of_the_machine_goes_on_at_once(served: tuple[Path, FakeGcs]) -> None:
    code = (
        "import os, signal, simpipe.files as f\n"
        "with f.locked(f.located('gs://bucket/root/.locks/step')):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert LOCK.exists()
    told: list[int] = []
    with files.locked(LOCK, lambda: told.append(1)):
        assert not told
    assert not LOCK.exists()


def test_who_stood_still_and_lost_the_lock_is_told(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_locks, "EXPIRES", 0.2)

    def stand_still() -> None:
        with files.locked(LOCK):
            gcs.upload("bucket", LOCK.key, b"{}")  # as the one who takes over does
            time.sleep(0.3)

    with pytest.raises(SimpipeError, match="another one took the lock over"):
        stand_still()
    assert LOCK.read_bytes() == b"{}", "the other's lock stays"


def test_a_release_that_is_read_is_not_removed(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "releases" / "r1"
    assert take_lease(ROOT / "elsewhere" / "r1") is None
    readers = [take_lease(folder), take_lease(folder)]
    assert all(readers)
    assert take_exclusive(ROOT, "r1") is None
    for reader in readers:
        assert reader is not None
        reader.close()
    for _ in range(200):  # a lease that is closed goes soon
        removing = take_exclusive(ROOT, "r1")
        if removing is not None:
            break
        time.sleep(0.02)
    assert removing is not None
    assert take_exclusive(ROOT, "r1") is None, "one at a time"
    reading = threading.Thread(target=lambda: readers.append(take_lease(folder)))
    reading.start()
    time.sleep(0.2)
    assert len(readers) == 2, "it waits until the release is looked at"
    removing.close()
    reading.join()
    assert readers[2] is not None
    readers[2].close()


def test_a_lease_that_nobody_renews_counts_for_its_time_only(
    served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch
) -> None:
    gcs.upload("bucket", f"{ROOT.key}/.leases/r1/r-dead", b"{}")
    assert take_exclusive(ROOT, "r1") is None
    monkeypatch.setattr(gcs_locks, "LEASE_EXPIRES", 0.2)
    time.sleep(0.3)
    removing = take_exclusive(ROOT, "r1")
    assert removing is not None
    assert not (ROOT / ".leases" / "r1" / "r-dead").exists()


def test_who_may_not_write_reads_without_a_lease(served: tuple[Path, FakeGcs]) -> None:
    served[1].refuse = True
    assert take_lease(ROOT / "releases" / "r1") is None
