"""Unloaded: the items of a release are the embeddings that it was built from, with and without changes on top."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered

from pipelines import build, unload
from pipelines.line import Line
from simpipe import files
from simpipe.config import Config, parse_config
from simpipe.embeddings import EmbeddingsFile, EmbeddingsInfo, vectors_column, vectors_of
from simpipe.errors import ContractError
from simpipe.ids import bucket_of
from simpipe.import_vectors import write_embeddings
from simpipe.index.distance import prepare
from simpipe.index.partitions import partition_folder
from simpipe.index.searcher import Searcher
from simpipe.reindex.changes import CHANGED, DELETED, ChangeCounts, ChangesFile, ChangesInfo, changes_file
from simpipe.reindex.changes import SCHEMA as CHANGES
from simpipe.reindex.unload import take_file

N, DIM = 900, 8


def config_of(root: Path, source: Path, **build_settings) -> Config:
    settings = {"router": {"kind": "packed", "partitions": 4, "spill": "nearest"}, "backend": {"kind": "exact"}, "store_files": 3}
    raw = {"kind": "vectors", "path": str(source), "ids": "id", "labels": "label", "metadata": ["shop", "price"]}
    return parse_config(
        {
            "name": "unload",
            "root": str(root),
            "source": raw,
            "queries": {"fraction": 0.1},
            "build": {**settings, **build_settings},
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    vectors, labels = clustered(N, dim=DIM)
    shop = [None if row % 11 == 0 else f"s{row % 3}" for row in range(N)]
    names = [None if row % 13 == 0 else f"l{label}" for row, label in enumerate(labels)]
    columns = {"id": [f"ä{row}" for row in range(N)], "label": names, "embedding": vectors_column(vectors)}
    path = tmp_path_factory.mktemp("vectors") / "x.parquet"
    pq.write_table(pa.table({**columns, "shop": shop, "price": np.arange(N) * 0.5}), path)
    return path


@pytest.fixture(scope="module", params=["float32", "int8"])
def made(request, source, tmp_path_factory) -> SimpleNamespace:
    """A release with its configuration, and the embeddings that it was built from."""
    root = tmp_path_factory.mktemp("root")
    config = config_of(root, source, storage=request.param)
    line = Line(config, say=lambda text: None)
    line.embed()
    folder, manifest = line.build()
    return SimpleNamespace(config=config, folder=folder, manifest=manifest, embeddings=line.embeddings[0])


def rows_of(folder: Path, *splits: str) -> pa.Table:
    """All rows of an embeddings data set, ascending by id, after its files were verified."""
    info = EmbeddingsInfo.load(folder)
    for file in info.files:
        files.verify(folder / file.path, files.FileEntry(file.path, file.size, file.sha256))
        assert pq.read_metadata(folder / file.path).num_rows == file.rows
    return pa.concat_tables([pq.read_table(folder / file.path) for file in info.of_splits(*splits)]).sort_by("id")


def unloaded(made: SimpleNamespace, folder: Path, **more) -> EmbeddingsInfo:
    return unload.run(made.config, base=made.folder, manifest=made.manifest, folder=folder, key="f" * 64, **more)


def same(found: pa.Table, expected: pa.Table, made: SimpleNamespace) -> None:
    for name in ("id", "label", "digest", "shop", "price"):
        assert found.column(name).to_pylist() == expected.column(name).to_pylist(), name
        assert found.schema.field(name).type == expected.schema.field(name).type
    vectors = prepare(vectors_of(expected), made.manifest.distance)
    if made.manifest.storage == "float32":
        np.testing.assert_array_equal(vectors_of(found), vectors)
    else:
        np.testing.assert_allclose(vectors_of(found), vectors, atol=0.02)


def delta_of(made: SimpleNamespace, folder: Path, *, changed: list[str], deleted: list[str], added: list[str]) -> None:
    """An embeddings data set of changes: new items, changed ones, and one query."""
    of = made.manifest.store_files
    folder.mkdir()
    kind = pq.read_schema(made.embeddings / EmbeddingsInfo.load(made.embeddings).of_splits("index")[0].path)
    records = []
    for name, split, ids in (("index-00000-of-00001", "index", changed + added), ("query-00000-of-00001", "query", ["q"])):
        columns = {
            "id": ids,
            "label": ["new"] * len(ids),
            "embedding": vectors_column(np.random.default_rng(1).normal(size=(len(ids), DIM)).astype(np.float32)),
            "digest": pa.array([bytes([row % 256] * 16) for row in range(len(ids))], pa.binary(16)),
            "shop": ["n"] * len(ids),
            "price": np.arange(len(ids)) * 1.0,
        }
        path = folder / f"{name}.parquet"
        write_embeddings(pa.table(columns).cast(kind), path)
        records.append(EmbeddingsFile(split=split, rows=len(ids), **files.entry_of(path, folder).to_json()))
    listed = []
    for number in range(of):
        lines = [
            {"id": name, "kind": kind, "query": False} for kind, ids in ((CHANGED, changed), (DELETED, deleted)) for name in ids
        ]
        lines += [{"id": "q-gone", "kind": DELETED, "query": True}]
        table = pa.Table.from_pylist([line for line in lines if bucket_of(pa.array([line["id"]]), of)[0] == number], CHANGES)
        path = folder / changes_file(number, of)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.sort_by("id"), path)
        listed.append(ChangesFile(**files.entry_of(path, folder).to_json()))
    items = ChangeCounts(added=len(added), changed=len(changed), deleted=len(deleted))
    ChangesInfo(base=made.manifest.release, items=items, queries=ChangeCounts(), files=tuple(listed)).save(folder)
    EmbeddingsInfo(
        key="d" * 64, dim=DIM, distance=made.manifest.distance, encoder="none", metadata=("shop", "price"),
        files=tuple(records), counts={}, provenance={},
    ).save(folder)  # fmt: skip


def test_the_items_are_those_that_it_was_built_from(made, tmp_path):
    info = unloaded(made, tmp_path / "out")
    assert len(info.of_splits("index")) == made.manifest.store_files == len(info.files)
    same(rows_of(tmp_path / "out", "index"), rows_of(made.embeddings, "index"), made)
    assert (info.dim, info.distance, info.encoder) == (DIM, made.manifest.distance, "none")
    assert info.counts["written"] == made.manifest.items
    assert not (tmp_path / "out" / ".work").exists()


def test_a_finished_one_is_taken_as_it_is(made, tmp_path):
    first = unloaded(made, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert unloaded(made, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_queries_come_from_the_given_data_set(made, tmp_path):
    unloaded(made, tmp_path / "out", delta=made.embeddings, applied=True)
    assert rows_of(tmp_path / "out", "query").equals(rows_of(made.embeddings, "query"))
    same(rows_of(tmp_path / "out", "index"), rows_of(made.embeddings, "index"), made)


def test_changes_on_top(made, tmp_path):
    ids = rows_of(made.embeddings, "index").column("id").to_pylist()
    changed, deleted, added = ids[3:40:3], ids[100:160], [f"new{row}" for row in range(25)]
    delta_of(made, tmp_path / "delta", changed=changed, deleted=deleted, added=added)
    info = unloaded(made, tmp_path / "out", delta=tmp_path / "delta")
    found = rows_of(tmp_path / "out", "index")
    assert found.column("id").to_pylist() == sorted((set(ids) - set(deleted)) | set(added))
    fresh = pa.array(found.column("label").to_numpy() == "new")
    assert set(found.filter(fresh).column("id").to_pylist()) == {*changed, *added}
    new = rows_of(tmp_path / "delta", "index")
    assert found.filter(fresh).select(new.column_names).equals(new)
    stays = pa.array([name not in {*changed, *deleted} for name in ids])
    old = rows_of(made.embeddings, "index").filter(stays)
    same(found.filter(pa.array(np.isin(found.column("id").to_pylist(), old.column("id").to_pylist()))), old, made)
    assert rows_of(tmp_path / "out", "query").column("id").to_pylist() == ["q"]
    assert info.counts["written"] == len(found) + 1


def test_a_release_is_built_from_it(made, tmp_path):
    unloaded(made, tmp_path / "out", delta=made.embeddings, applied=True)
    folder, manifest = build.run(made.config, root=tmp_path, embeddings=tmp_path / "out", encoder=None, key="k")
    one, other = Searcher(made.folder, made.manifest), Searcher(folder, manifest)
    assert manifest.items == made.manifest.items
    vectors = clustered(50, dim=DIM, seed=8)[0]
    a, b = (each.lookup(vectors, 5, exact=True) for each in (one, other))
    if made.manifest.storage == "float32":
        assert a.ids.tolist() == b.ids.tolist()
    else:  # rounded vectors are rounded again
        np.testing.assert_allclose(a.distances, b.distances, atol=0.02)


def test_what_does_not_belong_together_is_refused(made, tmp_path):
    ids = rows_of(made.embeddings, "index").column("id").to_pylist()
    delta_of(made, tmp_path / "delta", changed=[], deleted=ids[:3], added=["n"])
    changes = ChangesInfo.load(tmp_path / "delta")
    changes.model_copy(update={"base": "another"}).save(tmp_path / "delta")
    with pytest.raises(ContractError, match="changes of another, not of"):
        unloaded(made, tmp_path / "out", delta=tmp_path / "delta")
    changes.model_copy(update={"items": ChangeCounts(deleted=4)}).save(tmp_path / "delta")
    with pytest.raises(ContractError, match="4 to leave out, 3 left out"):
        unloaded(made, tmp_path / "out", delta=tmp_path / "delta")
    changes.save(tmp_path / "delta")
    with open(tmp_path / "delta" / "query-00000-of-00001.parquet", "ab") as handle:
        handle.write(b"x")
    with pytest.raises(ContractError, match="bytes, the manifest says"):
        unloaded(made, tmp_path / "out", delta=tmp_path / "delta")
    assert (made.folder / partition_folder(0)).is_dir()


def test_a_file_is_linked_copied_or_cast(made, tmp_path, monkeypatch):
    source = made.embeddings / EmbeddingsInfo.load(made.embeddings).files[0].path
    take_file(source, tmp_path / "linked", None)
    assert (tmp_path / "linked").stat().st_ino == source.stat().st_ino
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another device")))
    take_file(source, tmp_path / "copied", pq.read_schema(source))
    assert (tmp_path / "copied").read_bytes() == source.read_bytes()
    assert (tmp_path / "copied").stat().st_ino != source.stat().st_ino
    kind = pq.read_schema(source)
    place = kind.get_field_index("price")
    take_file(source, tmp_path / "cast", kind.set(place, pa.field("price", pa.float32())))
    assert pq.read_schema(tmp_path / "cast").field("price").type == pa.float32()
    with pytest.raises(ContractError, match="other columns than in the live release"):
        take_file(source, tmp_path / "refused", kind.set(place, pa.field("weight", pa.float32())))
