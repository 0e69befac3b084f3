"""Files of queries: how they are cut, and which rows are refused, one by one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.embeddings import vectors_column
from simpipe.errors import ConfigError, QueryError
from simpipe.query_files import Source, check_rows, plan_sources, read_tables

DIM = 3
GOOD = [1.0, 2.0, 2.0]


def stored(ids: pa.Array) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """Items `item0` and so on; their vectors hold the number."""
    known = np.array([name.startswith("item") for name in ids.to_pylist()], bool)
    numbers = [float(name[4:]) + 1 if good else 0.0 for name, good in zip(ids.to_pylist(), known, strict=True)]
    labels = [f"label of {name}" if good else None for name, good in zip(ids.to_pylist(), known, strict=True)]
    return np.repeat(np.float32(numbers)[:, None], DIM, axis=1), pa.array(labels, pa.string()), known


def check(folder, table: pa.Table, *, distance: str = "cosine", columns=(), row_group: int = 1 << 20):
    path = folder / "q.parquet"
    pq.write_table(table, path, row_group_size=row_group)
    (*sources,) = plan_sources([str(path)], columns, dim=DIM, block=4)
    good, bad = [], []
    for source in sources:
        for part, first, _ in read_tables(source, columns):
            rows, rejects = check_rows(part, source, first, columns, dim=DIM, distance=distance, stored=stored)
            good.append(rows)
            bad += rejects
    return good, bad


KINDS = [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16())]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_bad_row_is_refused_by_itself(tmp_path, kind):
    half = pa.types.is_float16(kind.value_type)
    cast = np.float16 if half else float
    rows = [GOOD, [1.0, 2.0], GOOD, [np.nan, 0, 1], [0.0, 0.0, 0.0], [1.0, np.inf, 0], None, None, [1.0, None, 0], [], GOOD]
    lists = [None if row is None else [None if value is None else cast(value) for value in row] for row in rows]
    ids = ["a", "b", None, "d", "e", "f", "item4", "nobody", "i", "j", "a"]
    table = pa.table({"embedding": pa.array(lists, kind), "id": ids, "label": [7] * 11})
    (good,), bad = check(tmp_path, table)
    assert good.ids.to_pylist() == ["a", "row 2", "item4", "a"]
    assert good.own.tolist() == [True, False, True, True]
    assert good.labels.to_pylist() == ["7"] * 4
    assert good.vectors.tolist() == [GOOD, GOOD, [5.0] * 3, GOOD]
    assert [(each.id, each.source, each.code) for each in bad] == [
        ("b", "q.parquet row 1", "wrong-dim"),
        ("d", "q.parquet row 3", "not-finite"),
        ("e", "q.parquet row 4", "zero-norm"),
        ("f", "q.parquet row 5", "not-finite"),
        ("nobody", "q.parquet row 7", "unknown-id"),
        ("i", "q.parquet row 8", "null"),
        ("j", "q.parquet row 9", "wrong-dim"),
    ]
    assert "dim 2, the release has dim 3" in bad[0].reason


def test_zero_vectors_are_queries_of_other_distances(tmp_path):
    (good,), bad = check(tmp_path, pa.table({"embedding": pa.array([[0.0] * 3, GOOD])}), distance="euclidean")
    assert not bad
    assert good.ids.to_pylist() == ["row 0", "row 1"]


def test_rows_by_id_take_the_items_vector_and_label(tmp_path):
    (good,), bad = check(tmp_path, pa.table({"id": ["item3", "x", "item0", None], "season": [1, 2, 3, 4]}), columns=("season",))
    assert good.ids.to_pylist() == ["item3", "item0"]
    assert good.labels.to_pylist() == ["label of item3", "label of item0"]
    assert good.vectors.tolist() == [[4.0] * 3, [1.0] * 3]
    assert good.table.column("season").to_pylist() == [1, 3]
    assert [(each.id, each.code) for each in bad] == [("x", "unknown-id"), ("row 3", "no-query")]


@pytest.mark.parametrize("size", [DIM, DIM + 1])
def test_lists_of_fixed_size(tmp_path, size):
    good, bad = check(tmp_path, pa.table({"embedding": pa.array([[1] * size, [2] * size], pa.list_(pa.int64(), size))}))
    assert [each.code for each in bad] == ([] if size == DIM else ["wrong-dim"] * 2)
    assert sum(len(each.ids) for each in good) == (2 if size == DIM else 0)
    null = pa.array([[1] * size, None], pa.list_(pa.int64(), size))
    with pytest.raises(QueryError, match=r"q\.parquet: cannot be read(.|\n)*lists of variable size"):
        check(tmp_path, pa.table({"embedding": null}))


@pytest.mark.parametrize(
    "ids", [pa.array([4, 5]), pa.array(["4", "5"]).dictionary_encode(), pa.array(["4", "5"], pa.large_string())]
)
def test_ids_of_any_kind_are_text(tmp_path, ids):
    (good,), _ = check(tmp_path, pa.table({"id": ids, "embedding": pa.array([GOOD, GOOD])}))
    assert good.ids.to_pylist() == ["4", "5"]
    assert good.ids.type == pa.string()


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    with pytest.raises(QueryError, match=r"q\.parquet: column `id` is no text"):
        check(tmp_path, pa.table({"id": [b"\xff\xfe"]}))


def test_files_without_what_is_needed_are_refused_by_name(tmp_path):
    def plan(table: pa.Table, columns=()) -> list[Source]:
        pq.write_table(table, tmp_path / "x.parquet")
        return plan_sources([str(tmp_path / "x.parquet")], columns, dim=DIM, block=4)

    with pytest.raises(QueryError, match=r"x\.parquet: neither a column `embedding` nor `id` \(there are: vector\)"):
        plan(pa.table({"vector": [1]}))
    with pytest.raises(QueryError, match=r"x\.parquet: column `embedding` is list<\w+: string>"):
        plan(pa.table({"embedding": [["a"]]}))
    with pytest.raises(ConfigError, match=r"x\.parquet: no column 'season' \(there are: id\)"):
        plan(pa.table({"id": ["a"]}), ("season",))
    with pytest.raises(QueryError, match=r"x\.parquet: column `label` is list"):
        plan(pa.table({"id": ["a"], "label": [[1]]}))
    (tmp_path / "y.parquet").write_text("no")
    with pytest.raises(QueryError, match=r"y\.parquet: cannot be read as Parquet"):
        plan_sources([str(tmp_path / "y.parquet")], (), dim=DIM, block=4)


def test_names_of_rows_in_several_files(tmp_path):
    paths = []
    for folder, name in (("a", "q.parquet"), ("b", "q.parquet")):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / name))
        pq.write_table(pa.table({"embedding": pa.array([GOOD])}), paths[-1])
    one, other = plan_sources(paths, (), dim=DIM, block=4)
    assert (one.name, other.name) == ("a/q.parquet", "b/q.parquet")
    ((part, first, _),) = read_tables(other, ())
    rows, _ = check_rows(part, other, first, (), dim=DIM, distance="cosine", stored=stored)
    assert rows.ids.to_pylist() == ["b/q.parquet row 0"]


@settings(deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4),
    block=st.integers(1, 16),
    most=st.integers(1, 64),
)
def test_every_row_is_read_once_and_in_order(tmp_path_factory, groups, block, most):
    folder = tmp_path_factory.mktemp("cut")
    paths, rows = [], []
    for number, sizes in enumerate(groups):
        path = folder / f"{number}.parquet"
        with pq.ParquetWriter(path, pa.schema([("embedding", pa.list_(pa.float32(), DIM))])) as writer:
            for size in sizes:
                new = np.arange(len(rows), len(rows) + size)
                rows += new.tolist()
                writer.write_table(pa.table({"embedding": vectors_column(np.repeat(new[:, None], DIM, axis=1))}))
        paths.append(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simpipe.query_files._CHUNK_ROWS", most)
        patch.setattr("simpipe.query_files._READ_ROWS", 7)
        sources = plan_sources(paths, (), dim=DIM, block=block)
        chunks = [chunk for source in sources for chunk in source.chunks]
        assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
        assert sum(chunk.rows for chunk in chunks) == len(rows)
        assert all(chunk.rows <= max(block, most) for chunk in chunks)
        seen, counted = [], np.zeros(len(chunks), int)
        for source in sources:
            expected = source.first_row
            for table, first, chunk in read_tables(source, ()):
                assert first == expected
                expected += len(table)
                counted[chunk.number] += len(table)
                seen += table.column("embedding").combine_chunks().flatten().to_pylist()[::DIM]
            assert expected == source.first_row + source.rows
        assert seen == rows
        assert counted.tolist() == [chunk.rows for chunk in chunks]
