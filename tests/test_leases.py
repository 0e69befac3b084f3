"""Leases: what somebody reads is not pruned, whoever it is and however it ends; publish and prune never cross."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from simpipe import leases, releases, tags
from simpipe.errors import PublishConflictError, ReleaseError
from simpipe.index.query import QuerySpec, open_for
from simpipe.index.router import Router
from simpipe.index.searcher import open_release
from simpipe.prune import prune
from tests.plain_releases import make_plain, release_name
from tests.release_maker import RELEASE, make_release

VECTORS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root whose first release can be looked up in; two others went live since."""
    make_release(tmp_path, VECTORS, Router(2))
    return tmp_path


def retire(root: Path) -> None:
    """Makes the first release one that nothing names any more."""
    for number in (1, 2):
        releases.publish(root, make_plain(root, 3600 * number), needed_steps=())


def kept(root: Path) -> tuple[str, ...]:
    return prune(root, keep=0).kept.get(RELEASE, ())


def test_an_open_release_stays_until_it_is_closed(root: Path) -> None:
    searcher = open_release(root)
    retire(root)
    assert kept(root) == ("read",)
    assert searcher.lookup(VECTORS[:3], 1).ids.ravel().tolist() == ["i0", "i1", "i2"]
    searcher.close()
    searcher.close()
    assert kept(root) == ()
    assert not (root / "releases" / RELEASE).exists()
    assert not leases.lease_path(root, RELEASE).exists()


@pytest.mark.parametrize("how", ["root", "id", "tag", "folder", "job"])
def test_however_a_release_is_opened_it_is_leased(root: Path, how: str) -> None:
    folder = root / "releases" / RELEASE
    if how == "tag":
        tags.set_tag(root, "mine", RELEASE)
    opens = {
        "root": lambda: open_release(root),
        "id": lambda: open_release(root, RELEASE),
        "tag": lambda: open_release(root, "mine"),
        "folder": lambda: open_release(folder),
        "job": lambda: open_for(QuerySpec(str(folder), (), 5)),
    }
    searcher = opens[how]()
    if how == "tag":
        tags.remove_tag(root, "mine")
    retire(root)
    assert kept(root) == ("read",)
    del searcher
    gc.collect()
    assert kept(root) == (), "given back with the last reference"


def test_several_readers_share_a_release(root: Path) -> None:
    with open_release(root) as one, ThreadPoolExecutor(8) as pool:
        others = list(pool.map(lambda _: open_release(root), range(16)))
        retire(root)
        one.close()
        for other in others:
            assert kept(root) == ("read",)
            other.close()
    assert kept(root) == ()


def test_a_lease_goes_with_its_process(root: Path) -> None:
    code = (
        "import sys; from simpipe import open_release; s = open_release(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        retire(root)
        assert kept(root) == ("read",)
        reader.kill()
    assert kept(root) == ()


def test_where_no_lease_can_be_made_reading_works(root: Path) -> None:
    shutil.rmtree(root / leases.LEASES)
    (root / leases.LEASES).write_text("no folder")
    assert leases.take_lease(root / "releases" / RELEASE) is None
    assert open_release(root).lookup(VECTORS[:1], 1).ids[0, 0] == "i0"


def test_a_folder_outside_a_root_gets_no_lease(tmp_path: Path) -> None:
    assert leases.take_lease(tmp_path / "elsewhere" / RELEASE) is None
    assert list(tmp_path.iterdir()) == []


def test_who_opens_while_the_release_is_replaced_and_pruned_gets_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take, calls = releases.take_lease, []

    def late(folder: Path) -> leases.Lease | None:
        if not calls:
            calls.append(folder.name)
            retire(root)
            assert kept(root) == ()
        return take(folder)

    monkeypatch.setattr(releases, "take_lease", late)
    folder, _, lease = releases.lease_live(root)
    assert calls == [RELEASE]
    assert folder.name == release_name(7200)
    assert lease is not None
    assert lease.path.name == folder.name


def test_a_live_release_that_is_really_missing_is_named(root: Path) -> None:
    (root / "releases" / RELEASE / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match=RELEASE):
        open_release(root)


def test_a_lock_on_a_file_that_was_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(tmp_path, 1)
    folder, opened = tmp_path / "releases" / release_name(1), leases._open

    def removed_once(path: Path) -> int:
        descriptor = opened(path)
        monkeypatch.setattr(leases, "_open", opened)
        path.unlink()
        return descriptor

    monkeypatch.setattr(leases, "_open", removed_once)
    lease = leases.take_lease(folder)
    assert lease is not None
    assert leases.take_exclusive(tmp_path, folder.name) is None, "the lock is on the file that others see"


def test_what_is_published_while_it_is_pruned_is_either_kept_or_refused(tmp_path: Path) -> None:
    """Publish, roll back and prune from threads: the pointer never names a release that is gone."""
    names = [make_plain(tmp_path, number) for number in range(60)]
    releases.publish(tmp_path, names[0], needed_steps=())
    outcomes: list[str] = []
    start = threading.Barrier(3)

    def publisher(mine: list[str]) -> None:
        start.wait()
        for name in mine:
            try:
                releases.publish(tmp_path, name, needed_steps=())
                outcomes.append("published")
            except (ReleaseError, PublishConflictError) as error:
                outcomes.append(type(error).__name__)
            releases.verify_release(*releases.find(tmp_path, "live"))

    def pruner() -> None:
        start.wait()
        for keep in range(50, -1, -1):
            prune(tmp_path, keep=keep)

    with ThreadPoolExecutor(3) as pool:
        for work in [pool.submit(publisher, names[1::2]), pool.submit(publisher, names[2::2]), pool.submit(pruner)]:
            work.result()
    assert "published" in outcomes
    for name in ("live", "previous"):
        releases.verify_release(*releases.find(tmp_path, name))
    assert set(prune(tmp_path, keep=0).kept) == {releases.find(tmp_path, name)[1].release for name in ("live", "previous")}


def _publish_all(root: Path, names: list[str]) -> None:
    for name in names:
        try:
            releases.publish(root, name, needed_steps=())
        except (ReleaseError, PublishConflictError):
            continue


def test_so_from_processes(tmp_path: Path) -> None:
    names = [make_plain(tmp_path, number) for number in range(40)]
    releases.publish(tmp_path, names[0], needed_steps=())
    worker = multiprocessing.get_context("spawn").Process(target=_publish_all, args=(tmp_path, names[1:]))
    worker.start()
    while worker.is_alive():
        prune(tmp_path, keep=2)
        releases.verify_release(*releases.find(tmp_path, "live"))
    worker.join()
    assert worker.exitcode == 0
    for name in ("live", "previous"):
        releases.verify_release(*releases.find(tmp_path, name))


def test_a_release_made_out_of_another_one_finds_its_files(tmp_path: Path) -> None:
    """While one is being made, what it is made from is held."""
    one, two, three = (make_plain(tmp_path, number) for number in range(3))
    for name in (one, two, three):
        releases.publish(tmp_path, name, needed_steps=())
    with releases.holding(tmp_path, one) as (folder, manifest):
        assert prune(tmp_path, keep=0).kept[one] == ("read",)
        fresh, _ = releases.open_for_change(folder, manifest, "report")
    report = prune(tmp_path, keep=1)
    assert [(each.release, each.left, each.needed_by) for each in report.removed] == [(one, 1, (fresh.name,))]
    releases.verify_release(*releases.find(tmp_path, fresh.name))
    with pytest.raises(ReleaseError, match="was removed by"):
        releases.open_for_change(folder, manifest, "report")
