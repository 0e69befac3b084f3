"""Routers: where items and queries go, against brute force; caps, floors, spill, and data that is hard to split."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.config.index import ColumnRouter, HashRouter, KMeansRouter, PackedRouter
from simpipe.errors import ConfigError, ContractError, QueryError
from simpipe.ids import bucket_of
from simpipe.index.distance import prepare
from simpipe.index.packing import _smallest
from simpipe.index.router import Router, fit_column_router, fit_router
from simpipe.index.setting import ALL, SearchSetting

KINDS = {"kmeans": KMeansRouter, "packed": PackedRouter}


def config_of(kind: str, partitions: int, **more):
    return KINDS[kind](kind=kind, partitions=partitions, **more)


def ids_of(n: int) -> pa.Array:
    return pa.array([f"i{row}" for row in range(n)])


def lopsided(n: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    """30 % of the vectors in one cluster far tighter than the others, the rest in 20 clusters: float32[n, dim]."""
    rng = np.random.default_rng(seed)
    vectors, _ = clustered(n, dim=dim, seed=3)
    fresh = rng.permutation(n)
    vectors = vectors[fresh] + 0.05 * rng.normal(size=vectors.shape).astype(np.float32)
    vectors[: int(0.3 * n)] = 2.0 + 0.05 * rng.normal(size=(int(0.3 * n), dim))
    return vectors[rng.permutation(n)]


def distances_of(router: Router, vectors: np.ndarray) -> np.ndarray:
    """Squared distances with offsets in float64: [n, centroids]."""
    assert router.centroids is not None
    difference = vectors[:, None, :].astype(np.float64) - router.centroids[None].astype(np.float64)
    return (difference**2).sum(axis=2) + router.offsets


def least_of(router: Router, vectors: np.ndarray) -> np.ndarray:
    """The least distance of each territory: [n, territories]."""
    far = distances_of(router, vectors)
    return np.stack([far[:, router.owner == number].min(axis=1) for number in range(len(router.splits))], axis=1)


@pytest.fixture(scope="module", params=["kmeans", "packed"])
def fitted(request) -> tuple[Router, np.ndarray]:
    vectors = prepare(clustered(3000)[0], "cosine")
    return fit_router(vectors, config_of(request.param, 11), seed=5), vectors


def test_an_item_goes_where_its_nearest_centroid_belongs(fitted):
    router, vectors = fitted
    assigned = router.assign(ids_of(3000), vectors)
    least = least_of(router, vectors)
    assert router.partitions == len(np.unique(assigned)) == 11
    # Rounding may swap equally near ones, not others.
    assert (least[np.arange(3000), assigned] <= least.min(axis=1) + 1e-5).all()
    expected = least - least.min(axis=1, keepdims=True)
    np.testing.assert_allclose(router.nearness(vectors), expected, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 2999), max_size=5))
def test_blocks_do_not_matter(fitted, cuts):
    router, vectors = fitted
    ids, whole = ids_of(3000), router.assign(ids_of(3000), vectors)
    bounds = [0, *sorted(set(cuts)), 3000]
    parts = [router.assign(ids[a:b], vectors[a:b]) for a, b in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.min() >= 0
    assert whole.max() < router.partitions


def test_far_from_the_origin_nothing_is_lost():
    vectors = clustered(2000, dim=8)[0]
    near, far = (fit_router(data, config_of("kmeans", 5), seed=0) for data in (vectors, vectors + np.float32(1000)))
    moved = far.assign(ids_of(2000), vectors + np.float32(1000))
    least = least_of(far, vectors + np.float32(1000))
    assert (least[np.arange(2000), moved] <= least.min(axis=1) + 1e-2).all()
    assert near.partitions == far.partitions == 5


def test_asking_reaches_ones_own_partition_and_grows(fitted):
    router, vectors = fitted
    assigned, line = router.assign(ids_of(3000), vectors), np.arange(3000)
    least = least_of(router, vectors)
    for probes in (1, 3, 11):
        asked = router.ask(vectors, SearchSetting(probes=probes))
        assert asked[line, assigned].all()
        assert (asked.sum(axis=1) == probes).all()
        others = np.where(asked, np.inf, least).min(axis=1)
        assert (np.where(asked, least, -np.inf).max(axis=1) <= others + 1e-4).all(), "the nearest are asked"
    before = np.zeros((3000, 11), bool)
    nearness = router.nearness(vectors)
    for margin in (-1.0, 0.0, 0.05, 0.2, 1e9):
        asked = router.ask(vectors, SearchSetting(margin=margin))
        assert asked[line, assigned].all()
        assert (asked >= before).all()
        assert np.array_equal(asked, nearness <= max(margin, 0.0))
        both = router.ask(vectors, SearchSetting(margin=margin, probes=2))
        assert np.array_equal(both, asked & router.ask(vectors, SearchSetting(probes=2)))
        before = asked
    assert before.all()
    assert router.ask(vectors, ALL).all()
    assert router.ask(vectors).all()


@pytest.mark.parametrize("spill", ["none", "nearest", "soar"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_routers_are_the_same_bytes_and_decide_alike(tmp_path, kind, spill):
    vectors = clustered(1500)[0]
    for name in ("one", "two"):
        fit_router(vectors, config_of(kind, 7, spill=spill), seed=5).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    router, again = fit_router(vectors, config_of(kind, 7, spill=spill), seed=5), Router.load(tmp_path / "one", 7)
    primary = router.assign(ids_of(1500), vectors)
    assert np.array_equal(primary, again.assign(ids_of(1500), vectors))
    for ours, theirs in zip(router.replicas(vectors, primary), again.replicas(vectors, primary), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(router.nearness(vectors), again.nearness(vectors))
    with pytest.raises(ContractError):
        Router.load(tmp_path / "one", 8)
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:200])
    with pytest.raises(ContractError):
        Router.load(tmp_path / "one")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partitions", [8, 24])
def test_caps_hold_on_items_that_were_not_sampled(kind, partitions):
    vectors = lopsided(24_000)
    router = fit_router(vectors[:12_000], config_of(kind, partitions), seed=0)
    assert router.partitions == partitions
    for rows, most in ((slice(0, 12_000), 1.2), (slice(12_000, None), 1.3)):
        sizes = np.bincount(router.assign(ids_of(12_000), vectors[rows]), minlength=partitions)
        assert sizes.max() <= most * sizes.mean()
        assert sizes.min() >= 0.4 * sizes.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_above_the_cap_are_divided_by_id_and_asked_together(kind):
    vectors = clustered(10_000)[0]
    twins = np.arange(10_000) % 10 < 3
    vectors[twins] = vectors[0]
    router = fit_router(vectors, config_of(kind, 16), seed=0)
    assert router.partitions == 16
    assigned = router.assign(ids_of(10_000), vectors)
    sizes = np.bincount(assigned, minlength=16)
    assert sizes.max() <= 1.3 * sizes.mean()
    theirs = np.unique(assigned[twins])
    assert len(theirs) >= 4
    for setting in (SearchSetting(probes=1), SearchSetting(margin=0.0)):
        asked = router.ask(vectors[:1], setting)[0]
        assert asked[theirs].all()
    spilled = fit_router(vectors, config_of(kind, 16, spill="nearest", spill_factor=1.3), seed=0)
    primary = spilled.assign(ids_of(10_000), vectors)
    rows, _ = spilled.replicas(vectors, primary)
    assert not twins[rows].any(), "copies of equal vectors find nothing new"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), distinct=st.integers(1, 12), partitions=st.integers(1, 16), seed=st.integers(0, 9))
def test_little_data(kind, n, distinct, partitions, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct, 3)).astype(np.float32)[rng.integers(distinct, size=n)]
    router = fit_router(vectors, config_of(kind, partitions, spill="soar"), seed=seed)
    assert 1 <= router.partitions <= max(1, min(partitions, n))
    fresh = rng.normal(size=(50, 3)).astype(np.float32)
    assigned, (rows, second) = router.route(ids_of(50), fresh)
    assert assigned.min() >= 0
    assert assigned.max() < router.partitions
    assert (second != assigned[rows]).all()
    assert (second < router.partitions).all()
    asked = router.ask(fresh, SearchSetting(probes=1))
    assert asked.shape == (50, router.partitions)
    assert asked[np.arange(50), assigned].all()


def test_routers_with_little_data():
    one = np.ones((5, 4), np.float32)
    assert fit_router(one, config_of("kmeans", 4), seed=0).partitions == 1
    router = fit_router(one, HashRouter(kind="hash", partitions=3), seed=0)
    assert router.ask(one, SearchSetting(probes=1, margin=0.0)).all(), "with hash every partition may hold the nearest"
    assert np.array_equal(router.assign(ids_of(5), one), bucket_of(ids_of(5), 3))
    assert not router.nearness(one).any()


@pytest.mark.parametrize("spill", ["nearest", "soar"])
@pytest.mark.parametrize("kind", KINDS)
def test_spill_copies_the_items_nearest_to_a_border(kind, spill):
    vectors = clustered(16_000)[0]
    router = fit_router(vectors[:8000], config_of(kind, 9, spill=spill, spill_factor=1.4), seed=0)
    fresh = vectors[8000:]
    primary = router.assign(ids_of(8000), fresh)
    rows, second = router.replicas(fresh, primary)
    assert len(np.unique(rows)) == len(rows)
    assert abs(len(rows) / 8000 - 0.4) <= 0.1 * 1.4
    assert (second != primary[rows]).all()
    both = router.route(ids_of(8000), fresh)
    assert np.array_equal(both[0], primary)
    assert all(np.array_equal(*pair) for pair in zip(both[1], (rows, second), strict=True))
    nearness = router.nearness(fresh)
    gap = np.sort(nearness, axis=1)[:, 1]
    assert set(np.flatnonzero(gap < router.reach - 1e-4)) <= set(rows) <= set(np.flatnonzero(gap < router.reach + 1e-4))
    if spill == "nearest":
        found = nearness[rows, second]
        np.testing.assert_allclose(found, gap[rows], atol=1e-4)
    else:
        _check_soar(router, fresh[rows[:200]], primary[rows[:200]], second[:200])


def _check_soar(router: Router, vectors: np.ndarray, primary: np.ndarray, second: np.ndarray) -> None:
    assert router.centroids is not None
    far = distances_of(router, vectors)
    residual = vectors[:, None, :].astype(np.float64) - router.centroids[None]
    own = residual[np.arange(len(vectors)), far.argmin(axis=1)]
    along = np.einsum("nd,ncd->nc", own, residual) / np.linalg.norm(own, axis=1)[:, None]
    cost = far + along**2
    cost[router.owner[None, :] == primary[:, None]] = np.inf
    best = np.stack([np.where(router.owner == t, cost, np.inf).min(axis=1) for t in range(router.partitions)], axis=1)
    assert (best[np.arange(len(vectors)), second] <= best.min(axis=1) + 1e-3).all()


def test_spill_lets_fewer_partitions_find_as_much():
    vectors = clustered(6000, clusters=200)[0]
    queries = clustered(6500, clusters=200)[0][6000:]
    exact = np.argsort(((queries[:, None] - vectors[None]) ** 2).sum(axis=2), axis=1)[:, :10]
    recalls = []
    for spill in ("none", "soar"):
        router = fit_router(vectors, config_of("kmeans", 16, spill=spill, spill_factor=1.5), seed=0)
        primary, (rows, second) = router.route(ids_of(6000), vectors)
        holds = np.zeros((6000, 16), bool)
        holds[np.arange(6000), primary] = True
        holds[rows, second] = True
        asked = router.ask(queries, SearchSetting(probes=2))
        recalls.append((holds[exact] & asked[:, None]).any(axis=2).mean())
    assert recalls[1] > recalls[0] + 0.01


COLUMN = ColumnRouter(kind="column", column="shop", max_values=4)


def test_column_router_sends_a_value_to_its_partitions(tmp_path):
    counts = {"b": 100, "a": 1000, "ü": 3}
    router = fit_column_router(counts, COLUMN, cap=400)
    router.save(tmp_path / "r")
    router = Router.load(tmp_path / "r")
    assert set(router.values) == set(counts)
    assert len(router.values["b"]) == len(router.values["ü"]) == 1
    assert sorted(number for places in router.values.values() for number in places) == list(range(router.partitions))
    values = [value for value, count in counts.items() for _ in range(count)]
    vectors = np.zeros((len(values), 2), np.float32)
    assigned = router.assign(ids_of(len(values)), vectors, pa.chunked_array([values[:5], values[5:]]))
    for value, number in zip(values, assigned, strict=True):
        assert number in router.values[value]
    assert np.bincount(assigned).max() <= 400
    asked = router.ask(vectors[:4], where=["a", "ü", "nowhere", None])
    for row, places in enumerate((router.values["a"], router.values["ü"], range(0), range(router.partitions))):
        assert np.flatnonzero(asked[row]).tolist() == list(places)
    assert router.ask(vectors[:2], SearchSetting(probes=1)).all()
    assert len(router.replicas(vectors, assigned)[0]) == 0


def test_column_router_refuses_what_it_cannot_route():
    with pytest.raises(ConfigError, match="5 values"):
        fit_column_router({str(value): 1 for value in range(5)}, COLUMN, cap=10)
    router = fit_column_router({"a": 1}, COLUMN, cap=10)
    one = np.zeros((1, 2), np.float32)
    with pytest.raises(ConfigError, match="'z'"):
        router.assign(ids_of(1), one, ["z"])
    with pytest.raises(ConfigError, match="values of its column"):
        router.assign(ids_of(1), one)
    with pytest.raises(QueryError, match="one a query"):
        router.ask(one, where=["a", "a"])
    with pytest.raises(QueryError, match="hash"):
        Router(3).ask(one, where=["a"])
    assert fit_column_router({}, COLUMN, cap=10).partitions == 1


@pytest.mark.parametrize("columns", [8, 100, 256, 1000, 4099])
def test_the_smallest_of_wide_lines_are_those_of_a_sort(columns):
    found = np.random.default_rng(columns).normal(size=(40, columns)).astype(np.float32)
    assert np.array_equal(_smallest(found, 8), np.argsort(found, axis=1)[:, :8])
