"""Ready-made vectors that the line refuses by name, or takes in part."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from line_runs import broken_vectors, items_of, run

import simpipe
from simpipe import releases
from simpipe.cli import main
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import (
    ConfigError,
    DuplicateIdError,
    QueryError,
    RejectedError,
    SimpipeError,
    SourceError,
)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda x, ids: x.__setitem__((17, 3), np.nan), RejectedError, r"x\.npy row 17: the vector holds NaN.*'v17'"),
        (lambda x, ids: x.__setitem__(18, 0), RejectedError, r"x\.npy row 18: the vector has zero norm"),
        (lambda x, ids: ids.__setitem__(19, ""), RejectedError, r"x\.npy row 19: the id is null or empty"),
        (lambda x, ids: ids.__setitem__(20, "v3"), DuplicateIdError, r"id 'v3' stands at ids\.txt row 3 and at ids\.txt row 20"),
        (lambda x, ids: ids.pop(), SourceError, r"199 values for 200 vectors"),
    ],
)
def test_bad_vectors_are_named(vectors_config, tmp_path, change, error, text):
    source = broken_vectors(tmp_path, change)
    with pytest.raises(error, match=text) as caught:
        run(vectors_config(tmp_path / "r", source=source))
    assert caught.value.cure
    assert releases.read_pointer(tmp_path / "r") is None


def test_an_id_among_both_items_and_queries_or_twice_among_queries_is_found(vectors_config, tmp_path):
    from simpipe.ids import holdout

    ids = [f"v{row}" for row in range(200)]
    held = [name for name, out in zip(ids, holdout(ids, 0.1, 42), strict=True) if out]
    assert len(held) > 2
    first, second = ids.index(held[0]), ids.index(held[1])
    source = broken_vectors(tmp_path, lambda x, names: names.__setitem__(second, held[0]))
    with pytest.raises(DuplicateIdError, match=rf"id '{held[0]}' stands at ids\.txt row {first} and at ids\.txt row {second}"):
        run(vectors_config(tmp_path / "r", source=source))


@pytest.mark.parametrize("name", ["partition", "file", "row", "distance", "id"])
def test_metadata_may_not_take_our_names(vectors_config, tmp_path, name):
    table = pa.table({"key": ["a", "b"], name: [1, 2], "embedding": pa.array([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "x.parquet")
    source = {"kind": "vectors", "path": str(tmp_path / "x.parquet"), "ids": "key", "metadata": [name]}
    with pytest.raises(SourceError, match=f"source.metadata: column name '{name}'"):
        run(vectors_config(tmp_path / "r", source=source))


def test_a_replaced_file_is_read_anew_in_the_same_process(vectors_config, tmp_path):
    first, _ = run(vectors_config(tmp_path / "r", source=broken_vectors(tmp_path, lambda x, ids: None)))
    before = items_of(first.root)
    second, said = run(vectors_config(tmp_path / "r", source=broken_vectors(tmp_path, lambda x, ids: x.__imul__(-1))))
    assert "skipped" not in said[0]
    after = items_of(second.root)
    assert {name: -np.frombuffer(vector, np.float32) for name, (_, vector) in before.items()}.keys() == after.keys()
    assert all(
        np.array_equal(-np.frombuffer(before[name][1], np.float32), np.frombuffer(after[name][1], np.float32)) for name in before
    )


def test_paths_that_cannot_be_written_are_named(vectors_config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    config = vectors_config(tmp_path / "file" / "root")
    (tmp_path / "c.yaml").write_text(config.model_dump_json())
    assert main(["run", "--config", str(tmp_path / "c.yaml")]) == 1
    shown = capsys.readouterr().err
    assert "file" in shown
    assert "cure:" in shown
    assert main(["run", "--config", str(tmp_path)]) == 2
    assert main(["run", "--config", str(tmp_path / "c.yaml"), "--set", "seed=-1"]) == 2


def test_bad_vectors_within_the_allowed_share_are_left_out(vectors_config, tmp_path):
    source = broken_vectors(tmp_path, lambda x, ids: x.__setitem__(17, np.nan))
    line, _ = run(vectors_config(tmp_path / "r", source=source, rejects={"max_share": 0.01}))
    info = EmbeddingsInfo.load(line.embeddings[0])
    assert info.counts == {"read": 200, "written": 199, "rejected": 1}
    rejected = [json.loads(text) for path in (line.embeddings[0] / "rejects").iterdir() for text in path.read_text().splitlines()]
    assert [entry["id"] for entry in rejected] == ["v17"]
    assert "v17" not in items_of(line.root)


def test_mixed_dimensions_in_parquet(vectors_config, tmp_path):
    rows = [[1.0, 2.0, 3.0], [1.0, 2.0], [3.0, 1.0, 2.0]]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "embedding": pa.array(rows, pa.list_(pa.float32()))}), tmp_path / "x.parquet")
    source = {"kind": "vectors", "path": str(tmp_path / "x.parquet"), "ids": "id"}
    with pytest.raises(RejectedError, match=r"x\.parquet row 1: dim 2, the first vector has 3"):
        run(vectors_config(tmp_path / "r", source=source))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((0, 8), np.float32), "no vectors"),
        (np.zeros(8, np.float32), r"shape \[n, dim\]"),
        (np.array([{"a": 1}], object), "NumPy cannot read it|objects"),
    ],
)
def test_files_that_hold_no_vectors(vectors_config, tmp_path, array, text):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)  # written only: `run` must refuse the one that holds a pickle
    with pytest.raises(SourceError, match=text):
        run(vectors_config(tmp_path / "r", source={"kind": "vectors", "path": str(tmp_path / "x.npy")}))


def test_parquet_with_metadata_and_class_lists(vectors_config, tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "key": [f"k{row}" for row in range(300)],
            "kind": [str(row % 3) for row in range(300)],
            "price": pa.array([float(row) for row in range(300)]),
            "embedding": pa.array(list(rng.normal(size=(300, 4))), pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=70)
    source = {"kind": "vectors", "path": str(tmp_path / "x.parquet"), "ids": "key", "labels": "kind", "metadata": ["price"]}
    line, _ = run(vectors_config(tmp_path / "r", source=source, classes={"index": ["0-1"]}))
    searcher = simpipe.open_release(line.root)
    assert {label for label, _ in items_of(line.root).values()} == {"0", "1"}
    name = searcher.partition(0).ids[0]
    assert searcher.items_of([name])["price"].to_pylist() == [float(name[1:])]
    with pytest.raises(ConfigError, match=r"classes\.index: class '7'"):
        run(vectors_config(tmp_path / "r2", source=source, classes={"index": ["0", "7"]}))


def test_without_labels_there_are_neighbors_but_no_cutpoints(vectors_config, tmp_path):
    source = broken_vectors(tmp_path, lambda x, ids: None)
    line, said = run(vectors_config(tmp_path / "r", source=source))
    assert any("no labels" in text for text in said)
    assert line.metrics()["ann_recall_at_10"] == 1.0
    with pytest.raises(QueryError, match="no cutpoint"):
        simpipe.open_release(line.root).match(np.ones((1, 8), np.float32))


def test_no_queries_is_an_error_with_a_cure(vectors_config, tmp_path):
    with pytest.raises(SimpipeError, match="no held-out queries") as caught:
        run(vectors_config(tmp_path / "r", queries={"fraction": 0.0}))
    assert "queries.fraction" in caught.value.cure
