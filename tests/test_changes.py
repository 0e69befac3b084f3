"""What changed since a release, on ready-made vectors: every record accounted for, against plain dictionaries."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changes_data import check, compare, config_of, make_catalogue, release_of, write_catalogue
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.digests import digests_file
from simpipe.errors import (
    ConfigError,
    ContractError,
    DuplicateIdError,
    IncompatibleError,
    RejectedError,
    ReleaseError,
    SourceError,
)
from simpipe.reindex import detect
from simpipe.reindex.changes import ChangesInfo

BEFORE = make_catalogue(500)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    config = config_of(root, write_catalogue(root / "before.parquet", BEFORE))
    return root, release_of(config)


@pytest.fixture
def fresh(base, tmp_path):
    """A copy of the base that a test may write to."""
    shutil.copytree(base[0], tmp_path / "root")
    folder, manifest = base[1]
    return tmp_path / "root", (tmp_path / "root" / "releases" / folder.name, manifest)


def edited():
    """Some added, deleted, and changed in each of label, vector and metadata."""
    now = dict(BEFORE)
    for row in range(0, 500, 7):
        del now[f"item-{row}"]
    for row in (1, 50, 99, 230, 401, 402, 403, 404, 405):
        label, vector, price = now[f"item-{row}"]
        now[f"item-{row}"] = [("other", vector, price), (label, (1.5, *vector[1:]), price), (label, vector, -1)][row % 3]
    return now | make_catalogue(60, seed=9, prefix="new")


def test_every_record_is_accounted_for(fresh, tmp_path):
    root, release = fresh
    now = edited()
    order = np.random.default_rng(0).permutation(len(now))
    shuffled = {name: now[name] for name in np.array(list(now), object)[order]}
    config = config_of(root, write_catalogue(tmp_path / "now.parquet", shuffled, group=37))
    found = compare(config, release)
    check(found, BEFORE, now)
    assert found.changes.base == release[1].release
    assert found.info.counts == {"read": len(now), "written": sum(file.rows for file in found.info.files), "rejected": 0}
    files = {path: path.read_bytes() for path in sorted(found.folder.rglob("*.*"))}
    again = compare(config, release)
    assert (again.info, again.changes) == (found.info, found.changes), "a finished folder is the result"
    shutil.rmtree(found.folder)
    compare(config, release)
    assert {path: path.read_bytes() for path in sorted(found.folder.rglob("*.*"))} == files, "same input, same bytes"


def test_embeddings_and_digests_are_those_of_a_full_import(fresh, tmp_path):
    root, release = fresh
    now = edited()
    config = config_of(root, write_catalogue(tmp_path / "now.parquet", now, group=37))
    found = compare(config, release)
    whole = tmp_path / "whole"
    other = config_of(whole, tmp_path / "now.parquet")
    release_of(other)
    full = {row["id"]: row for path in (whole / "embeddings").glob("*/*.parquet") for row in pq.read_table(path).to_pylist()}
    mine = [row for file in found.info.files for row in pq.read_table(found.folder / file.path).to_pylist()]
    assert mine
    assert all(full[row["id"]] == row for row in mine), "digest among the columns"


def test_nothing_changed(fresh):
    root, release = fresh
    found = compare(config_of(root, root / "before.parquet"), release)
    check(found, BEFORE, BEFORE)
    assert not found.changes.any
    assert found.info.files == ()
    assert found.changes.items.unchanged == release[1].items


def test_the_next_comparison_finds_its_queries_in_a_data_set_of_changes(fresh, tmp_path):
    root, (folder, manifest) = fresh
    now = edited()
    config = config_of(root, write_catalogue(tmp_path / "now.parquet", now))
    first = compare(config, (folder, manifest))
    moved = manifest.model_copy(update={"provenance": {"embeddings": first.info.key}})
    second = compare(config, (folder, moved), key="x" * 64)
    assert not second.changes.queries.any
    assert second.changes.items == first.changes.items, "items are still compared with the release"
    assert second.held("query") == first.held("query")


def test_without_the_base_embeddings_all_queries_are_embedded_anew(fresh, tmp_path):
    root, release = fresh
    shutil.rmtree(root / "embeddings")
    now = edited()
    config = config_of(root, write_catalogue(tmp_path / "now.parquet", now))
    found = compare(config, release)
    queries = found.held("query")
    assert found.changes.queries.model_dump() == {"added": len(queries), "changed": 0, "deleted": 0, "unchanged": 0}
    assert all(now[name] == row for name, row in queries.items())
    with pytest.raises(ContractError, match="held-out queries"):
        compare(config, release, key="d" * 64, deltas=True)


def test_another_share_of_queries_moves_records_between_items_and_queries(fresh):
    root, release = fresh
    config = config_of(root, root / "before.parquet", queries={"fraction": 0.5})
    found = compare(config, release)
    check(found, BEFORE, BEFORE, fraction=0.5, was=0.2)
    assert found.changes.items.deleted == found.changes.queries.added > 100


def test_rejected_and_excluded_records_are_not_present(fresh, tmp_path):
    root, release = fresh
    now = edited()
    bad = {"item-1": ("x", (float("nan"), 0.0, 0.0, 0.0), 1), "item-2": ("x", (0.0,) * 4, 1), "new-3": ("x", (1.0,) * 3, 1)}
    path = write_catalogue(tmp_path / "now.parquet", now | bad)
    with pytest.raises(RejectedError, match="3 of 488 records rejected"):
        compare(config_of(root, path), release)
    classes = ["c1", "c2", "c3", "other"]
    config = config_of(root, path, rejects={"max_share": 0.1}, classes={"index": classes})
    found = compare(config, release)
    check(found, BEFORE, {name: row for name, row in now.items() if name not in bad and row[0] in classes})
    assert found.info.counts["rejected"] == 3
    with pytest.raises(ConfigError, match="nowhere"):
        compare(config_of(root, path, rejects={"max_share": 0.1}, classes={"index": ["nowhere"]}), release, key="n" * 64)


def test_an_id_that_stands_twice(fresh, tmp_path):
    root, release = fresh
    for name in ("a", "b"):
        write_catalogue(tmp_path / "two" / f"{name}.parquet", BEFORE | make_catalogue(5, prefix=name))
    with pytest.raises(DuplicateIdError, match=r"500 rows.*\n.*stands at a.parquet row \d+ and at b.parquet row \d+"):
        compare(config_of(root, tmp_path / "two"), release)


def test_a_killed_run_starts_over_cleanly(fresh, tmp_path):
    root, release = fresh
    now = edited()
    config = config_of(root, write_catalogue(tmp_path / "now.parquet", now))
    whole = compare(config, release, key="w" * 64)
    key = "k" * 64
    folder = root / "embeddings" / key[:12]
    shutil.copytree(whole.folder, folder)
    (folder / "embeddings.json").unlink()
    (folder / "index-00000-of-00099.parquet").write_bytes(b"left by another attempt")
    (folder / ".tmp-1234-index-00000-of-00001.parquet").write_bytes(b"half")
    (folder / ".work").mkdir()
    (folder / ".work" / "scan-00000.arrow").write_bytes(b"half a file")
    (folder / ".work" / "want-00000.arrow").write_bytes(b"half a file")
    (folder / "changes" / "00003-of-00011.parquet").write_bytes(b"half")
    found = compare(config, release, key=key)
    check(found, BEFORE, now)
    names = lambda each: sorted(path.relative_to(each).as_posix() for path in each.rglob("*"))  # noqa: E731
    assert names(folder) == names(whole.folder)


def test_what_cannot_be_compared(fresh):
    root, (folder, manifest) = fresh
    config = config_of(root, root / "before.parquet")
    source = json.loads(config.source.model_dump_json())
    for changed, error, text in (
        ({"distance": "euclidean"}, IncompatibleError, "distance cosine.*euclidean"),
        ({"metadata": []}, IncompatibleError, "metadata"),
    ):
        with pytest.raises(error, match=text):
            compare(config_of(root, root / "before.parquet", source=source | changed), (folder, manifest))
    old = manifest.model_copy(update={"files": tuple(file for file in manifest.files if "digests" not in file.path)})
    with pytest.raises(ReleaseError, match=r"no digests[^$]*simpipe run"):
        compare(config, (folder, old))
    (folder / digests_file(3, 11)).write_bytes(b"altered")
    with pytest.raises(ContractError, match="00003-of-00011"):
        compare(config, (folder, manifest))


def test_a_source_that_changes_under_the_run_is_refused(fresh, tmp_path, monkeypatch):
    root, release = fresh
    path = write_catalogue(tmp_path / "now.parquet", edited())
    join = detect.join_bucket

    def joined(plan, number):
        result = join(plan, number)
        write_catalogue(path, {name: (row[0], row[1], 77) for name, row in edited().items()})
        return result

    monkeypatch.setattr("simpipe.beam.changes.join_bucket", joined)
    with pytest.raises(SourceError, match="changed while it was read"):
        compare(config_of(root, path), release)
    assert not (root / "embeddings" / ("k" * 12) / "embeddings.json").exists()


ROWS = st.dictionaries(st.sampled_from([f"i{n}" for n in range(40)]), st.integers(0, 3), max_size=40)


@given(present=ROWS, old=ROWS, dropped=st.none() | st.sets(st.sampled_from([f"i{n}" for n in range(40)])))
@settings(max_examples=200, deadline=None)
def test_comparison_of_one_bucket_equals_dictionaries(present, old, dropped):
    def table(rows):
        digest = pa.array([bytes([value]) * 16 for value in rows.values()], pa.binary(16))
        return pa.table({"id": pa.array(list(rows), pa.string()), "digest": digest})

    ids = None if dropped is None else pa.array(sorted(dropped), pa.string())
    found = detect.compare(table(present), table(old), dropped=ids)
    assert found.added.tolist() == [name not in old for name in present]
    assert found.changed.tolist() == [old.get(name, value) != value for name, value in present.items()]
    gone = [name not in present and (dropped is None or name in dropped) for name in old]
    assert found.deleted.tolist() == gone
    assert found.kept.tolist() == [
        present.get(name, old[name]) == old[name] and not out for name, out in zip(old, gone, strict=True)
    ]
    assert found.counts.changed + found.counts.deleted + found.counts.unchanged == len(old)


def test_changes_are_read_back_or_refused_by_name(fresh, tmp_path):
    root, release = fresh
    found = compare(config_of(root, write_catalogue(tmp_path / "now.parquet", edited())), release)
    assert ChangesInfo.load(found.folder) == found.changes
    (found.folder / found.changes.files[2].path).write_bytes(b"altered")
    with pytest.raises(ContractError, match="00002-of-00011"):
        found.changes.read(found.folder, 2)
