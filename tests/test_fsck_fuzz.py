"""fsck under random damage: it never fails, and a listed file that differs is always an error.

Ten times as many damages where `SIMPIPE_NIGHTLY` is set (`make nightly`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from whole_root import FIRST, SECOND, relist

from simpipe import files
from simpipe.fsck import check_root

MORE = 10 if os.environ.get("SIMPIPE_NIGHTLY") else 1


def listed_paths(root: Path) -> set[Path]:
    """All files that a manifest lists, and the manifests that something depends on."""
    found = set()
    for folder in (root / "releases").iterdir():
        for entry in files.read_json(folder / "manifest.json")["files"]:
            found.add(folder.parent / entry.get("release", folder.name) / entry["path"])
    return found


damage = st.tuples(st.integers(0, 10**6), st.sampled_from(["flip", "cut", "grow", "delete", "fill"]), st.integers(0, 10**6))


@settings(max_examples=40 * MORE, deadline=None)
@given(st.lists(damage, min_size=1, max_size=4))
def test_random_damage(whole, wounds):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(whole, root)
        paths, listed = sorted(path for path in root.rglob("*") if path.is_file()), listed_paths(root)
        before = {path: path.read_bytes() for path in paths}
        for which, how, where in wounds:
            path = paths[which % len(paths)]
            if not path.exists():
                continue
            data = bytearray(path.read_bytes())
            if how == "delete":
                path.unlink()
                continue
            if how == "flip" and data:
                data[where % len(data)] ^= 1 << where % 8
            elif how == "cut":
                data = data[: where % (len(data) + 1)]
            elif how == "grow":
                data += b"x" * (where % 9)
            elif how == "fill":
                data = bytearray(len(data))
            path.write_bytes(bytes(data))
        report = check_root(root)
        json.dumps(report.to_json(), allow_nan=False)
        check_root(root, fast=True)
        manifests = [root / "releases" / name / "manifest.json" for name in (FIRST, SECOND)]
        differs = {path for path in listed if not path.exists() or path.read_bytes() != before[path]}
        if all(path.exists() and path.read_bytes() == before[path] for path in manifests):
            named = {root / "releases" / str(each.release) / str(each.path) for each in report.of("error")}
            assert differs <= named
        if not differs and all(path.exists() and path.read_bytes() == before[path] for path in paths):
            assert report.findings == ()


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["..", ".", "", "/", "a/../b", "releases", FIRST, SECOND, "x" * 300, "\ud800", "a\0b", "int8", "none"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@settings(max_examples=50 * MORE, deadline=None)
@given(st.sampled_from([FIRST, SECOND]), st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=3))
def test_manifests_of_anything(whole, name, changes):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(whole, root)
        path = root / "releases" / name / "manifest.json"
        data = files.read_json(path)
        for which, value in changes:
            found = places(data)
            *way, last = found[which % len(found)] or (None,)
            if last is None:
                data = value
                continue
            inner = data
            for key in way:
                inner = inner[key]
            inner[last] = value
        path.write_text(json.dumps(data))
        report = check_root(root)
        json.dumps(report.to_json(), allow_nan=False).encode()
        if name == SECOND and json.dumps(files.read_json(path)) != json.dumps(files.read_json(whole / path.relative_to(root))):
            assert not report.ok, "it is live: the pointer's checksum differs"


@settings(max_examples=50 * MORE, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8), st.booleans()
)
def test_files_that_were_damaged_before_they_were_listed(whole, which, changes, cut):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(whole, root)
        folder = root / "releases" / FIRST
        paths = sorted(entry["path"] for entry in files.read_json(folder / "manifest.json")["files"])
        path = paths[which % len(paths)]
        data = bytearray((folder / path).read_bytes())
        for where, value in changes:
            data[where % len(data)] = value
        (folder / path).write_bytes(bytes(data[: len(data) * 2 // 3] if cut else data))
        relist(root, FIRST, path)
        report = check_root(root)
        json.dumps(report.to_json(), allow_nan=False).encode()
