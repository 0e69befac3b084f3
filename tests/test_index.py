"""Backends, routers, merging and partitions, against brute force."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.config.index import ExactBackend, NmslibBackend, ScannBackend
from simpipe.embeddings import vectors_column
from simpipe.grouped import GroupedWriter, read_group
from simpipe.ids import hash_ids
from simpipe.index.distance import bad_rows, between, prepare
from simpipe.index.merge import TopK, merge_topk, without_self
from simpipe.index.partitions import Partition, build_partition
from simpipe.index.rows import Rows, names_of, place_of, same_ids
from simpipe.types import Neighbors

BACKENDS = {
    "exact": ExactBackend(kind="exact"),
    "nmslib": NmslibBackend(kind="nmslib", exact_below=1),
    "scann": ScannBackend(kind="scann", exact_below=16),
}


def brute_force(queries: np.ndarray, items: np.ndarray, distance: str) -> np.ndarray:
    """All distances in float64: [nq, n]."""
    q, x = queries.astype(np.float64), items.astype(np.float64)
    if distance == "euclidean":
        return np.sqrt(((q[:, None] - x[None]) ** 2).sum(-1))
    dot = q @ x.T
    return 1 - dot if distance == "cosine" else -dot


def table_of(vectors: np.ndarray, labels: np.ndarray, prefix: str = "i") -> pa.Table:
    ids = [f"{prefix}{row:05d}" for row in range(len(vectors))]
    return pa.table({"id": ids, "label": pa.array([str(label) for label in labels]), "embedding": vectors_column(vectors)})


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "inner_product"])
@pytest.mark.parametrize("kind", list(BACKENDS))
def test_partition_survives_a_move_and_answers_in_one_convention(tmp_path, kind, distance):
    raw, labels = clustered(2000)
    vectors = prepare(raw, distance)
    queries = prepare(clustered(50, seed=9)[0], distance)
    config = BACKENDS[kind]
    record = build_partition(table_of(vectors, labels), tmp_path / "partitions" / "00003", config, distance=distance)
    assert {name: record[name] for name in ("path", "partition", "rows", "backend")} == {
        "path": "partitions/00003",
        "partition": 3,
        "rows": 2000,
        "backend": kind,
    }
    moved = tmp_path / "elsewhere" / "00003"
    shutil.move(tmp_path / "partitions" / "00003", moved)
    part = Partition.load(moved, kind, distance=distance, dim=16, params=config.model_dump())
    top = part.search(queries, 10)
    expected = np.sort(brute_force(queries, vectors, distance), axis=1)[:, :10]
    recall = (top.distances <= expected[:, -1:] + 1e-4).mean()
    # Largest inner products of raw vectors are no near neighbors, for which both libraries are made.
    assert recall >= (0.99 if kind == "exact" or distance != "inner_product" else 0.9)
    assert (np.diff(top.distances, axis=1) >= 0).all(), "nearest first, smaller is nearer"
    exact = part.search(queries, 10, exact=True)
    np.testing.assert_allclose(exact.distances, expected, rtol=1e-4, atol=1e-5)


def test_exact_search_is_exact_far_from_zero(tmp_path):
    """Squares of coordinates near 1000 cancel in float32; differences do not."""
    vectors = (1000 + 0.1 * np.random.default_rng(0).normal(size=(2000, 16))).astype(np.float32)
    build_partition(table_of(vectors, np.zeros(2000)), tmp_path / "00000", BACKENDS["exact"], distance="euclidean")
    part = Partition.load(tmp_path / "00000", "exact", distance="euclidean", dim=16, params={})
    queries = vectors[:50] + np.float32(0.01)
    expected = np.argsort(brute_force(queries, vectors, "euclidean"), axis=1)[:, :10]
    found = names_of({0: part.rows}, part.search(queries, 10).place)[0]
    assert (
        np.mean([len({f"i{row:05d}" for row in true} & set(got)) / 10 for got, true in zip(found, expected, strict=True)]) > 0.99
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from([1, 2, 11]), st.integers(0, 1000))
def test_searched_partitions_equal_one_index_ties_included(tmp_path_factory, n, k, partitions, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 2, size=(n, 2)).astype(np.float32)  # four distinct vectors: ties everywhere
    queries = rng.integers(0, 2, size=(3, 2)).astype(np.float32)
    ids = [f"i{row:05d}" for row in range(n)]
    tie = hash_ids(ids)
    place = rng.integers(partitions, size=n)
    folder = tmp_path_factory.mktemp("parts")
    found, tables = [TopK.empty(3, 0)], {}
    for number in range(partitions):
        rows = np.flatnonzero(place == number)
        table = table_of(vectors, np.zeros(n)).take(rows)
        build_partition(table, folder / f"{number:05d}", BACKENDS["exact"], distance="euclidean")
        where = folder / f"{number:05d}"
        part = Partition.load(where, "exact", distance="euclidean", dim=2, params={}, number=number)
        found.append(part.search(queries, k))
        tables[number] = part.rows
    merged = names_of(tables, merge_topk(found, k).place)[0]
    distances = brute_force(queries, vectors, "euclidean")
    for row in range(3):
        oracle = sorted(range(n), key=lambda item: (np.float32(distances[row, item]), tie[item]))[:k]
        assert [name for name in merged[row] if name is not None] == [ids[item] for item in oracle]


@pytest.mark.parametrize("kind", list(BACKENDS))
@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_small_partitions_answer_with_what_exists(tmp_path, kind, n):
    vectors = prepare(clustered(max(n, 1))[0], "cosine")[:n]
    build_partition(table_of(vectors, np.zeros(n)), tmp_path / "00000", BACKENDS[kind], distance="cosine")
    built = (tmp_path / "00000" / "backend.json").read_text()
    loaded = next(name for name in BACKENDS if f'"{name}"' in built)
    part = Partition.load(tmp_path / "00000", loaded, distance="cosine", dim=16, params=BACKENDS[kind].model_dump())
    top = part.search(prepare(clustered(4, seed=3)[0], "cosine"), 10)
    assert np.isfinite(top.distances).sum(axis=1).tolist() == [min(n, 10)] * 4


@pytest.mark.parametrize("kind", list(BACKENDS))
@pytest.mark.parametrize("k", [400, 799, 800, 5000])
def test_large_k_gets_all_that_exist(tmp_path, kind, k):
    vectors = prepare(clustered(800)[0], "cosine")
    build_partition(table_of(vectors, np.zeros(800)), tmp_path / "00000", BACKENDS[kind], distance="cosine")
    part = Partition.load(tmp_path / "00000", kind, distance="cosine", dim=16, params=BACKENDS[kind].model_dump())
    top = part.search(vectors[:20], k)
    assert np.isfinite(top.distances).sum(axis=1).tolist() == [min(k, 800)] * 20
    assert all(len(set(row)) == min(k, 800) for row in top.place.tolist())


def test_distances_do_not_depend_on_the_block():
    queries, items = prepare(clustered(40)[0], "cosine"), prepare(clustered(40, seed=1)[0], "cosine")
    for distance in ("cosine", "euclidean", "inner_product"):
        together = between(queries, np.stack([items] * 40), distance)
        for row in range(40):
            assert np.array_equal(between(queries[row : row + 1], items[None], distance)[0], together[row])


def test_bad_rows():
    vectors = np.ones((5, 3), np.float32)
    vectors[1, 2] = np.nan
    vectors[2, 0] = np.inf
    vectors[3] = 0
    not_finite, zero = bad_rows(vectors, "cosine")
    assert not_finite.tolist() == [False, True, True, False, False]
    assert zero.tolist() == [False, False, False, True, False]
    assert not bad_rows(vectors, "euclidean")[1].any()


def test_unit_vectors_stay_bit_for_bit():
    once = prepare(clustered(100)[0], "cosine")
    assert np.array_equal(prepare(once, "cosine"), once)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 2, 11, 64]), st.integers(0, 10_000))
def test_merged_partitions_equal_one_index(n, k, partitions, seed):
    """Any split into partitions gives the answer of the undivided set, ties included."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, size=(n, 3)).astype(np.float32)  # small integers: many ties
    queries = rng.integers(-1, 2, size=(4, 3)).astype(np.float32)
    ids = np.array([f"i{row}" for row in range(n)], object)
    tie = hash_ids(ids.tolist())
    distances = between(queries, np.broadcast_to(vectors, (4, n, 3)), "euclidean")
    place = rng.integers(partitions, size=n)

    def part(rows: np.ndarray) -> TopK:
        repeat = (4, 1)
        whole = TopK(distances[:, rows], np.tile(tie[rows], repeat), np.tile(rows, repeat))
        return merge_topk([TopK.empty(4, 0), whole], k)

    merged = merge_topk([TopK.empty(4, 0), *(part(np.flatnonzero(place == number)) for number in range(partitions))], k)
    for row in range(4):
        oracle = sorted(range(n), key=lambda item: (distances[row, item], tie[item]))[:k]
        assert [place for place in merged.place[row] if place >= 0] == oracle


def test_merge_drops_an_item_that_comes_twice_also_at_another_distance():
    """Stored as int8, copies of an item in two partitions are rounded differently: the nearer one stays."""
    one = TopK(*(np.array(values)[None] for values in (np.float32([0.1, 0.2]), np.uint64([7, 8]), [1, 2])))
    other = TopK(*(np.array(values)[None] for values in (np.float32([0.15, 0.19]), np.uint64([7, 8]), [3, 4])))
    merged = merge_topk([one, other], 3)
    assert merged.place.tolist() == [[1, 4, -1]]
    assert merged.distances[0, 2] == np.inf


def test_ids_that_share_a_hash_stay_apart():
    """Two ids of one hash, at one distance: only the id tells them from copies."""
    rows = Rows(pa.array(["a", "b"], pa.large_string()), pa.array(["x", None], pa.large_string()), np.uint64([7, 7]))
    tables = {0: rows, 3: rows}
    top = [TopK(np.float32([[0.5, 0.5]]), np.uint64([[7, 7]]), place_of(number, np.array([[0, 1]]))) for number in tables]
    one = merge_topk(top[:1], 2, same=lambda *places: same_ids(tables, *places))
    assert names_of(tables, one.place)[0].tolist() == [["a", "b"]]
    assert rows.rows_of(np.array(["b", "a", "c"], object)).tolist() == [-1, -1, -1], "their true hashes are others"
    assert same_ids(tables, place_of(0, np.array([0, 1])), place_of(3, np.array([0, 0]))).tolist() == [True, False]


def test_without_self_goes_by_id():
    top = Neighbors(
        np.array([["twin", "me", "far"]], object),
        np.array([["x", "y", "z"]], object),
        np.array([[0.0, 0.0, 0.5]], np.float32),
    )
    assert without_self(top, np.array(["me"], object), 2).ids.tolist() == [["twin", "far"]]
    assert without_self(top, np.array(["stranger"], object), 2).ids.tolist() == [["twin", "me"]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=20), min_size=1, max_size=4))
def test_grouped_files_lose_nothing(tmp_path_factory, blocks):
    path = tmp_path_factory.mktemp("grouped") / "rows.arrow"
    kind = pa.schema([("row", pa.int64())])
    with GroupedWriter(path, kind, 7) as writer:
        first = 0
        for block in blocks:
            writer.write(pa.table({"row": pa.array(range(first, first + len(block)), pa.int64())}), np.array(block, np.int64))
            first += len(block)
    flat = [group for block in blocks for group in block]
    for group in range(7):
        table = read_group([path], group, 7)
        assert table is not None
        assert table.column("row").to_pylist() == [row for row, each in enumerate(flat) if each == group]
