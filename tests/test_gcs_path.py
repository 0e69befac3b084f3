"""`gs://` paths: pathlib's algebra, what is there, and that nothing is written through them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gcs_bucket import bucket_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpipe import files
from simpipe.errors import ContractError, SimpipeError
from simpipe.gs_path import GsPath
from tests.fake_gcs import FakeGcs

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NAMES, max_size=4), st.lists(NAMES, min_size=1, max_size=3), NAMES)
def test_names_behave_as_those_of_posix(above: list[str], below: list[str], other: str) -> None:
    base, plain = GsPath("gs:", "bucket", *above), PurePosixPath("/bucket", *above)
    path, model = base.joinpath(*below), plain.joinpath(*below)
    assert str(path) == f"gs:/{model}"
    assert files.located(str(path)) == path == files.located(path)
    assert (path.name, path.stem, path.suffix, len(path.parts)) == (model.name, model.stem, model.suffix, len(model.parts))
    assert path.relative_to(base).as_posix() == model.relative_to(plain).as_posix() == "/".join(below)
    assert str(path.with_name(other)) == f"gs:/{model.with_name(other)}"
    assert [str(each) for each in path.parents][: len(below)] == [f"gs:/{each}" for each in list(model.parents)[: len(below)]]
    assert path.is_relative_to(base)
    assert base / path.relative_to(base) == path
    assert path.is_absolute()
    assert (path.bucket, path.key) == ("bucket", "/".join([*above, *below]))
    # Beam pickles paths that travel to its workers: this test's own bytes, none from a data set.
    again = pickle.loads(pickle.dumps(path))
    assert (again, type(again), hash(again), str(again)) == (path, GsPath, hash(path), str(path))
    assert all(type(each) is GsPath for each in (path.parent, path / "x", path.with_suffix(".y"), base.joinpath("z")))


def test_only_addresses_become_paths() -> None:
    assert type(files.located("a/b")) is type(Path())
    assert files.located("file:///a/b") == Path("/a/b")
    for text in ("gs://", "s3://bucket/x"):
        with pytest.raises(SimpipeError):
            files.located(text)
    with pytest.raises(SimpipeError, match="must be local"):
        files.local("gs://bucket/x")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, GsPath, FakeGcs]]:
    folder = tmp_path_factory.mktemp("served")
    with bucket_at(folder) as (fake, _):
        local = folder / "gcs" / "bucket" / "set"
        for name in ("a.txt", "b.arrow", "sub/a.txt", "sub/deep/c.txt", "sub-way/d.txt", "z[1].txt", ".hidden"):
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_text(name)
        yield local, GsPath("gs:", "bucket", "set"), fake


@pytest.mark.parametrize(
    "pattern", ["*", "*.txt", "*/a.txt", "sub*/*.txt", "**/*.txt", "sub/*", "a.txt", "z[[]1].txt", "?.txt", "*/*/*"]
)
def test_patterns_find_what_pathlib_finds(served: tuple[Path, GsPath, FakeGcs], pattern: str) -> None:
    local, remote, _ = served
    expected = sorted(path.relative_to(local).as_posix() for path in local.glob(pattern))
    assert sorted(path.relative_to(remote).as_posix() for path in remote.glob(pattern)) == expected


def test_what_is_there_is_told_as_of_a_folder(served: tuple[Path, GsPath, FakeGcs]) -> None:
    local, remote, _ = served
    for name in ("a.txt", "sub", "sub/deep", "su", "absent", "sub/deep/c.txt", "."):
        here, there = local / name, remote / name
        assert (there.exists(), there.is_file(), there.is_dir()) == (here.exists(), here.is_file(), here.is_dir()), name
    assert {path.name for path in remote.iterdir()} == {path.name for path in local.iterdir()}
    assert files.tree(remote) == files.tree(local)
    assert (remote / "sub/a.txt").stat().st_size == len("sub/a.txt")
    assert (remote / "sub/a.txt").read_text() == (remote / "sub/a.txt").open().read() == "sub/a.txt"
    for missing in (lambda: (remote / "no").stat(), lambda: (remote / "no").read_bytes(), lambda: os.fspath(remote / "no")):
        with pytest.raises(FileNotFoundError):
            missing()
    with pytest.raises(FileNotFoundError):
        list((remote / "no").iterdir())
    with pytest.raises(ContractError, match="gs://nowhere"):
        GsPath("gs:", "nowhere", "x").is_dir()


def test_libraries_open_copies_and_files_writes(served: tuple[Path, GsPath, FakeGcs]) -> None:
    local, remote, _ = served
    rows = np.arange(12.0).reshape(3, 4)
    with files.replacing(remote / "out" / "rows.npy") as temporary:
        np.save(temporary, rows)
    assert np.array_equal(np.load(local / "out" / "rows.npy"), rows)
    assert np.array_equal(np.load(remote / "out" / "rows.npy", mmap_mode="r"), rows)
    with files.replacing(remote / "out" / "t.parquet") as temporary:
        pq.write_table(pa.table({"x": [1, 2]}), temporary)
    assert pq.read_table(remote / "out" / "t.parquet").equals(pq.read_table(local / "out" / "t.parquet"))
    entry = files.entry_of(remote / "out" / "rows.npy", remote)
    assert entry == files.entry_of(local / "out" / "rows.npy", local)
    files.verify(remote / "out" / "rows.npy", entry)
    folder = Path(os.fspath(remote / "sub"))
    assert files.tree(folder) == files.tree(local / "sub")

    def half() -> None:
        with files.replacing(remote / "out" / "half") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert not (remote / "out" / "half").exists()
    files.remove_folder(remote / "out")
    assert not (remote / "out").exists()


def test_writing_through_a_path_is_refused(served: tuple[Path, GsPath, FakeGcs]) -> None:
    path = served[1] / "a.txt"
    for write in (
        lambda: path.write_bytes(b""),
        lambda: path.write_text(""),
        lambda: path.touch(),
        lambda: path.open("w"),
        lambda: path.rename("x"),
        lambda: path.replace("x"),
    ):
        with pytest.raises(SimpipeError, match=r"gs://bucket/set/a\.txt: cannot .* on object storage"):
            write()
    assert path.read_text() == "a.txt"


def test_a_folder_appears_whole_and_the_first_one_stays(tmp_path: Path) -> None:
    with bucket_at(tmp_path) as (fake, _):
        folder, local = GsPath("gs:", "bucket", "part"), tmp_path / "gcs" / "bucket" / "part"
        assert not files.is_complete(folder, last="last.json")
        for attempt in ("one", "two"):
            with files.replacing_folder(folder, last="last.json") as temporary:
                (temporary / "sub").mkdir()
                for name in ("a", "sub/b", "last.json"):
                    (temporary / name).write_text(attempt)
        assert files.is_complete(folder, last="last.json")
        assert {path.read_text() for path in local.rglob("*") if path.is_file()} == {"one"}
        assert [name for name in fake.written if name.startswith("bucket/part/")][-1] == "bucket/part/last.json"
        # What an attempt that was stopped left is written over, and what it named otherwise goes.
        (local / "last.json").unlink()
        (local / "stale").write_text("one")
        with files.replacing_folder(folder, last="last.json") as temporary:
            for name in ("a", "last.json"):
                (temporary / name).write_text("three")
        assert {path.name: path.read_text() for path in local.rglob("*") if path.is_file()} == {
            "a": "three",
            "last.json": "three",
        }
