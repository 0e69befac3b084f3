"""Exports: every item once, with its vector and metadata; complete or not there at all; read back by what they are for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_data import DIM, rich_release
from gcs_bucket import bucket_at
from release_maker import make_release
from test_hidden_rows import hide
from test_runner_arguments import DATAFLOW

from pipelines import export
from simpipe import files
from simpipe.cli import main
from simpipe.config import parse_config
from simpipe.errors import ConfigError, ContractError, ReleaseError
from simpipe.exports import faiss as faiss_target
from simpipe.exports.contract import EXPORT_JSON, ExportInfo, contents_of
from simpipe.exports.unit import target_of, write_unit
from simpipe.index.distance import prepare
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher, open_release
from simpipe.store import store_file

KINDS = ("numpy", "faiss", "vertex", "milvus")


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> SimpleNamespace:
    """A release of 12 partitions with copies, vectors as int8, and metadata of every kind."""
    root, source = rich_release(tmp_path_factory.mktemp("rich"), distance="cosine", storage="int8")
    searcher = open_release(root)
    stored = pa.concat_tables([pq.read_table(searcher.file(store_file(number, 3))) for number in range(3)])
    assert sum(searcher.partition_rows) > searcher.items == len(stored)  # there are copies
    return SimpleNamespace(root=root, source=pq.read_table(source), searcher=searcher, stored=stored)


def listed(folder: Path) -> ExportInfo:
    """What an export says of itself, after its files were verified; nothing else lies there."""
    info = ExportInfo.load(folder)
    for file in info.files:
        files.verify(folder / file.path, files.FileEntry(file.path, file.size, file.sha256))
    assert set(files.tree(folder)) == {EXPORT_JSON, *(file.path for file in info.files)}
    return info


def read(folder: Path, info: ExportInfo) -> dict:
    """The names that the export's own lines of Python bind."""
    names = {"OUT": str(folder), "queries": np.zeros((1, info.dim), np.float32), "k": 1}
    exec("\n".join(info.reading), names)
    return names


def test_numpy_holds_what_answers(rich, tmp_path):
    folder, info = export.run(str(rich.root), str(tmp_path / "out"), "numpy")
    assert listed(folder) == info
    names = read(folder, info)
    items = pa.concat_tables(names["items"])
    assert sum(map(len, names["vectors"])) == len(items) == info.items == rich.searcher.items
    assert all(isinstance(part, np.memmap) and part.dtype == np.float32 for part in names["vectors"])
    ids = items.column("id").to_pylist()
    np.testing.assert_array_equal(np.concatenate(names["vectors"]), rich.searcher.vectors_of(ids))
    expected = rich.searcher.items_of(ids).drop_columns(["partition"]).cast(items.schema)
    assert items.schema.names == expected.schema.names
    assert items.drop_columns(["price"]).equals(expected.drop_columns(["price"]))
    np.testing.assert_array_equal(items.column("price").to_numpy(), expected.column("price").to_numpy())  # NaN is there
    assert set(info.carried) == {"id", "label", *rich.searcher.manifest.metadata}
    assert not info.left_out


@pytest.mark.parametrize("memory", [None, 0], ids=["one index", "parts"])
@pytest.mark.parametrize("distance", ["cosine", "inner_product", "euclidean", "squared_euclidean"])
def test_faiss_gives_the_exact_neighbors(tmp_path, distance, memory, monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(300, DIM)).astype(np.float32)
    monkeypatch.setattr(faiss_target, "_PART_BYTES", 100 * 4 * DIM)
    make_release(tmp_path / "root", vectors, Router(3), distance=distance)
    folder, info = export.run(str(tmp_path / "root"), str(tmp_path / "out"), "faiss", memory=memory)
    listed(folder)
    names = read(folder, info)
    assert (folder / "index.faiss").exists() == (memory is None) == (not info.notes)
    assert memory is None or info.notes[0].startswith("3 indexes to be searched as one: all vectors take 7,200 bytes")
    searcher = open_release(tmp_path / "root")
    queries = prepare(np.random.default_rng(2).normal(size=(50, DIM)).astype(np.float32), distance)
    expected = searcher.lookup(queries, 7, exact=True)
    scores, positions = names["index"].search(queries, 7)
    found = names["items"].column("id").to_numpy()[positions]
    assert found.tolist() == expected.ids.tolist()
    distances = {
        "cosine": lambda score: 1 - score,
        "inner_product": lambda score: -score,
        "euclidean": np.sqrt,
        "squared_euclidean": lambda score: score,
    }[distance](scores)
    np.testing.assert_allclose(distances, expected.distances, atol=1e-5)


def test_faiss_of_rounded_vectors_and_copies(rich, tmp_path):
    folder, info = export.run(str(rich.root), str(tmp_path / "out"), "faiss")
    index, items = faiss.read_index(str(folder / "index.faiss")), read(folder, info)["items"]
    assert index.ntotal == len(items) == rich.searcher.items
    vectors = rich.searcher.vectors_of(items.column("id").to_pylist())
    np.testing.assert_array_equal(faiss_target.read_vectors(folder / "index.faiss", DIM), vectors)
    scores, positions = index.search(vectors, 1)
    np.testing.assert_array_equal(positions[:, 0], np.arange(len(items)))
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_each_item_once_without_hidden_rows_and_with_empty_partitions(tmp_path):
    vectors = np.random.default_rng(3).normal(size=(9, DIM)).astype(np.float32)
    make_release(tmp_path / "root", vectors, Router(12), storage="float16")
    hide(tmp_path / "root", ["i2", "i5"])
    searcher = open_release(tmp_path / "root")
    assert 0 in searcher.partition_rows
    assert searcher.items == 7
    for kind in KINDS:
        folder, _ = export.run(str(tmp_path / "root"), str(tmp_path / kind), kind)
        assert listed(folder).items == 7
        if kind == "vertex":
            lines = (folder / "data" / "items-00000-000.json").read_text().splitlines()
            ids, found = zip(*((item["id"], item["embedding"]) for item in map(json.loads, lines)), strict=True)
        else:
            table = pq.read_table(next(folder.rglob("items-*.parquet")))
            ids = table.column("id").to_pylist()
            found = {
                "numpy": lambda folder=folder: np.load(folder / "vectors-00000-000.npy"),
                "faiss": lambda folder=folder: faiss_target.read_vectors(folder / "index.faiss", DIM),
                "milvus": lambda table=table: table.column("embedding").to_pylist(),
            }[kind]()
        assert sorted(ids) == ["i0", "i1", "i3", "i4", "i6", "i7", "i8"]
        expected = vectors[[int(name[1:]) for name in ids]].astype(np.float16)
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_bounded(rich, tmp_path, kind):
    target = target_of(kind)
    plan = target.plan(contents_of(rich.searcher))
    whole = write_unit(rich.searcher, 1, tmp_path / "whole", target, plan)
    cut = write_unit(rich.searcher, 1, tmp_path / "cut", target, type(plan)(plan.contents, 10, plan.carried, plan.left_out))
    each = 1 if kind in ("vertex", "milvus") else 2
    assert whole.counts == cut.counts
    assert len(whole.records) == each
    sizes = [record["items"] for record in cut.records[::each]]
    assert sizes == [10] * (len(sizes) - 1) + [whole.counts.read - 10 * (len(sizes) - 1)]
    suffix = {"vertex": ".json", "milvus": ".parquet"}.get(kind, ".parquet")
    names = [record["path"] for record in cut.records if record["path"].endswith(suffix)]
    assert names == sorted(names)
    assert names[0].endswith(f"items-00001-000{suffix}")
    if kind == "vertex":
        parts = b"".join((tmp_path / "cut" / name).read_bytes() for name in names)
        assert parts == (tmp_path / "whole" / whole.records[0]["path"]).read_bytes()
    else:
        parts = pa.concat_tables([pq.read_table(tmp_path / "cut" / name) for name in names])
        (path,) = (record["path"] for record in whole.records if record["path"].endswith(suffix))
        assert parts.select(["id", "label"]).equals(pq.read_table(tmp_path / "whole" / path).select(["id", "label"]))


def test_a_killed_export_looks_unfinished_and_is_run_again(rich, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*args, **more):
        raise Killed

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(faiss_target, "finish", die)
        with pytest.raises(Killed):
            export.run(str(rich.root), str(out), "faiss")
    assert not (out / EXPORT_JSON).exists()
    assert list(out.glob("index-*.faiss"))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ContractError, match=r"holds notes\.txt, and must be empty"):
        export.run(str(rich.root), str(out), "numpy")
    (out / "notes.txt").unlink()
    folder, info = export.run(str(rich.root), str(out), "numpy")  # what the other left is gone
    assert listed(folder) == info
    with pytest.raises(ContractError, match="must be empty"):
        export.run(str(rich.root), str(out), "numpy")
    assert listed(folder) == info


def test_two_exports_into_one_folder_are_told(rich, tmp_path, monkeypatch):
    finish = faiss_target.finish

    def meanwhile(folder, *args, **more):
        files.write_json(folder / export.WORK / export.STARTED_JSON, {"by": "another"})
        return finish(folder, *args, **more)

    monkeypatch.setattr(faiss_target, "finish", meanwhile)
    with pytest.raises(ContractError, match="another export was started here"):
        export.run(str(rich.root), str(tmp_path / "out"), "faiss")
    assert not (tmp_path / "out" / EXPORT_JSON).exists()


def test_what_a_target_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    vectors = np.random.default_rng(4).normal(size=(20, DIM)).astype(np.float32)
    make_release(tmp_path / "root", vectors, Router(2), distance="manhattan")
    for kind in ("faiss", "milvus"):
        with pytest.raises(ConfigError, match="has the distance manhattan"):
            export.run(str(tmp_path / "root"), str(tmp_path / "out"), kind)
    assert not (tmp_path / "out").exists()
    for kind in ("numpy", "vertex"):
        _, info = export.run(str(tmp_path / "root"), str(tmp_path / kind), kind)
        assert info.distance == "manhattan"
    assert files.read_json(tmp_path / "vertex" / "index.json")["config"]["distanceMeasureType"] == "L1_DISTANCE"


def test_a_local_folder_is_refused_before_a_job_goes_to_dataflow(tmp_path):
    config = parse_config({"name": "cloud", "root": "gs://bucket/root", "source": "digits", "runner": DATAFLOW})
    with pytest.raises(ConfigError, match="is local: workers of Dataflow cannot see it"):
        export.run(config.root, str(tmp_path / "out"), "numpy", config=config)
    assert not (tmp_path / "out").exists()


def test_a_damaged_release_is_refused(tmp_path):
    vectors = np.random.default_rng(5).normal(size=(20, DIM)).astype(np.float32)
    make_release(tmp_path / "root", vectors, Router(2))
    folder = open_release(tmp_path / "root").folder
    path = folder / "partitions" / "00001" / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match="SHA-256"):
        export.run(str(tmp_path / "root"), str(tmp_path / "out"), "numpy")
    assert not (tmp_path / "out" / EXPORT_JSON).exists()


def test_an_item_that_its_partition_hides_is_refused(tmp_path):
    vectors = np.random.default_rng(6).normal(size=(20, DIM)).astype(np.float32)
    make_release(tmp_path / "root", vectors, Router(2))
    before = open_release(tmp_path / "root").manifest
    kept = (open_release(tmp_path / "root").folder / store_file(0, 1)).read_bytes()
    manifest = hide(tmp_path / "root", ["i3"])
    folder = tmp_path / "root" / "releases" / manifest.release
    (folder / store_file(0, 1)).write_bytes(kept)
    store = next(entry for entry in before.files if entry.path == store_file(0, 1))
    listed_files = tuple(entry if entry.path != store.path else store for entry in manifest.files)
    searcher = Searcher(folder, manifest.model_copy(update={"files": listed_files}))
    target = target_of("numpy")
    with pytest.raises(ContractError, match="id 'i3' is in the store but not in partition"):
        write_unit(searcher, 0, tmp_path / "out", target, target.plan(contents_of(searcher)))
    assert not list((tmp_path / "out").glob("*.npy"))


def test_the_command(rich, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--to", "milvus", "--root", str(rich.searcher.folder), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    about = json.loads(said.out)
    assert about == {"out": str(out), **ExportInfo.load(out).model_dump(mode="json")}
    assert "column raw is left out: binary" in said.err
    assert f"{rich.searcher.items:,} items of" in said.err
    assert main(["export", "--to", "numpy", "--root", str(rich.root), "--release", "none", "--out", str(tmp_path / "no")]) == 1
    assert "no such release" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    (run,) = [json.loads(path.read_text()) for path in (rich.root / "runs").glob("*export*.json") if "-export-" in path.name
              and json.loads(path.read_text())["outcome"] == "failed"]  # fmt: skip
    assert run["verb"] == "export"


def test_from_and_to_a_bucket(tmp_path):
    vectors = np.random.default_rng(7).normal(size=(60, DIM)).astype(np.float32)
    with bucket_at(tmp_path):
        make_release(tmp_path / "made", vectors, Router(2), distance="inner_product")
        # Leases of a disk mean nothing in a bucket, and the service would wait for them.
        shutil.copytree(tmp_path / "made", tmp_path / "gcs" / "bucket" / "root", ignore=shutil.ignore_patterns(".l*"))
        for kind in ("faiss", "vertex"):
            folder, info = export.run("gs://bucket/root", f"gs://bucket/out/{kind}", kind)
            local = tmp_path / "gcs" / "bucket" / "out" / kind
            assert listed(folder) == info == ExportInfo.load(local)
        index = files.read_json(tmp_path / "gcs" / "bucket" / "out" / "vertex" / "index.json")
        assert index["contentsDeltaUri"] == "gs://bucket/out/vertex/data"
        assert faiss_target.read_vectors(files.located("gs://bucket/out/faiss/index.faiss"), DIM).shape == (60, DIM)
        with pytest.raises(ContractError, match="must be empty"):
            export.run("gs://bucket/root", "gs://bucket/out/faiss", "faiss")
