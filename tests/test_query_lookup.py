"""`simpipe lookup` and `simpipe match` on files of queries."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_maker import make_release

from simpipe.cli import main
from simpipe.embeddings import open_writer, schema, vectors_column
from simpipe.index.routing import Router
from simpipe.index.searcher import neighbors_table, open_release

DIM, ITEMS, ASKED = 6, 300, 90
RULE = {
    "matcher": "match_nearest",
    "k": 1,
    "depth": 3,
    "cutpoints": {"optimal": {"name": "optimal", "distance": 1.5}, "near": {"name": "near", "distance": 0.8}},
    "probability": None,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    make_release(folder, vectors(), Router(4))
    return folder


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)


@pytest.fixture
def asked(tmp_path):
    """Three files: vectors with ids, ids of items, and rows that cannot be asked."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "asked"
    folder.mkdir()
    names = pa.array([f"q{row}" for row in range(ASKED)])
    table = pa.table({"id": names, "embedding": vectors_column(rng.normal(size=(ASKED, DIM)).astype(np.float32))})
    pq.write_table(table, folder / "a.parquet", row_group_size=25)
    pq.write_table(pa.table({"id": ["i3", "i7", "nobody"], "label": ["l0", None, "l1"]}), folder / "b.parquet")
    bad = pa.array([[0.5] * DIM, [np.nan] * DIM, [1.0]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"embedding": bad}), folder / "c.parquet")
    return folder


def expected(root, asked, k):
    searcher = open_release(root)
    table = pq.read_table(asked / "a.parquet")
    flat = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    queries = np.concatenate([flat, vectors()[[3, 7]], np.full((1, DIM), 0.5, np.float32)])
    names = [*table.column("id").to_pylist(), "i3", "i7", "c.parquet row 0"]
    return searcher, searcher.lookup(queries, k, query_ids=names), names


def test_lookup_writes_a_row_a_neighbor_and_lists_rejects(root, asked, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert main(["lookup", "--root", str(root), "--queries", str(asked), "--out", str(out), "-k", "4"]) == 0
    _, found, names = expected(root, asked, 4)
    assert pq.read_table(out).equals(neighbors_table(found, names))
    rejects = [json.loads(line) for line in (tmp_path / "out.parquet.rejects.jsonl").read_text().splitlines()]
    assert [(each["source"], each["code"]) for each in rejects] == [
        ("b.parquet row 2", "unknown-id"),
        ("c.parquet row 1", "not-finite"),
        ("c.parquet row 2", "wrong-dim"),
    ]
    assert "93 of 96 queries answered; 3 rejected" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked", "out.parquet", "out.parquet.rejects.jsonl"]


def test_lookup_into_a_folder(root, asked, tmp_path, capsys):
    out = tmp_path / "out"
    pattern = str(asked / "*.parquet")
    arguments = ["lookup", "--root", str(root), "--queries", pattern, "--out", str(out), "-k", "4", "--exact", "--json"]
    assert main(arguments) == 0
    _, found, names = expected(root, asked, 4)
    about = json.loads((out / "_answers.json").read_text())
    assert (about["queries"], about["answered"], about["rejected"]) == (96, 93, 3)
    parts = [pq.read_table(out / file["path"]) for file in about["files"]]
    assert [len(part) for part in parts] == [file["rows"] for file in about["files"]]
    assert pa.concat_tables(parts).combine_chunks().equals(neighbors_table(found, names))
    assert pq.read_table(out).combine_chunks().equals(neighbors_table(found, names)), "the folder is one table"
    assert json.loads(capsys.readouterr().out)["rejects"] == str(out / "_rejects.jsonl")
    assert main(arguments) == 1
    assert "no empty folder" in capsys.readouterr().err


def test_match_applies_the_cutpoint(root, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("simpipe.index.searcher.Searcher.calibration", lambda self: RULE)
    out = tmp_path / "out.parquet"
    arguments = ["match", "--root", str(root), "--queries", str(asked), "--out", str(out), "--cutpoint", "near"]
    assert main(arguments) == 0
    searcher, found, names = expected(root, asked, 3)
    matches = searcher.match_found(found, "near")
    table = pq.read_table(out)
    assert table.column("query").to_pylist() == names
    assert table.column("label").to_pylist() == [None] * ASKED + ["l0", None, None]
    assert table.column("match").to_pylist() == matches.labels.tolist()
    assert table.column("distance").to_pylist() == matches.distances.tolist()
    assert set(table.column("cutpoint_distance").to_pylist()) == {float(np.float32(0.8))}
    assert 0 < table.column("match").null_count < len(table)
    assert main([*arguments[:-1], "nonsense"]) == 1


def test_too_many_rejects_fail_and_nothing_is_written(root, asked, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    arguments = ["lookup", "--root", str(root), "--out", str(out), "--max-rejected", "0.01", "--queries"]
    assert main([*arguments, str(asked)]) == 1
    text = capsys.readouterr().err
    assert "3 of 96 queries rejected" in text
    assert "--max-rejected 0.032" in text
    assert not out.exists()
    assert (tmp_path / "out.parquet.rejects.jsonl").exists()
    assert main([*arguments, str(asked / "a.parquet")]) == 0
    assert not (tmp_path / "out.parquet.rejects.jsonl").exists(), "of another run"
    (asked / "b.parquet").unlink()
    pq.write_table(pa.table({"id": ["nobody"]}), asked / "b.parquet")
    assert main(["lookup", "--root", str(root), "--out", str(out), "--queries", str(asked / "b.parquet")]) == 1
    assert "no query could be answered" in capsys.readouterr().err


def test_what_does_not_go_together(root, asked, tmp_path, capsys):
    start = ["lookup", "--root", str(root)]
    for arguments, text in (
        (["--queries", str(asked)], "--out"),
        (["--queries", str(asked), "--out", str(tmp_path / "o"), "--where", "x"], "--where does not go with --queries"),
        (["--queries", str(tmp_path / "none*"), "--out", str(tmp_path / "o")], "no Parquet files"),
        (["--queries", str(asked / "a.parquet"), "--out", str(asked / "a.parquet")], "is one of the query files"),
        (["--queries", str(asked), "--out", str(asked / "x.parquet"), "-k", "0"], "k is 0"),
        (["--id", "i3", "--out", str(tmp_path / "o")], "--out goes with --queries"),
        (["--id", "i3", "--", "--runner=DirectRunner"], "without --queries runs no Beam job"),
    ):
        assert main([*start, *arguments]) != 0
        assert text in capsys.readouterr().err


def test_embeddings_of_another_encoder_are_refused(root, tmp_path, capsys):
    path = tmp_path / "q.parquet"
    with open_writer(path, schema(DIM, distance="euclidean", encoder="deadbeef")) as writer:
        table = {"id": ["a"], "label": [None], "embedding": vectors_column(np.ones((1, DIM), np.float32))}
        writer.write_table(pa.table(table, schema=writer.schema))
    assert main(["lookup", "--root", str(root), "--queries", str(path), "--out", str(tmp_path / "o.parquet")]) == 1
    text = capsys.readouterr().err
    assert "q.parquet" in text
    assert "deadbeef" in text
