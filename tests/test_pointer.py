"""The pointer, on disk and on object storage: it moves only from what was seen, and what it names was verified."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.publishers import emulated, race
from simpipe import files, releases, storage, tags
from simpipe.errors import ContractError, PublishConflictError, ReleaseError, SimpipeError
from simpipe.pointer import Pointer, move_pointer, read_pointer
from tests.fake_gcs import FakeGcs, serving
from tests.plain_releases import make_plain, release_name

SHA = "0" * 64


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    (tmp_path / "bucket" / "root").mkdir(parents=True)
    with serving(tmp_path) as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        monkeypatch.setattr("simpipe.gcs.DEADLINE", 20.0)
        yield fake


@pytest.fixture(params=["local", "gcs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, gcs: FakeGcs) -> tuple[str | Path, Path]:
    """A root, and where it lies on disk."""
    local = tmp_path / "bucket" / "root"
    return (local if request.param == "local" else "gs://bucket/root"), local


def publish(root: str | Path, release: str, **options: object) -> Pointer:
    return releases.publish(root, release, needed_steps=(), **options)  # type: ignore[arg-type]


def test_a_conditional_write_takes_effect_only_on_what_was_read(place: tuple[str | Path, Path]) -> None:
    folder = storage.open_folder(place[0])
    assert folder.read_with_generation("x.json") is None
    assert not folder.write_if("x.json", b"one", 7)
    assert folder.write_if("x.json", b"one", 0)
    assert not folder.write_if("x.json", b"other", 0)
    found = folder.read_with_generation("x.json")
    assert found is not None
    assert found[0] == b"one"
    assert folder.write_if("x.json", b"two\r\n\xff\x00", found[1])
    assert not folder.write_if("x.json", b"three", found[1])
    again = folder.read_with_generation("x.json")
    assert again is not None
    assert again[0] == b"two\r\n\xff\x00"
    assert again[1] != found[1]
    with pytest.raises(ContractError, match="leaves its folder"):
        folder.write_if("../x", b"", 0)


def test_the_pointer_moves_from_what_was_expected(place: tuple[str | Path, Path]) -> None:
    root, local = place
    assert read_pointer(root) is None
    first = move_pointer(root, "a", expected=None, manifest_sha256=SHA)
    assert (first.release, first.previous, first.forced) == ("a", None, ())
    assert "forced" not in json.loads((local / "live.json").read_text())
    with pytest.raises(PublishConflictError, match=r"live\.json: a went live meanwhile \(expected None\)"):
        move_pointer(root, "b", expected=None, manifest_sha256=SHA)
    second = move_pointer(root, "b", expected="a", manifest_sha256=SHA, forced=["items", "drift"])
    assert read_pointer(root) == second
    assert (second.previous, second.forced) == ("a", ("items", "drift"))
    assert json.loads((local / "live.json").read_text())["forced"] == ["items", "drift"]
    assert move_pointer(root, "b", expected="b", manifest_sha256=SHA) == second, "live already: nothing moves"
    with pytest.raises(ReleaseError, match="altered after it was published"):
        move_pointer(root, "b", expected="b", manifest_sha256="1" * 64)


def test_who_is_overtaken_between_look_and_move_gets_a_conflict(place: tuple[str | Path, Path]) -> None:
    root, _ = place
    move_pointer(root, "a", expected=None, manifest_sha256=SHA)

    def overtake() -> None:
        move_pointer(root, "b", expected="a", manifest_sha256=SHA)

    with pytest.raises(PublishConflictError, match="b went live meanwhile"):
        move_pointer(root, "c", expected="a", manifest_sha256=SHA, prepare=overtake)
    pointer = read_pointer(root)
    assert pointer is not None
    assert (pointer.release, pointer.previous) == ("b", "a")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"release": 5, "published_at": 1, "manifest_sha256": null}', "\xff"])
def test_a_damaged_pointer_is_named(place: tuple[str | Path, Path], content: str) -> None:
    root, local = place
    (local / "live.json").write_text(content, "latin-1")
    for use in (lambda: read_pointer(root), lambda: releases.rollback(root), lambda: publish(root, make_plain(local, 1))):
        with pytest.raises(ReleaseError, match=r"live\.json: damaged, not a pointer"):
            use()


def test_publish_and_roll_back_by_id_tag_and_name(place: tuple[str | Path, Path]) -> None:
    root, local = place
    one, two = make_plain(local, 1), make_plain(local, 2, {"own": b"2"}, carried={"data.bin": release_name(1)})
    tags.set_tag(files.located(str(root)), "good", one)
    assert publish(root, "good").release == one
    assert (local / "releases" / one / releases.PUBLISHED).exists()
    with pytest.raises(PublishConflictError):
        publish(root, two, expected=two)
    pointer = publish(root, two, expected=one, forced=["items"])
    assert (pointer.release, pointer.previous, pointer.forced) == (two, one, ("items",))
    back = releases.rollback(root)
    assert (back.release, back.previous, back.forced) == (one, two, ())
    assert publish(root, "previous").release == two
    assert publish(root, "live").release == two
    for unknown in ("20200101T000000Z-abcdef", "never-tagged", "../x"):
        with pytest.raises(ReleaseError, match="no such release"):
            publish(root, unknown)
    with pytest.raises(ReleaseError, match="`calibrate` has not run"):
        releases.publish(root, one)


@pytest.mark.parametrize("damage", ["altered", "longer", "missing", "carried"])
def test_what_is_not_whole_is_not_published(place: tuple[str | Path, Path], damage: str) -> None:
    root, local = place
    one = make_plain(local, 1, {"data.bin": b"abc", "deep/x": b""})
    two = make_plain(local, 2, {"data.bin": b"abc"}, carried={"deep/x": one})
    path = local / "releases" / two / "data.bin"
    if damage == "missing":
        path.unlink()
    elif damage == "carried":
        (local / "releases" / one / "deep" / "x").unlink()
    else:
        path.write_bytes(b"abd" if damage == "altered" else b"abcd")
    with pytest.raises(ReleaseError, match=r"deep/x" if damage == "carried" else r"data\.bin"):
        publish(root, two)
    assert read_pointer(root) is None
    assert publish(root, one).release == one if damage != "carried" else True


def test_a_lost_answer_to_a_write_that_took_effect_is_no_conflict(tmp_path: Path, gcs: FakeGcs) -> None:
    local = tmp_path / "bucket" / "root"
    one, two = make_plain(local, 1), make_plain(local, 2)
    gcs.lose_every = 1
    assert publish("gs://bucket/root", one).release == one
    assert publish("gs://bucket/root", two, expected=one).previous == one
    with pytest.raises(PublishConflictError):
        publish("gs://bucket/root", two, expected=one)
    pointers = [key for key in gcs.written if key.endswith("live.json")]
    assert len(pointers) == 2, "each written once"


def test_a_pointer_that_moves_while_it_is_read_is_read_again(tmp_path: Path, gcs: FakeGcs) -> None:
    folder = storage.open_folder("gs://bucket/root")
    assert folder.write_if("x", b"1", 0)
    read, moves = FakeGcs.read, iter([b"2", b"3"])

    def moving(fake: FakeGcs, path: Path, generation: str | None) -> bytes | None:
        with contextlib.suppress(StopIteration):
            fake.write(path, next(moves), {}, None)
        return read(fake, path, generation)

    gcs.read = moving.__get__(gcs)  # type: ignore[method-assign]
    found = folder.read_with_generation("x")
    assert found is not None
    assert found[0] == b"3"


def test_refused_writes_are_said_plainly(tmp_path: Path, gcs: FakeGcs) -> None:
    with pytest.raises(ContractError, match="gs://nowhere/x/y: no such object or bucket"):
        storage.open_folder("gs://nowhere/x").write_if("y", b"", 0)
    gcs.refuse = True
    with pytest.raises(SimpipeError, match="access refused") as caught:
        storage.open_folder("gs://bucket/root").write_if("y", b"", 0)
    assert "storage.objects.create" in caught.value.cure


def test_of_publishers_in_several_processes_exactly_one_wins(tmp_path: Path) -> None:
    found = race(str(tmp_path), tmp_path, rounds=25, publishers=3)
    assert found["winners"] == {1: 25}
    assert found["outcomes"] == {"conflict": 50, "won": 25}
    assert found["wrong_pointer"] == 0


def test_so_on_object_storage_where_answers_are_lost(tmp_path: Path) -> None:
    with emulated(tmp_path, lose_every=4) as (root, local):
        found = race(root, local, rounds=5)
    assert found["winners"] == {1: 5}
    assert found["outcomes"] == {"conflict": 5, "won": 5}
    assert found["wrong_pointer"] == 0
