"""fsck finds each kind of damage, planted by itself, names it, and calls nothing else wrong; no damage makes it fail."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole_root import FIRST, SECOND, alter_manifest, at, flip, found, relist

from simpipe import files
from simpipe.fsck import check_root
from simpipe.fsck.members import check_members

HIDDEN, ROWS = "hidden/00001.npy", "partitions/00001/rows.arrow"


def test_a_whole_root_is_clean(root):
    report = check_root(root)
    assert report.findings == ()
    assert (report.releases, report.ok) == (2, True)
    listed = [each for name in (FIRST, SECOND) for each in files.read_json(at(root, name, "manifest.json"))["files"]]
    assert report.files == sum("release" not in each for each in listed), "carried-over files are counted once"
    assert check_root(root, fast=True).findings == ()


def test_an_empty_root_is_clean(tmp_path):
    assert found(tmp_path / "nothing") == set()


@pytest.mark.parametrize(
    "path", ["partitions/00001/vectors.npy", ROWS, "store/00001-of-00002.parquet", "metrics.json", "router.npz"]
)
def test_a_flipped_byte(root, path):
    flip(at(root, FIRST, path))
    assert found(root) == {("error", "checksum", FIRST, path)}
    assert found(root, fast=True) == set(), "sizes are as they were"


def test_a_damaged_file_is_named_once_with_all_who_list_it(root):
    flip(at(root, FIRST, ROWS))
    (finding,) = check_root(root).findings
    assert FIRST in finding.what
    assert SECOND in finding.what


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("path", "how"), [(ROWS, "gone"), (ROWS, "short"), (ROWS, "empty"), (ROWS, "folder"), (ROWS, "pipe")])
def test_a_missing_or_cut_file(root, path, how, fast):
    file = at(root, FIRST, path)
    data = file.read_bytes()
    file.unlink()
    if how in ("short", "empty"):
        file.write_bytes(data[: len(data) // 2 if how == "short" else 0])
    elif how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    assert found(root, fast=fast) == {("error", "size" if how in ("short", "empty") else "missing", FIRST, path)}


def test_an_extra_file(root):
    at(root, SECOND, "partitions/00000").mkdir()
    for path in ("partitions/00000/rows.arrow", "notes.txt", f"partitions/{files.TMP_PREFIX}12"):
        at(root, SECOND, path).write_text("x")
    expected = {("warning", "orphan", SECOND, path) for path in ("partitions/00000/rows.arrow", "notes.txt")}
    assert found(root) == expected | {("warning", "leftover", SECOND, f"partitions/{files.TMP_PREFIX}12")}


def set_items(data):
    data["items"] += 1


def set_rows(data):
    data["partitions"][2]["rows"] += 1


def set_hidden(data):
    data["partitions"][1]["hidden"] = 1


def set_no_hidden(data):
    data["partitions"][1]["hidden"] = 0


def set_store_files(data):
    data["store_files"] = 3


def set_partitions(data):
    data["partitions"] = data["partitions"][:2]


def set_numbers(data):
    data["partitions"][2]["partition"] = 7


def set_huge(data):
    data["partitions"][2]["rows"] = 10**30


@pytest.mark.parametrize(
    "change", [set_items, set_rows, set_hidden, set_no_hidden, set_store_files, set_partitions, set_numbers, set_huge]
)
def test_a_wrong_count(root, change):
    alter_manifest(root, SECOND, change)
    assert ("error", "count") in {(severity, code) for severity, code, *_ in found(root)}
    assert {release for *_, release, _ in found(root)} == {SECOND}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["files"][0].update(path="../../../etc/passwd"),
        lambda data: data["files"][0].update(path="/etc/passwd"),
        lambda data: data["files"][0].update(path="a\\b"),
        lambda data: data["files"][0].update(release=".."),
        lambda data: data["files"][0].update(release="../releases"),
        lambda data: data["encoder"].update(folder="../elsewhere"),
        lambda data: data["encoder"].update(folder="/etc"),
    ],
)
def test_a_path_that_leaves_its_root(root, change):
    alter_manifest(root, SECOND, change)
    assert ("error", "path", SECOND) in {finding[:3] for finding in found(root)}
    assert ("error", "path", SECOND) in {finding[:3] for finding in found(root, fast=True)}


def test_a_link_that_leaves_the_root(root, tmp_path):
    file = at(root, FIRST, ROWS)
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert found(root) == {("error", "path", FIRST, ROWS)}


def test_a_link_to_itself(root):
    file = at(root, FIRST, ROWS)
    file.unlink()
    file.symlink_to(file)
    assert found(root) == {("error", "unreadable", FIRST, ROWS)}


def test_text_that_no_file_can_hold(root):
    alter_manifest(root, SECOND, lambda data: data.update(storage="\ud800", metadata=["\ud800"]))
    report = check_root(root)
    assert not report.ok
    json.dumps(report.to_json(), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_a_name_that_no_file_can_have(root, name):
    alter_manifest(root, SECOND, lambda data: data["files"][0].update(path=name))
    assert {("error", code, SECOND) for code in ("unreadable", "manifest")} & {finding[:3] for finding in found(root)}


def test_a_reference_to_no_release(root):
    def change(data):
        entry = next(entry for entry in data["files"] if entry["path"] == ROWS)
        entry["release"] = "20200101T000000Z-cccccc"

    alter_manifest(root, SECOND, change)
    assert found(root) == {("error", "reference", "20200101T000000Z-cccccc", ROWS)}


def test_a_chain_that_ends_nowhere(root):
    third = "20250103T000000Z-cccccc"
    data = files.read_json(at(root, SECOND, "manifest.json"))
    data["release"] = third
    for entry in data["files"]:
        entry["release"] = SECOND  # also those that the second has carried over itself
    files.write_json(at(root, third, "manifest.json"), data)
    report = check_root(root)
    chained = [finding for finding in report.findings if finding.code == "missing"]
    assert {finding.path for finding in chained if "carries it over" in finding.what} >= {ROWS}
    assert report.of("error") == chained


def test_releases_that_share_files_may_lose_their_manifest(root):
    at(root, FIRST, "manifest.json").unlink()
    kinds = found(root)
    assert {finding[:2] for finding in kinds} == {("warning", "orphan"), ("warning", "pointer")}
    assert not any(path and path.startswith(("partitions/00000", "partitions/00001")) for *_, path in kinds)


def test_deleted_items_that_answer_again(root):
    def change(data):
        data["partitions"][1]["hidden"] = 0
        data["files"] = [entry for entry in data["files"] if entry["path"] != HIDDEN]

    at(root, SECOND, HIDDEN).unlink()
    alter_manifest(root, SECOND, change)
    assert found(root) == {("error", "count", SECOND, "partitions/00001")}


@pytest.mark.parametrize("rows", [[3, 3], [5, 2], [0, 99], [-1, 2], [1]])
def test_hidden_rows_that_cannot_be(root, rows):
    np.save(at(root, SECOND, HIDDEN), np.array(rows, np.int32))
    relist(root, SECOND, HIDDEN)
    assert found(root) == {("error", "count", SECOND, HIDDEN)}


def test_hidden_rows_of_items_that_are_there(root):
    np.save(at(root, SECOND, HIDDEN), np.load(at(root, SECOND, HIDDEN)) ^ 1)
    relist(root, SECOND, HIDDEN)
    codes = {finding[:3] for finding in found(root)}
    assert codes == {("error", "count", SECOND)}


def rewrite(root: Path, path: str, change: Any) -> None:
    file = at(root, SECOND, path)
    pq.write_table(change(pq.ParquetFile(file).read()), file)
    relist(root, SECOND, path)


STORE, DIGESTS = "store/00001-of-00002.parquet", "digests/00001-of-00002.parquet"


@pytest.mark.parametrize(
    ("path", "change", "where"),
    [
        (STORE, lambda table: table.slice(1), {STORE, DIGESTS, "store"}),
        (STORE, lambda table: pa.concat_tables([table.slice(0, 1), table]), {STORE, DIGESTS, "store"}),
        (STORE, lambda table: table.set_column(2, "partition", pa.array([7] * len(table), pa.int32())), {STORE}),
        (STORE, lambda table: table.drop_columns(["label"]), {STORE}),
        (STORE, lambda table: table.set_column(0, "id", pa.array(range(len(table)))), {STORE}),
        (DIGESTS, lambda table: table.slice(1), {DIGESTS}),
        (DIGESTS, lambda table: table.take(list(range(len(table)))[::-1]), {DIGESTS}),
        (DIGESTS, lambda table: table.drop_columns(["digest"]), {DIGESTS}),
    ],
)
def test_store_and_digests_that_disagree(root, path, change, where):
    rewrite(root, path, change)
    findings = check_root(root).findings
    assert {finding.severity for finding in findings} == {"error"}
    assert {finding.path for finding in findings} - {"partitions/00000", "partitions/00001", "partitions/00002"} <= where
    assert path in {finding.path for finding in findings} or DIGESTS in {finding.path for finding in findings}


def test_an_item_in_another_partition_than_the_store_says(root):
    rewrite(root, STORE, lambda table: table.set_column(2, "partition", pa.array((table["partition"].to_numpy() + 1) % 3)))
    assert found(root) == {("error", "count", SECOND, STORE)}


def test_groups_of_partitions_find_the_same(root):
    from simpipe.fsck.findings import Findings
    from simpipe.fsck.listed import Release, check_files, list_places
    from simpipe.manifest import Manifest

    rewrite(root, STORE, lambda table: table.slice(2))
    folder = at(root, SECOND, ".").resolve()
    release = Release(folder, Manifest.load(folder), "")
    list_places(release, Findings())
    check_files(folder.parent, [release], Findings(), fast=False)
    said = []
    for most in (1, 25, 1 << 20):
        findings = Findings()
        check_members(release, findings, hashed=set(), most_rows=most)
        said.append(sorted((each.path or "", each.what) for each in findings.listed))
    assert said[0] == said[1] == said[2] != []


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", b"ARROW1\0\0", b"PAR1PAR1"])
@pytest.mark.parametrize(
    "path", ["profile.json", "probe.npz", "measures/00000.npz", "verdict.json", "router.npz", "metrics.json", STORE, DIGESTS]
)
def test_files_that_were_damaged_before_they_were_listed(root, path, content):
    at(root, SECOND, path).parent.mkdir(exist_ok=True)
    at(root, SECOND, path).write_bytes(content)
    relist(root, SECOND, path)
    findings = found(root)
    assert ("error", "content", SECOND, path) in findings
    assert {finding[:3] for finding in findings} <= {("error", "content", SECOND), ("error", "count", SECOND)}
