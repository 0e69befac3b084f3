"""The cache of local copies: bounded, checked, shared; what was handed out stays readable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gcs_bucket import bucket_at

from simpipe import files, staging
from simpipe.errors import ConfigError, SimpipeError
from simpipe.gs_path import GsPath
from simpipe.staging import Staging
from tests.fake_gcs import FakeGcs

KIB = 1 << 10


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, FakeGcs]]:
    with bucket_at(tmp_path) as (fake, _):
        yield tmp_path, fake


def put(folder: Path, name: str, data: bytes) -> GsPath:
    path = folder / "gcs" / "bucket" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return GsPath("gs:", "bucket", *name.split("/"))


def copy_in(cache: Staging, path: GsPath) -> Path:
    about = path.about()
    assert about is not None
    return cache.file("bucket", about)


def test_what_was_used_longest_ago_goes_first(served: tuple[Path, FakeGcs]) -> None:
    folder, _ = served
    cache = Staging(folder / "small", limit=100 * KIB, grace=0.0)
    rng, copies = np.random.default_rng(0), []
    for number in range(9):
        copies.append(copy_in(cache, put(folder, f"f{number}", rng.bytes(10 * KIB))))
        os.utime(copies[-1].parent, (number, number))
    copy_in(cache, GsPath("gs:", "bucket", "f0"))  # used again: now the newest
    for number in range(9, 12):
        copies.append(copy_in(cache, put(folder, f"f{number}", rng.bytes(10 * KIB))))
    cache.shrink()
    kept = [copy.exists() for copy in copies]
    assert sum(kept) <= 10
    assert kept[0], "it was used again"
    assert not kept[1]
    assert all(kept[-3:])
    held = sum(path.stat().st_size for path in (folder / "small" / "objects").rglob("*") if path.is_file())
    assert held <= 100 * KIB


def test_what_was_just_handed_out_stays_and_what_is_open_lives_on(served: tuple[Path, FakeGcs]) -> None:
    folder, _ = served
    data = np.random.default_rng(1).bytes(64 * KIB)
    cache = Staging(folder / "small", limit=10 * KIB, grace=60.0)
    copy = copy_in(cache, put(folder, "big", data))
    cache.shrink()
    assert copy.read_bytes() == data, "within its grace"
    with open(copy, "rb") as handle:
        Staging(cache.cache, cache.limit, grace=0.0).shrink()
        assert not copy.exists()
        assert handle.read() == data
    assert copy_in(cache, GsPath("gs:", "bucket", "big")).read_bytes() == data, "fetched again"


@pytest.mark.parametrize("damage", [b"", b"short", bytes(5000)])
def test_a_damaged_copy_is_fetched_again(served: tuple[Path, FakeGcs], damage: bytes) -> None:
    folder, fake = served
    data = np.random.default_rng(2).bytes(5000)
    path = put(folder, "x", data)
    copy = Path(os.fspath(path))
    assert fake.sent == ["bucket/x"]
    assert Path(os.fspath(path)) == copy
    assert fake.sent == ["bucket/x"], "once"
    copy.write_bytes(damage)
    assert Path(os.fspath(path)).read_bytes() == data
    assert len(fake.sent) == 2


def test_a_replaced_object_has_another_copy(served: tuple[Path, FakeGcs]) -> None:
    path = GsPath("gs:", "bucket", "x")
    files.write_bytes(path, b"one")
    first = Path(os.fspath(path))
    files.write_bytes(path, b"two")
    assert (Path(os.fspath(path)).read_bytes(), first.read_bytes()) == (b"two", b"one")


def test_bodies_that_are_cut_or_fail_arrive_whole(served: tuple[Path, FakeGcs]) -> None:
    folder, fake = served
    data = np.random.default_rng(3).bytes(300 * KIB)
    fake.cut_every, fake.fail_every = 2, 3
    for number in range(8):
        assert Path(os.fspath(put(folder, f"c{number}", data))).read_bytes() == data
    assert fake.cut > 0
    assert fake.failed > 0


def test_what_arrives_damaged_again_and_again_is_refused(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = served
    path = put(folder, "x", b"right")
    monkeypatch.setattr(FakeGcs, "read", lambda *_: b"wrong")
    with pytest.raises(SimpipeError, match="gs://bucket/x: arrives damaged"):
        os.fspath(path)
    assert not list((folder / "cache" / "simpipe" / "new").iterdir())


def test_a_big_file_goes_up_in_chunks_and_comes_back(served: tuple[Path, FakeGcs], monkeypatch: pytest.MonkeyPatch) -> None:
    _, fake = served
    monkeypatch.setattr("simpipe.gcs._CHUNK", 1 << 20)
    data, path = np.random.default_rng(4).bytes((9 << 20) + 17), GsPath("gs:", "bucket", "big")
    fake.fail_every = 4
    with files.replacing(path) as temporary:
        temporary.write_bytes(data)
    assert fake.kinds["PUT"] >= 10
    assert fake.failed > 0
    assert path.read_bytes() == data


def test_several_processes_fetch_an_object_once(served: tuple[Path, FakeGcs]) -> None:
    folder, fake = served
    put(folder, "x", np.random.default_rng(5).bytes(4 << 20))
    code = "import os, simpipe.files as f; print(f.sha256_file(f.located('gs://bucket/x')))"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {run.communicate()[0].strip() for run in runs}
    assert said == {files.sha256_file(folder / "gcs" / "bucket" / "x")}
    assert fake.sent == ["bucket/x"]


def test_what_killed_processes_left_goes(served: tuple[Path, FakeGcs]) -> None:
    folder, _ = served
    cache = Staging(folder / "cache" / "simpipe", limit=KIB)
    for name, age in (("old", 100_000), ("fresh", 0)):
        (cache.cache / "new" / name).mkdir(parents=True)
        (cache.cache / "new" / name / "x").write_bytes(b"x")
        os.utime(cache.cache / "new" / name, (time.time() - age, time.time() - age))
    cache.shrink()
    assert [path.name for path in (cache.cache / "new").iterdir()] == ["fresh"]


def test_the_limit_is_a_number_of_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert staging.limit_bytes() == 20 << 30
    monkeypatch.setenv("SIMPIPE_CACHE_GIB", "0.5")
    assert staging.limit_bytes() == 1 << 29
    for text in ("x", "0", "-1", "nan"):
        monkeypatch.setenv("SIMPIPE_CACHE_GIB", text)
        with pytest.raises(ConfigError, match="SIMPIPE_CACHE_GIB"):
            staging.limit_bytes()
