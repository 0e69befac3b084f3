"""Backends against brute force: every distance, small and duplicated data, moved and damaged files, threads."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.config.index import ExactBackend, FaissBackend, NmslibBackend, ScannBackend
from simpipe.errors import ConfigError, ContractError, QueryError
from simpipe.index import exact as exact_module
from simpipe.index.backend import build_backend, ladder, load_backend
from simpipe.index.distance import DISTANCES, between, prepare
from simpipe.index.distinct import Groups, group_equal
from simpipe.index.exact import ExactIndex, exact_topk

try:
    import faiss
except ImportError:
    faiss = None

BACKENDS = {
    "exact": ExactBackend(kind="exact"),
    "nmslib": NmslibBackend(kind="nmslib", exact_below=1),
    "scann": ScannBackend(kind="scann", exact_below=16),
    "hashed": ScannBackend(kind="scann", exact_below=16, scoring="hash"),
    **({"hnsw": FaissBackend(kind="faiss", exact_below=1)} if faiss else {}),
    **({"ivf": FaissBackend(kind="faiss", index="ivf", exact_below=1)} if faiss else {}),
}
KNOWN = {
    "exact": DISTANCES,
    "nmslib": DISTANCES,
    "scann": ("cosine", "inner_product", "euclidean", "squared_euclidean"),
    "hashed": ("cosine", "inner_product", "euclidean", "squared_euclidean"),
    "hnsw": ("cosine", "inner_product", "euclidean", "squared_euclidean"),
    "ivf": ("cosine", "inner_product", "euclidean", "squared_euclidean"),
}


def brute_force(queries: np.ndarray, items: np.ndarray, distance: str) -> np.ndarray:
    """All distances in float64: [nq, n]."""
    q, x = queries.astype(np.float64), items.astype(np.float64)
    if distance == "manhattan":
        return np.abs(q[:, None] - x[None]).sum(-1)
    if distance.endswith("euclidean"):
        squares = ((q[:, None] - x[None]) ** 2).sum(-1)
        return np.sqrt(squares) if distance == "euclidean" else squares
    return (distance == "cosine") - q @ x.T


def recall(rows: np.ndarray, queries: np.ndarray, items: np.ndarray, distance: str, k: int = 10) -> float:
    """The share of the k exact distances that the found rows reach; a row counts once."""
    true = brute_force(queries, items, distance)
    kth = np.sort(true, axis=1)[:, k - 1 : k]
    limit = kth + 1e-5 * (1 + np.abs(kth))
    near = (np.take_along_axis(true, np.maximum(rows, 0), axis=1) <= limit) & (rows >= 0)
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in rows), "no row twice"
    return float(np.minimum(near.sum(axis=1), k).mean() / k)


def reloaded(backend, name, folder, vectors, distance, storage="float32"):
    """The backend, saved, moved to another folder, and loaded there."""
    (folder / "a").mkdir()
    backend.save(folder / "a")
    shutil.move(folder / "a", folder / "b")
    assert not list(folder.rglob("*.pkl"))
    params = BACKENDS[name].model_dump()
    return load_backend(folder / "b", backend.kind, vectors, distance=distance, params=params, storage=storage)


@pytest.mark.parametrize(("name", "distance"), [(name, distance) for name in BACKENDS for distance in KNOWN[name]])
def test_finds_the_nearest_before_and_after_a_move(tmp_path, name, distance):
    vectors = prepare(clustered(3000)[0], distance)
    queries = prepare(clustered(50, seed=9)[0], distance)
    backend = build_backend(vectors, BACKENDS[name], distance=distance)
    assert backend.kind == BACKENDS[name].kind
    again = reloaded(backend, name, tmp_path, vectors, distance)
    first, second = backend.search(queries, 14), again.search(queries, 14)
    assert first.dtype == np.int64
    assert np.array_equal(first, second)
    # Largest inner products of raw vectors are no near neighbors, for which these libraries are made.
    least = 1.0 if name == "exact" else 0.9 if distance == "inner_product" else 0.985
    assert recall(first, queries, vectors, distance) >= least
    near = between(queries, vectors[np.maximum(first[:, :10], 0)], distance)
    assert (np.diff(near, axis=1) >= -1e-4 * (1 + np.abs(near[:, 1:]))).all(), "nearest first"


@pytest.mark.parametrize("name", list(BACKENDS))
def test_dearer_settings_find_more(name):
    vectors, queries = prepare(clustered(5000, clusters=200)[0], "cosine"), prepare(clustered(80, seed=3)[0], "cosine")
    backend = build_backend(vectors, BACKENDS[name], distance="cosine")
    steps = backend.ladder(10)
    assert steps == ladder(BACKENDS[name], len(vectors), 10, dim=vectors.shape[1], distance="cosine")
    found = [recall(backend.search(queries, 14, settings=step), queries, vectors, "cosine") for step in steps]
    assert found[-1] >= 0.99
    if name != "exact":
        assert len(steps) >= 8
        assert len({tuple(step.items()) for step in steps}) == len(steps)
        assert found[0] < 0.97
        assert np.diff(found).min() > -0.05


@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 40])
def test_little_data(tmp_path, name, n):
    vectors = prepare(clustered(max(n, 1))[0], "cosine")[:n]
    backend = build_backend(vectors, BACKENDS[name], distance="cosine")
    queries = prepare(clustered(4, seed=3)[0], "cosine")
    for each in (backend, reloaded(backend, name, tmp_path, vectors, "cosine")):
        for block in (queries, queries[:1], queries[:0]):
            rows = each.search(block, 10, threads=2)
            assert len(rows) == len(block)
            assert [len(set(row[row >= 0].tolist())) for row in rows] == [min(n, 10)] * len(block)


@pytest.mark.parametrize("distinct", [1, 2, 200])
@pytest.mark.parametrize("name", list(BACKENDS))
def test_many_exact_duplicates(tmp_path, name, distinct):
    originals = prepare(clustered(distinct, seed=4)[0], "cosine")
    copies = np.random.default_rng(0).permutation(np.arange(4000) % min(distinct, 20))
    vectors = np.concatenate([originals, originals[copies]])
    backend = build_backend(vectors, BACKENDS[name], distance="cosine")
    for each in (backend, reloaded(backend, name, tmp_path, vectors, "cosine")):
        rows = each.search(originals, 12)
        assert (rows >= 0).sum(axis=1).min() >= 12
        assert recall(rows, originals, vectors, "cosine", 12) >= 0.98
        assert np.allclose(vectors[rows[:, 0]], originals, atol=1e-6), "each query finds a copy of itself first"


@pytest.mark.parametrize("name", list(BACKENDS))
def test_threads_and_blocks_do_not_change_the_answer(name):
    vectors, queries = prepare(clustered(4000)[0], "euclidean"), prepare(clustered(300, seed=5)[0], "euclidean")
    backend = build_backend(vectors, BACKENDS[name], distance="euclidean")
    steps = [backend.ladder(10)[0], backend.ladder(10)[-1]]
    once = [backend.search(queries, 10, settings=step)[:, :10] for step in steps]
    with ThreadPoolExecutor(4) as pool:
        jobs = [(i % 2, pool.submit(backend.search, queries, 10, settings=steps[i % 2], threads=1 + i % 3)) for i in range(12)]
        for which, job in jobs:
            assert np.array_equal(job.result()[:, :10], once[which])
    single = np.concatenate([backend.search(queries[row : row + 1], 10, settings=steps[1])[:, :10] for row in range(20)])
    assert np.array_equal(single, once[1][:20])


@pytest.mark.parametrize("name", list(BACKENDS))
def test_refuses_queries_of_another_shape(name):
    backend = build_backend(clustered(500)[0], BACKENDS[name], distance="euclidean")
    for wrong in (np.zeros((2, 15), np.float32), np.zeros(16, np.float32), np.zeros((2, 16))):
        with pytest.raises(QueryError, match=r"float32\[n, 16\]"):
            backend.search(wrong, 3)


FILES = {"nmslib": "nmslib.hnsw", "scann": "scann/serialized_partitioner.pb", "hnsw": "faiss.index", "ivf": "faiss.index"}


@pytest.mark.parametrize("name", [name for name in BACKENDS if name in FILES])
def test_damaged_files_are_refused(tmp_path, name):
    vectors = clustered(500)[0]
    build_backend(vectors, BACKENDS[name], distance="euclidean").save(tmp_path)
    kind, params, path = BACKENDS[name].kind, BACKENDS[name].model_dump(), tmp_path / FILES[name]
    with pytest.raises(ContractError, match="499"):
        load_backend(tmp_path, kind, vectors[:499], distance="euclidean", params=params)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ContractError, match="build the release again"):
        load_backend(tmp_path, kind, vectors, distance="euclidean", params=params)
    path.unlink()
    with pytest.raises(ContractError, match="build the release again"):
        load_backend(tmp_path, kind, vectors, distance="euclidean", params=params)


def test_scann_never_unpickles(tmp_path):
    """ScaNN's own loader reads `scann_docids.pkl` where there is one."""
    vectors = clustered(500)[0]
    backend = build_backend(vectors, BACKENDS["scann"], distance="euclidean")
    backend.save(tmp_path)
    (tmp_path / "scann" / "scann_docids.pkl").write_bytes(b"cos\nabort\n(tR.")
    again = load_backend(tmp_path, "scann", vectors, distance="euclidean", params={})
    assert np.array_equal(again.search(vectors[:9], 5), backend.search(vectors[:9], 5))


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_scann_with_rounded_vectors(tmp_path, storage):
    vectors, queries = prepare(clustered(5000)[0], "cosine"), prepare(clustered(60, seed=6)[0], "cosine")
    backend = build_backend(vectors, BACKENDS["scann"], distance="cosine", storage=storage)
    again = reloaded(backend, "scann", tmp_path, vectors, "cosine", storage)
    rows = backend.search(queries, 10)
    assert np.array_equal(again.search(queries, 10), rows)
    assert recall(rows, queries, vectors, "cosine") >= 0.985
    plain = tmp_path / "plain"
    plain.mkdir()
    build_backend(vectors, BACKENDS["hashed"], distance="cosine").save(plain)
    size = [sum(file.stat().st_size for file in folder.rglob("*")) for folder in (tmp_path / "b", plain)]
    assert size[0] < 0.8 * size[1]


@pytest.mark.parametrize("name", [name for name in BACKENDS if "manhattan" not in KNOWN[name]])
def test_an_unknown_distance_is_refused(name):
    with pytest.raises(ConfigError, match="manhattan"):
        build_backend(clustered(100)[0], BACKENDS[name], distance="manhattan")


def test_faiss_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"simpipe\[faiss\]"):
        build_backend(clustered(100)[0], FaissBackend(kind="faiss", exact_below=1), distance="cosine")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from(DISTANCES), st.integers(0, 1000), st.booleans(), st.integers(0, 2))
def test_exact_returns_all_that_tie(n, k, distance, seed, lattice, offset):
    """Against an oracle, in blocks so small that every threshold is met, ties included."""
    rng = np.random.default_rng(seed)
    draw = (lambda m: rng.integers(-2, 3, size=(m, 3))) if lattice else (lambda m: rng.normal(size=(m, 3)))
    items, queries = (np.asarray(draw(m) + 0.5 + 50 * offset, np.float32) for m in (n, 5))
    items, queries = prepare(items, distance), prepare(queries, distance)
    sizes = {"_QUERIES": 2, "_LEAST_ROWS": 7, "_MOST_ROWS": 11, "_KEPT": 20}
    held = {name: getattr(exact_module, name) for name in sizes}
    try:
        for name, value in sizes.items():
            setattr(exact_module, name, value)
        rows = ExactIndex(items, distance).search(queries, k)
        top, near = exact_topk(items, queries, k, distance=distance)
    finally:
        for name, value in held.items():
            setattr(exact_module, name, value)
    true = between(queries, np.broadcast_to(items, (5, n, 3)), distance)
    kth = np.sort(true, axis=1)[:, min(k, n) - 1]
    for query in range(5):
        assert set(np.flatnonzero(true[query] <= kth[query])) <= set(rows[query].tolist())
        assert len(set(top[query][top[query] >= 0].tolist())) == min(k, n)
        expected = np.sort(true[query])[:k]
        np.testing.assert_allclose(near[query, : len(expected)], expected, rtol=2e-5, atol=2e-5 * (1 + offset))
        assert np.isinf(near[query, len(expected) :]).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_exact_topk_is_exact(distance):
    items, queries = prepare(clustered(6000, dim=24)[0], distance), prepare(clustered(700, dim=24, seed=2)[0], distance)
    rows, near = exact_topk(items, queries, 10, distance=distance)
    expected = np.sort(brute_force(queries, items, distance), axis=1)[:, :10]
    np.testing.assert_allclose(near, expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(near, between(queries, items[rows], distance))
    again, _ = exact_topk(items, queries, 10, distance=distance, threads=2)
    assert np.array_equal(rows, again)


def test_exact_topk_of_equal_items_stays_small():
    items = np.ones((20_000, 4), np.float32)
    rows, near = exact_topk(items, items[:3], 5, distance="euclidean")
    assert rows.shape == (3, 5)
    assert (near == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_groups_hold_each_row_once(n, k, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, size=(n, 2)).astype(np.float32) * np.float32(-1)  # zeros of both signs
    unique = np.unique(vectors + 0, axis=0)
    groups = group_equal(vectors)
    if len(unique) == n:
        assert groups is None
        return
    assert groups is not None
    assert len(groups) == len(unique)
    assert sorted(groups.rows.tolist()) == list(range(n))
    assert (np.unique(vectors[groups.first] + 0, axis=0) == unique).all()
    found = np.stack([rng.permutation(len(groups))[: min(5, len(groups))] for _ in range(4)])
    found[0, -1] = -1
    out = groups.expand(found, k)
    for query, row in zip(found, out, strict=True):
        expected = [int(r) for group in query if group >= 0 for r in groups.rows[groups.start[group] : groups.start[group + 1]]]
        assert [r for r in row.tolist() if r >= 0] == expected[:k]


def test_groups_tell_equal_hashes_apart(monkeypatch):
    from simpipe.index import distinct

    monkeypatch.setattr(distinct, "_hashes", lambda vectors: np.zeros(len(vectors), np.uint64))
    vectors = np.array([[1, 0], [2, 0], [1, 0], [3, 0]], np.float32)
    groups = group_equal(vectors)
    assert groups is not None
    assert [groups.rows[a:b].tolist() for a, b in zip(groups.start, groups.start[1:], strict=False)] == [[0, 2], [1], [3]]


def test_groups_refuse_another_partition(tmp_path):
    groups = group_equal(np.ones((5, 2), np.float32))
    assert groups is not None
    groups.save(tmp_path)
    assert len(Groups.load(tmp_path, 5) or ()) == 1
    with pytest.raises(ContractError, match="4 rows"):
        Groups.load(tmp_path, 4)
