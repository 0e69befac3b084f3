"""Folders, local and on object storage, answer alike; faults are repeated, what stays wrong is said with its path."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpipe import storage
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ContractError, SimpipeError
from simpipe.storage import Folder, GcsFolder, LocalFolder, open_folder
from tests.fake_gcs import FakeGcs, serving

DATA = np.random.default_rng(0).bytes(100_000)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gcs")
    folder = root / "bucket" / "a" / "set"
    (folder / "sub").mkdir(parents=True)
    (folder / "data.bin").write_bytes(DATA)
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "deep").write_bytes(b"deep")
    (root / "bucket" / "a" / "set-neighbor").write_bytes(b"not in the folder")
    for number in range(7):
        (folder / f"n{number}.json").write_text(str(number))
    return root


@pytest.fixture
def gcs(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with serving(bucket) as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        monkeypatch.setattr("simpipe.gcs.DEADLINE", 20.0)
        yield fake


def both(bucket: Path) -> tuple[Folder, Folder]:
    return open_folder(bucket / "bucket/a/set"), open_folder("gs://bucket/a/set")


def test_both_kinds_of_folder_answer_alike(bucket: Path, gcs: FakeGcs) -> None:
    local, remote = both(bucket)
    assert isinstance(local, LocalFolder)
    assert isinstance(remote, GcsFolder)
    names = ["data.bin", "empty", *(f"n{number}.json" for number in range(7))]
    for folder in (local, remote):
        assert isinstance(folder, Folder)
        assert folder.names() == names
        assert folder.sizes()["data.bin"] == len(DATA)
        assert folder.read("data.bin") == DATA
        assert folder.read("empty") == b""
        assert folder.read("sub/deep") == b"deep"
        assert (folder.size("data.bin"), folder.size("empty"), folder.size("absent"), folder.size("sub")) == (
            100_000,
            0,
            None,
            None,
        )
        assert storage.read_json(folder, "n3.json") == 3
        assert folder.full("n3.json") == f"{folder.where}/n3.json"
        assert open_folder(folder) is folder
        # Beam pickles what it sends to its workers, and a folder is among it: this test's own bytes, none from a data set.
        assert pickle.loads(pickle.dumps(folder)).read("n1.json") == b"1"
    assert remote.where == "gs://bucket/a/set"
    assert open_folder("gs://bucket/a/set/").where == "gs://bucket/a/set"
    assert open_folder("gs://bucket").read("a/set/n0.json") == b"0"
    assert open_folder(f"file://{bucket}/bucket/a/set") == local


@given(start=st.integers(0, 110_000), length=st.integers(-5, 110_000))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranges_are_those_of_the_bytes(bucket: Path, gcs: FakeGcs, start: int, length: int) -> None:
    for folder in both(bucket):
        assert folder.read_range("data.bin", start, start + length) == DATA[start : max(start + length, start)]


def test_a_range_asks_for_its_bytes_only(bucket: Path, gcs: FakeGcs) -> None:
    assert both(bucket)[1].read_range("data.bin", 10, 20) == DATA[10:20]
    assert gcs.ranges == ["bytes=10-19"]


def test_threads_read_ranges_at_the_same_time(bucket: Path, gcs: FakeGcs) -> None:
    remote = both(bucket)[1]
    starts = range(0, len(DATA), 500)
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda start: remote.read_range("data.bin", start, start + 500), starts))
    assert b"".join(parts) == DATA


def test_failed_requests_are_repeated(bucket: Path, gcs: FakeGcs) -> None:
    gcs.fail_every = 4
    remote = both(bucket)[1]
    assert b"".join(remote.read_range("data.bin", start, start + 20_000) for start in range(0, 100_000, 20_000)) == DATA
    assert remote.size("data.bin") == len(DATA)
    assert len(remote.names()) == 9
    assert gcs.requests > 5 + 1 + 3  # ranges, size, pages of the listing


def test_a_body_that_breaks_off_is_read_again(bucket: Path, gcs: FakeGcs) -> None:
    gcs.cut_every = 3
    remote = both(bucket)[1]
    for _ in range(3):
        assert remote.read("data.bin") == DATA
        assert remote.read_range("data.bin", 7, 70_000) == DATA[7:70_000]


def test_missing_things_are_named(bucket: Path, gcs: FakeGcs) -> None:
    local, remote = both(bucket)
    for folder in (local, remote):
        with pytest.raises(ContractError, match=f"{folder.where}/absent.*missing|{folder.where}/absent: no such object"):
            folder.read("absent")
        with pytest.raises(ContractError, match="absent"):
            folder.read_range("absent", 0, 4)
        with pytest.raises(ContractError, match=r"dataset\.json") as caught:
            DatasetInfo.load(folder)
        assert caught.value.cure
    with pytest.raises(ContractError, match=r"gs://nowhere/x/f: no such object or bucket\n  cure: check the path"):
        open_folder("gs://nowhere/x").read("f")
    with pytest.raises(ContractError, match="gs://nowhere/x: no such"):
        open_folder("gs://nowhere/x").names()
    assert open_folder(bucket / "nowhere").names() == []


def test_a_name_may_not_leave_its_folder(bucket: Path, gcs: FakeGcs) -> None:
    for folder in both(bucket):
        for name in ("../set-neighbor", "/etc/hosts", "", "sub/../../set-neighbor"):
            for method in (folder.read, folder.full, folder.size):
                with pytest.raises(ContractError, match="leaves its folder"):
                    method(name)


def test_refused_access_is_said_plainly(bucket: Path, gcs: FakeGcs) -> None:
    gcs.refuse = True
    with pytest.raises(SimpipeError, match=r"gs://bucket/a/set/data\.bin: access refused .*storage\.objects\.get") as caught:
        both(bucket)[1].read("data.bin")
    assert "gcloud auth" in caught.value.cure


def test_no_server_is_said_plainly(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bucket) as fake:
        url = fake.url
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    monkeypatch.setattr("simpipe.gcs.DEADLINE", 0.5)
    with pytest.raises(SimpipeError, match=r"gs://bucket/a/set/data\.bin: cannot be read") as caught:
        both(bucket)[1].read("data.bin")
    assert not isinstance(caught.value, ContractError)


def test_no_credentials_are_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/credentials.json")
    with pytest.raises(SimpipeError, match=r"no credentials .*nowhere") as caught:
        open_folder("gs://bucket/a").read("x")
    assert "gcloud auth" in caught.value.cure


def test_other_addresses_and_a_missing_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SimpipeError, match="s3://bucket/x"):
        open_folder("s3://bucket/x")
    with pytest.raises(SimpipeError, match="names no bucket"):
        open_folder("gs:///x")
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(SimpipeError, match=r"gs://bucket/x: google-cloud-storage is not installed(.|\n)*simpipe\[gcp\]"):
        open_folder("gs://bucket/x")


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"{")
    with pytest.raises(ContractError, match=r"x\.json: not valid JSON"):
        storage.read_json(open_folder(tmp_path), "x.json")
