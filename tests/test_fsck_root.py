"""fsck of what lies around the files of releases: pointer, tags, leases, unfinished and pruned releases; and the verb."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from conftest import clustered
from release_maker import make_release
from whole_root import FIRST, SECOND, at, flip, found

from simpipe import cli, files, releases, tags
from simpipe.config.index import KMeansRouter
from simpipe.fsck import check_root
from simpipe.index.router import Router, fit_router
from simpipe.leases import take_lease

ROWS = "partitions/00001/rows.arrow"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 200_000, b"\xff\xfe", b'{"release": 1e999}', b"9" * 9999])
@pytest.mark.parametrize("path", [f"releases/{SECOND}/manifest.json", "live.json"])
def test_json_of_anything(root, path, content):
    (root / path).write_bytes(content)
    assert any(severity == "error" and code in ("manifest", "pointer") for severity, code, *_ in found(root))


@pytest.mark.parametrize("path", [f"releases/{SECOND}/manifest.json", "live.json", f"releases/{SECOND}", "releases"])
@pytest.mark.parametrize("how", ["folder", "pipe", "link"])
def test_other_things_in_the_place_of_files(root, path, how):
    place = root / path
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    {"folder": place.mkdir, "pipe": lambda: os.mkfifo(place), "link": lambda: place.symlink_to("nowhere")}[how]()
    assert check_root(root).findings


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_items_that_lie_in_two_partitions(tmp_path, storage):
    vectors, _ = clustered(600)
    router = fit_router(vectors, KMeansRouter(kind="kmeans", partitions=5, spill="nearest"), seed=0)
    make_release(tmp_path, vectors, router, storage=storage)
    assert sum(part.rows for part in releases.find(tmp_path)[1].partitions) > 600, "some spill"
    assert found(tmp_path) == set()


def test_partitions_without_rows(tmp_path):
    make_release(tmp_path, clustered(3)[0], Router(7))
    assert found(tmp_path) == set()


def test_the_pointer(root):
    pointer = files.read_json(root / "live.json")
    for change, finding in (
        ({"release": "20200101T000000Z-cccccc"}, ("error", "pointer", None, "live.json")),
        ({"release": "../x"}, ("error", "path", None, "live.json")),
        ({"manifest_sha256": "0" * 64}, ("error", "pointer", SECOND, "manifest.json")),
        ({"previous": "20200101T000000Z-cccccc"}, ("warning", "pointer", None, "live.json")),
    ):
        files.write_json(root / "live.json", {**pointer, **change})
        assert found(root) == {finding}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"release": 3, "tagged_at": ""}', b"[" * 100_000, b'"x"'])
def test_a_damaged_tag(root, content):
    (root / "tags").mkdir()
    (root / "tags" / "best.json").write_bytes(content)
    assert found(root) == {("error", "tag", None, "tags/best.json")}


def test_tags_and_leases(root):
    tags.set_tag(root, "best", FIRST)
    with take_lease(at(root, FIRST, ".").resolve()):
        assert found(root) == set()
    files.write_json(root / "tags" / "gone.json", {"release": "20200101T000000Z-cccccc", "tagged_at": "now"})
    files.write_json(root / "tags" / "no name.json", {"release": FIRST, "tagged_at": "now"})
    (root / ".leases" / "20200101T000000Z-cccccc").touch()
    assert found(root) == {
        ("error", "tag", None, "tags/gone.json"),
        ("error", "tag", None, "tags/no name.json"),
        ("warning", "lease", None, ".leases/20200101T000000Z-cccccc"),
    }


def test_a_pruned_release_keeps_what_others_use(root):
    folder = at(root, FIRST, ".")
    used = {entry["path"] for entry in files.read_json(at(root, SECOND, "manifest.json"))["files"] if "release" in entry}
    for path in [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() not in used]:
        path.unlink()
    (folder / "PRUNED").touch()
    files.write_json(root / "live.json", {**files.read_json(root / "live.json"), "previous": None})
    assert found(root) == set()


def test_unfinished_releases_and_unknown_things(root):
    parent = root / "releases"
    (parent / "20250104T000000Z-dddddd").mkdir()
    files.write_json(parent / "20250104T000000Z-dddddd" / "build.json", {"key": "x"})
    (parent / "20250105T000000Z-eeeeee").mkdir()
    (parent / "old").mkdir()
    (root / f"{files.TMP_PREFIX}1").write_text("")
    for work in (root / "embeddings" / f"{files.TMP_PREFIX}2", parent / f".work-{FIRST}-calibrate", parent / FIRST / ".work"):
        work.mkdir(parents=True)
        (work / "one").write_text("")
        (work / "two").write_text("")
    assert found(root) == {
        ("warning", "unfinished", "20250104T000000Z-dddddd", None),
        ("warning", "unfinished", "20250105T000000Z-eeeeee", None),
        ("warning", "unknown", None, "releases/old"),
        ("warning", "leftover", None, f"{files.TMP_PREFIX}1"),
        ("warning", "leftover", None, f"embeddings/{files.TMP_PREFIX}2"),
        ("warning", "leftover", None, f"releases/.work-{FIRST}-calibrate"),
        ("warning", "leftover", FIRST, ".work"),
    }


def test_a_release_that_is_written_to_meanwhile_is_not_called_damaged(root, monkeypatch):
    manifest, whole = at(root, SECOND, "manifest.json"), files.sha256_file

    def meanwhile(path):
        if manifest.exists():
            manifest.unlink()
            flip(at(root, SECOND, "metrics.json"))
        return whole(path)

    monkeypatch.setattr(files, "sha256_file", meanwhile)
    report = check_root(root)
    assert [finding.code for finding in report.findings if finding.release == SECOND] == ["changed"]


def test_files_that_cannot_be_read(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256_file", refuse)
    assert {finding[:2] for finding in found(root)} == {("error", "unreadable")}


def test_the_verb(root, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    config = tmp_path / "c.yaml"
    config.write_text(f"name: x\nroot: {root}\nsource: {{kind: vectors, path: {tmp_path / 'x.npy'}}}\n")
    assert cli.main(["fsck", "--config", str(config)]) == 0
    assert "clean" in capsys.readouterr().out
    at(root, SECOND, "no[t]es").write_text("x")
    assert cli.main(["fsck", "--config", str(config)]) == 0, "warnings alone are no failure"
    assert f"{SECOND}/no[t]es" in capsys.readouterr().out
    flip(at(root, FIRST, ROWS))
    assert cli.main(["fsck", "--config", str(config), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["errors"], said["warnings"]) == (1, 1)
    assert cli.main(["fsck", "--config", str(config), "--fast"]) == 0
