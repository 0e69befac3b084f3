"""Prune: what stays is what set arithmetic says, whatever refers to what, and wherever it was killed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe import files, releases, tags
from simpipe.cli import main
from simpipe.errors import ReleaseError
from simpipe.prune import PruneReport, prune
from tests.plain_releases import make_plain, release_name

PATHS = ("a", "b/c", "b/d", "e/f/g")


@dataclass(frozen=True)
class Graph:
    """Releases by number: own files, and by path the release whose file is carried over."""

    own: tuple[frozenset[str], ...]
    carried: tuple[dict[str, int], ...]
    live: int | None
    previous: int | None
    tagged: frozenset[int]
    keep: int

    def make(self, root: Path) -> None:
        for number, paths in enumerate(self.own):
            content = dict.fromkeys(sorted(paths), b"%d" % number * (number + 1))
            make_plain(root, number, content, carried={p: release_name(n) for p, n in self.carried[number].items()})
        for number in (self.previous, self.live):
            if number is not None:
                releases.publish(root, release_name(number), needed_steps=())
        for number in self.tagged:
            tags.set_tag(root, f"t{number}", release_name(number))

    def staying(self) -> set[int]:
        newest = set(range(len(self.own))[len(self.own) - min(self.keep, len(self.own)) :])
        return newest | self.tagged | {each for each in (self.live, self.previous) if each is not None}

    def files_left(self) -> set[str]:
        staying = self.staying()
        own = {f"{release_name(number)}/{path}" for number in staying for path in self.own[number]}
        carried = {f"{release_name(n)}/{path}" for number in staying for path, n in self.carried[number].items()}
        return own | carried | {f"{release_name(number)}/manifest.json" for number in staying}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(0, 7))
    own = [draw(st.frozensets(st.sampled_from(PATHS))) for _ in range(count)]
    carried = []
    for number in range(count):
        holders = {path: [n for n in range(number) if path in own[n]] for path in PATHS if path not in own[number]}
        chosen = {path: draw(st.sampled_from([None, *numbers])) for path, numbers in holders.items()}
        carried.append({path: n for path, n in chosen.items() if n is not None})
    some = st.sampled_from(range(count)) if count else st.none()
    live = draw(st.none() | some)
    previous = draw(st.none() | some) if live is not None else None
    tagged = draw(st.frozensets(some)) if count else frozenset()
    previous = None if previous == live else previous
    return Graph(tuple(own), tuple(carried), live, previous, tagged, draw(st.integers(0, 4)))


def files_of(root: Path) -> set[str]:
    parent = root / "releases"
    found = {path.relative_to(parent).as_posix() for path in parent.rglob("*") if path.is_file()}
    return {path for path in found if Path(path).name not in (releases.PUBLISHED, releases.PRUNED)}


def check_kept(root: Path, graph: Graph) -> None:
    for number in graph.staying():
        releases.verify_release(*releases.find(root, release_name(number)))


@given(graph=graphs())
@settings(max_examples=120, deadline=None)
def test_what_stays_is_what_set_arithmetic_says(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        graph.make(root)
        before = files_of(root)
        planned = prune(root, keep=graph.keep, dry_run=True)
        assert files_of(root) == before, "a dry run removes nothing"
        report = prune(root, keep=graph.keep)
        assert files_of(root) == graph.files_left()
        check_kept(root, graph)
        assert set(report.kept) == {release_name(number) for number in graph.staying()}
        assert (planned.removed, planned.kept, planned.cleaned) == (report.removed, report.kept, report.cleaned)
        marks = sum(n not in graph.staying() for n in {graph.live, graph.previous} - {None})
        assert report.files == len(before) - len(graph.files_left()) + marks
        folders = {path.name for path in (root / "releases").iterdir()} if graph.own else set()
        assert folders == {path.split("/")[0] for path in graph.files_left()}, "no empty folder stays"
        again = prune(root, keep=graph.keep)
        assert (again.files, again.removed) == (0, ())


@given(graph=graphs(), after=st.lists(st.integers(0, 6), max_size=2))
@settings(max_examples=25, deadline=None)
def test_what_is_not_referred_to_any_more_goes_at_the_next_prune(graph: Graph, after: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        graph.make(root)
        prune(root, keep=graph.keep)
        for tag in tags.read_tags(root):
            tags.remove_tag(root, tag)
        there = graph.staying()
        moved = [number for number in after if number in there]
        named = [graph.previous, graph.live]
        for number in moved:
            if named[-1] != number:
                releases.publish(root, release_name(number), needed_steps=())
                named.append(number)
        left = Graph(graph.own, graph.carried, named[-1], named[-2], frozenset(), 0)
        prune(root, keep=0)
        assert files_of(root) == left.files_left()
        check_kept(root, left)


class Killed(BaseException):
    pass


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """Ends the block at its n-th change of a folder."""
    left = [steps]

    def counted(change):
        def step(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*args, **kwargs)

        return step

    with (
        mock.patch.object(os, "unlink", counted(os.unlink)),
        mock.patch.object(os, "rmdir", counted(os.rmdir)),
        mock.patch.object(os, "replace", counted(os.replace)),
        mock.patch.object(os, "rename", counted(os.rename)),
    ):
        yield


def test_killed_at_any_moment_it_harms_nothing_and_the_next_one_finishes(tmp_path: Path) -> None:
    own = (frozenset({"a", "b/c"}), frozenset({"b/d"}), frozenset({"a"}), frozenset({"e/f/g"}))
    carried: tuple[dict[str, int], ...] = ({}, {"a": 0}, {}, {"b/c": 0, "b/d": 1})
    graph = Graph(own, carried, live=3, previous=2, tagged=frozenset(), keep=1)
    graph.make(tmp_path / "template")
    unfinished = releases.start_release(tmp_path / "template", "f" * 64)
    files.write_bytes(unfinished / "partitions" / "x", b"x")
    for steps in range(60):
        root = tmp_path / str(steps)
        shutil.copytree(tmp_path / "template", root)
        try:
            with killed_after(steps):
                prune(root, keep=1)
        except Killed:
            check_kept(root, graph)
            assert {manifest.release for _, manifest in releases.finished(root)} >= {release_name(2), release_name(3)}
            prune(root, keep=1)
            assert files_of(root) == graph.files_left()
            assert not list(root.rglob(f"{files.TMP_PREFIX}*"))
        else:
            break
    assert steps > 10
    assert files_of(root) == graph.files_left()


def test_a_pruned_release_says_so_and_is_not_taken_for_an_unfinished_one(tmp_path: Path) -> None:
    one = make_plain(tmp_path, 1, {"a": b"1", "b": b"2"})
    make_plain(tmp_path, 2, {}, carried={"a": one})
    report = prune(tmp_path, keep=1)
    assert [(each.release, each.files, each.left, each.needed_by) for each in report.removed] == [(one, 2, 1, (release_name(2),))]
    with pytest.raises(ReleaseError, match=r"was removed by `simpipe prune`"):
        releases.find(tmp_path, one)
    assert releases.start_release(tmp_path, f"{1:064x}").name != one
    assert prune(tmp_path, keep=1).partly == {one: (release_name(2),)}


def test_young_releases_stay(tmp_path: Path) -> None:
    make_plain(tmp_path, 1)
    young = make_plain(tmp_path, 2, created_at=releases.now())
    odd = make_plain(tmp_path, 3, created_at="yesterday")
    report = prune(tmp_path, keep=0, older_than_days=1)
    assert report.kept == {odd: ("age unknown",), young: ("newer than 1 days",)}
    for wrong in ({"keep": -1}, {"older_than_days": -0.5}, {"older_than_days": float("nan")}):
        with pytest.raises(ReleaseError, match="below 0"):
            prune(tmp_path, **wrong)


def test_a_release_whose_manifest_cannot_be_read_keeps_all_that_it_may_refer_to(tmp_path: Path) -> None:
    one, two = make_plain(tmp_path, 1), make_plain(tmp_path, 2, {}, carried={"data.bin": release_name(1)})
    make_plain(tmp_path, 3)
    prune(tmp_path, keep=2)  # of `one` only what `two` refers to is left
    path = tmp_path / "releases" / two / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    report = prune(tmp_path, keep=0)
    assert "cannot be read" in report.kept[two][0]
    assert "may be referenced by" in report.kept[release_name(3)][0]
    assert report.partly == {one: (two,)}
    assert (report.removed, report.files) == ((), 0)
    path.write_bytes(content)
    releases.verify_release(*releases.find(tmp_path, two))
    prune(tmp_path, keep=0)
    assert files_of(tmp_path) == set()


def test_what_runs_is_left_alone(tmp_path: Path) -> None:
    one = make_plain(tmp_path, 1)
    unfinished = releases.start_release(tmp_path, "f" * 64)
    step = tmp_path / ".locks" / f"release-{1:064x}"[:20]
    with files.locked(step), files.locked(tmp_path / ".locks" / f"release-{'f' * 12}"):
        assert prune(tmp_path, keep=0).kept == {one: ("in work",), unfinished.name: ("in work",)}
    with files.locked(tmp_path / ".locks" / "reindex"):
        assert prune(tmp_path, keep=0).kept == {one: ("in work",), unfinished.name: ("in work",)}
    assert unfinished.is_dir()
    assert {each.release for each in prune(tmp_path, keep=0).removed} == {one, unfinished.name}
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_folder_that_is_just_made_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "releases" / release_name(5)
    folder.mkdir(parents=True)
    with files.locked(releases.new_release_lock(tmp_path)):
        assert prune(tmp_path).kept == {folder.name: ("in work",)}
    prune(tmp_path)
    assert not folder.exists()
    files.write_bytes(folder / "notes.txt", b"of somebody")
    assert "no release" in prune(tmp_path).kept[folder.name][0]
    assert (folder / "notes.txt").exists()


def leave(root: Path, path: str, content: bytes = b"12345") -> Path:
    files.write_bytes(root / path, content)
    return root / path


def test_what_killed_runs_left_goes(tmp_path: Path) -> None:
    one = make_plain(tmp_path, 1, provenance={"embeddings": "e" * 64})
    empty = json.dumps({"provenance": {"base": "x"}}).encode()
    left = [
        leave(tmp_path, f"{files.TMP_PREFIX}12-live.json"),
        leave(tmp_path, f"tags/{files.TMP_PREFIX}12-x.json"),
        leave(tmp_path, f"releases/{one}/partitions/{files.TMP_PREFIX}12-00001/rows.arrow"),
        leave(tmp_path, f"examples/abc/{files.TMP_PREFIX}12-dataset.json"),
        leave(tmp_path, f"releases/.work-{one}-evaluate-queries/x"),
        leave(tmp_path, "releases/.work-20200101T000000Z-abcdef-gate/x"),
        leave(tmp_path, f"releases/{one}/.work/plan.json"),
        leave(tmp_path, "embeddings/unused/changes.json"),
        leave(tmp_path, "embeddings/begun/.work/base.json"),
        leave(tmp_path, f"embeddings/begun/{files.TMP_PREFIX}12-index.parquet"),
        leave(tmp_path, "embeddings/unnamed/embeddings.json", empty),
    ]
    stays = [
        leave(tmp_path, f"embeddings/{'e' * 12}/embeddings.json", empty),
        leave(tmp_path, "embeddings/ordinary/embeddings.json", b'{"provenance": {}}'),
        leave(tmp_path, "examples/unfinished/.work/key.json"),
        leave(tmp_path, "embeddings/unfinished/.work/summary.json"),
        leave(tmp_path, f"releases/{one}/report.html"),
        leave(tmp_path, f"elsewhere/{files.TMP_PREFIX}12"),
    ]
    with files.locked(tmp_path / ".locks" / "encoder-0123"):
        report = prune(tmp_path)
        assert report.files == 0
        assert "encoder-0123" in report.notes[0]
    planned = prune(tmp_path, dry_run=True)
    assert all(path.exists() for path in left)
    report = prune(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in stays)
    assert sorted(planned.cleaned, key=str) == sorted(report.cleaned, key=str)
    assert (report.files, report.bytes) == (11, 10 * 5 + len(empty))
    assert prune(tmp_path).files == 0


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        make_plain(tmp_path, number)
    at = ["--set", f"root={tmp_path}"]
    assert main(["prune", "--dry-run", "--keep", "2", *at]) == 0
    said = capsys.readouterr().err
    assert f"{release_name(0)} would be removed: 2 files" in said
    assert f"{release_name(3)} kept: newest" in said
    assert main(["prune", "--keep", "2", "--json", *at]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == 4
    assert [each["release"] for each in report["removed"]] == [release_name(0), release_name(1)]
    assert set(report) == {*PruneReport.__dataclass_fields__, "files", "bytes"}
    assert main(["prune", "--keep", "-1", *at]) == 2
