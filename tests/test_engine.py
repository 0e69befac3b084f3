"""The engine: releases in processes of their own, asked while they are swapped, killed, damaged and overloaded."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from release_maker import make_release

from simpipe import files, releases, tags
from simpipe.config.serve import ServeConfig
from simpipe.errors import QueryError, ReleaseError, SimpipeError
from simpipe.index.router import Router
from simpipe.index.searcher import open_release
from simpipe.leases import take_exclusive
from simpipe.pointer import move_pointer, read_pointer
from simpipe.serve.answers import answer
from simpipe.serve.engine import ProcessEngine
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError, QueueFullError
from simpipe.serve.jobs import Job

DIM = 6
NAMES = [f"2025010{day}T000000Z-aaaaaa" for day in range(1, 6)]
FIRST, SECOND, THIRD, BROKEN, UNFINISHED = NAMES
SETTINGS = ServeConfig(poll_seconds=0.05, open_releases=1, queue=64, batch=32)
ASKED = np.random.default_rng(1).normal(size=(8, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Releases of other vectors under equal ids: an answer tells which one it is from. The second one has 11 partitions."""
    root = tmp_path_factory.mktemp("root")
    random = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        vectors = random.normal(size=(200, DIM)).astype(np.float32)
        make_release(root, vectors, Router(11 if number == 1 else 2), release=name, publish=False)
    releases.publish(root, FIRST, needed_steps=())
    return root


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, bytes]:
    """What each release answers to `lookup()`."""
    found = {}
    for name in NAMES:
        with open_release(root, name) as searcher:
            (one,) = answer(searcher, [lookup()])
            assert one.body is not None
            found[name] = one.body
    return found


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Any], Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def engine(root: Path, run) -> Iterator[ProcessEngine]:
    made = ProcessEngine(str(root), SETTINGS)
    run(made.start())
    yield made
    run(made.close())


@pytest.fixture(autouse=True)
def first_is_live(root: Path, engine: ProcessEngine, run) -> None:
    publish(root, FIRST)
    run(until(lambda: engine.status().release == FIRST and engine.status().failed is None))


def publish(root: Path, name: str) -> None:
    pointer = read_pointer(root)
    sha256 = files.sha256_file(root / "releases" / name / "manifest.json")
    move_pointer(root, name, expected=pointer.release if pointer else None, manifest_sha256=sha256)


def lookup(**how) -> Job:
    return Job("lookup", ASKED[:3], k=4, **how)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def test_answers_are_those_of_the_library(engine, run, expected):
    reply = run(engine.ask(lookup(), timeout=10))
    assert (reply.release, reply.body) == (FIRST, expected[FIRST])
    about = run(engine.about())
    assert (about["release"], about["items"], about["dim"], about["metadata"]) == (FIRST, 200, DIM, ["number"])
    assert not about["pictures"]
    assert about["cutpoints"] == []
    assert engine.status().cache_bytes > 0


def test_releases_are_listed(engine, root, run):
    tags.set_tag(root, "good", SECOND)
    engine._listed = None
    listed = {each["release"]: each for each in run(engine.releases())}
    assert sorted(listed) == NAMES
    assert [name for name, each in listed.items() if each["live"]] == [FIRST]
    assert listed[SECOND]["tags"] == ["good"]
    assert listed[SECOND]["items"] == 200


def test_what_is_wrong_with_a_job_is_said(engine, run):
    with pytest.raises(QueryError, match="row 1 holds NaN"):
        run(engine.ask(Job("lookup", np.array([[1.0] * DIM, [np.nan] * DIM], np.float32)), timeout=10))
    with pytest.raises(QueryError, match="'no' is not in release"):
        run(engine.ask(Job("items", ids=["i1", "no"]), timeout=10))


def test_swaps_while_it_is_asked(engine, root, run, expected):
    """Every answer is whole and from the release that it names; none fails."""
    seen: list[tuple[str, bool]] = []

    async def ask(stop: asyncio.Event) -> None:
        while not stop.is_set():
            reply = await engine.ask(lookup(), timeout=30)
            seen.append((reply.release, reply.body == expected[reply.release]))

    async def swap() -> None:
        stop = asyncio.Event()
        asking = [asyncio.create_task(ask(stop)) for _ in range(8)]
        for name in (SECOND, THIRD, FIRST, SECOND):
            publish(root, name)
            await until(lambda name=name: engine.status().release == name)
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*asking)

    before = engine.status().swaps
    run(swap())
    assert engine.status().swaps == before + 4
    assert all(right for _, right in seen)
    order = [name for at, (name, _) in enumerate(seen) if at == 0 or seen[at - 1][0] != name]
    assert set(order) == {FIRST, SECOND, THIRD}
    assert order[-1] == SECOND


def test_the_old_process_ends(engine, root, run):
    async def swap() -> int:
        pid = engine._live.pid
        publish(root, THIRD)
        await until(lambda: engine.status().open == (THIRD,))
        return pid

    pid = run(swap())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_death_fails_what_waits_and_another_process_starts(engine, run, expected):
    async def die() -> list[Any]:
        os.kill(engine._live.pid, signal.SIGSTOP)  # so that something waits
        waiting = [asyncio.create_task(engine.ask(lookup(), timeout=30)) for _ in range(3)]
        await asyncio.sleep(0.05)
        os.kill(engine._live.pid, signal.SIGKILL)
        found = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(NotReadyError):
            await engine.ask(lookup(), timeout=30)
        await until(lambda: engine.status().ready)
        return found

    before = engine.status().deaths
    assert [type(error) for error in run(die())] == [NotReadyError] * 3
    assert (engine.status().deaths, engine.status().queued) == (before + 1, 0)
    assert run(engine.ask(lookup(), timeout=10)).body == expected[FIRST]


@pytest.mark.parametrize("how", ["altered", "unfinished", "gone"])
def test_a_release_that_cannot_be_opened_leaves_the_old_one(engine, root, run, expected, how):
    name = BROKEN if how == "altered" else UNFINISHED if how == "unfinished" else "20250109T000000Z-aaaaaa"
    folder = root / "releases" / name
    pointer = read_pointer(root)
    assert pointer is not None
    sha256 = files.sha256_file(folder / "manifest.json") if folder.exists() else "0" * 64
    if how == "altered":
        path = next((folder / "partitions").rglob("vectors.npy"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif how == "unfinished":
        (folder / "manifest.json").unlink()
    move_pointer(root, name, expected=pointer.release, manifest_sha256=sha256)
    run(until(lambda: engine.status().failed is not None and engine.status().opening is None))
    assert name in engine.status().failed
    reply = run(engine.ask(lookup(), timeout=10))
    assert (reply.release, reply.body) == (FIRST, expected[FIRST])


def test_a_manifest_other_than_the_published_one_is_refused(engine, root, run):
    pointer = read_pointer(root)
    assert pointer is not None
    move_pointer(root, THIRD, expected=pointer.release, manifest_sha256="0" * 64)
    run(until(lambda: engine.status().failed is not None))
    assert "altered after it was published" in engine.status().failed
    assert engine.status().release == FIRST


def test_an_open_release_is_leased(engine, root, run):
    assert take_exclusive(root, FIRST) is None
    publish(root, SECOND)
    run(until(lambda: engine.status().open == (SECOND,)))
    lease = take_exclusive(root, FIRST)
    assert lease is not None
    lease.close()


def test_the_queue_is_bounded(engine, run, expected):
    async def flood() -> list[Any]:
        os.kill(engine._live.pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(engine.ask(lookup(), timeout=30)) for _ in range(40)]
        await asyncio.sleep(0.05)
        assert engine.status().queued == 63  # 21 jobs of 3 queries
        os.kill(engine._live.pid, signal.SIGCONT)
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = run(flood())
    assert [type(each) for each in found[21:]] == [QueueFullError] * 19
    assert {each.body for each in found[:21]} == {expected[FIRST]}
    assert max(each.batch for each in found[:21]) == 30  # what waited was searched together, up to `batch`
    assert engine.status().queued == 0


def test_deadlines(engine, run, expected):
    async def late() -> None:
        os.kill(engine._live.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await engine.ask(lookup(), timeout=0.05)
        assert time.monotonic() - began < 10
        os.kill(engine._live.pid, signal.SIGCONT)
        await until(lambda: engine.status().queued == 0)

    run(late())
    assert run(engine.ask(lookup(), timeout=10)).body == expected[FIRST]


def test_other_releases_by_name(engine, root, run, expected):
    publish(root, THIRD)
    run(until(lambda: engine.status().open == (THIRD,)))
    for name in (SECOND, "previous", SECOND):
        found = run(engine.ask(lookup(), release=name, timeout=30))
        assert found.release == (FIRST if name == "previous" else SECOND)
        assert found.body == expected[found.release]
    assert set(engine.status().open) <= {FIRST, SECOND, THIRD}
    assert SECOND in engine.status().open
    run(until(lambda: set(engine.status().open) == {THIRD, SECOND}))  # no more than one beside the live one
    tags.set_tag(root, "good", SECOND)
    assert run(engine.ask(lookup(), release="good", timeout=30)).release == SECOND
    assert run(engine.ask(lookup(), release=THIRD, timeout=30)).release == THIRD
    assert run(engine.about(SECOND))["partitions"] == 11


@pytest.mark.parametrize(
    "name", ["nothing", "../../etc", "/etc", "gs://bucket", "a\0b", "x" * 5000, ".", "..", "", "20250101T000000Z-bbbbbb"]
)
def test_names_that_are_no_release(engine, run, name):
    with pytest.raises(NotFoundError):
        run(engine.ask(lookup(), release=name, timeout=10))


def test_idle_releases_are_closed(root, run):
    async def idle() -> None:
        made = ProcessEngine(str(root), SETTINGS.model_copy(update={"idle_seconds": 0.1}))
        await made.start()  # beside the other engine on this root
        assert (await made.ask(lookup(), release=SECOND, timeout=30)).release == SECOND
        await until(lambda: made.status().open == (FIRST,))
        await made.close()

    run(idle())


def test_it_does_not_start_without_a_live_release(tmp_path, run):
    with pytest.raises(ReleaseError, match="nothing is published"):
        run(ProcessEngine(str(tmp_path), SETTINGS).start())
    files.write_bytes(tmp_path / "live.json", b"{")
    with pytest.raises(SimpipeError, match="damaged"):
        run(ProcessEngine(str(tmp_path), SETTINGS).start())
