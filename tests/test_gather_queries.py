"""Files of held-out queries stay few, however many re-indexes have added to them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import reindex_model as model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpipe import files
from simpipe.embeddings import schema, vectors_column
from simpipe.import_vectors import write_embeddings
from simpipe.reindex.gather import gather_queries


def write(folder: Path, name: str, first: int, rows: int) -> dict[str, Any]:
    kind = schema(2, distance="cosine", encoder="none")
    ids = [f"q{first + row}" for row in range(rows)]
    digests = pa.array([bytes(16)] * rows, pa.binary(16))
    columns = [pa.array(ids, pa.string()), pa.nulls(rows, pa.string()), vectors_column(np.ones((rows, 2), np.float32)), digests]
    write_embeddings(pa.table(columns[: len(kind)], schema=kind), folder / name)
    return {**files.entry_of(folder / name, folder).to_json(), "split": "query", "rows": rows}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=14))
def test_all_rows_in_their_order_in_full_files(tmp_path_factory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("queries")
    starts = np.cumsum([0, *sizes])
    records = [
        write(folder, f"query-{number:05d}-of-{len(sizes):05d}.parquet", int(starts[number]), size)
        for number, size in enumerate(sizes)
    ]
    item = {"path": "index-00000-of-00001.parquet", "split": "index", "rows": 3, "size": 1, "sha256": "0"}
    made = gather_queries(folder, [item, *records], rows=8)
    assert made[0] == item
    queries = made[1:]
    ids = [name for record in queries for name in pq.read_table(folder / record["path"])["id"].to_pylist()]
    assert ids == [f"q{row}" for row in range(starts[-1])]
    counts = [record["rows"] for record in queries]
    assert all(one + other > 8 for one, other in itertools.pairwise(counts)), "none that fit together"
    assert max(counts) <= max(8, *sizes)
    for record in queries:
        files.verify(folder / record["path"], files.FileEntry(record["path"], record["size"], record["sha256"]))


def test_re_indexes_do_not_add_files_of_queries(tmp_path: Path, monkeypatch) -> None:
    from pipelines import reindex
    from simpipe.embeddings import EmbeddingsInfo

    model.without_measuring(monkeypatch)
    rng = np.random.default_rng(0)
    truth = {name: model.new_item(rng, 0) for name in model.names()[0][:40]}
    model.first_release(tmp_path, truth)
    items, queries = model.names()
    for number in range(3):
        chosen = (items, queries[:2] if number % 2 == 0 else queries)
        monkeypatch.setattr(model, "names", lambda chosen=chosen: chosen)
        model.write_source(tmp_path / "source", truth)
        assert reindex.run(model.config_of(tmp_path), say=lambda text: None).outcome == "published"
        _, manifest = model.releases.open_live(tmp_path / "root")
        folder = tmp_path / "root" / "embeddings" / manifest.provenance["embeddings"][:12]
        found = EmbeddingsInfo.load(folder).of_splits("query")
        assert [file.rows for file in found] == [len(chosen[1])]
        assert len(list(folder.glob("query-*.parquet"))) == 1
