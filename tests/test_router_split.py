"""Router surgery: divided and merged partitions, and empty slots, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.config.index import KMeansRouter, PackedRouter
from simpipe.errors import ContractError
from simpipe.index.distance import prepare
from simpipe.index.exact import exact_topk
from simpipe.index.kmeans import lloyd
from simpipe.index.router import Router, fit_router
from simpipe.index.setting import ALL, SearchSetting
from simpipe.reindex.split import assign_among, distances_from, divide, merge

CONFIGS = {"kmeans": KMeansRouter, "packed": PackedRouter}


def ids_of(n: int) -> pa.Array:
    return pa.array([f"i{row}" for row in range(n)])


@pytest.fixture(scope="module", params=["kmeans", "packed"])
def fitted(request) -> tuple[Router, np.ndarray, np.ndarray]:
    """A router of 8 partitions, 4,000 vectors, and their partitions."""
    vectors = prepare(clustered(4000, clusters=40)[0], "cosine")
    router = fit_router(vectors, CONFIGS[request.param](kind=request.param, partitions=8), seed=5)
    return router, vectors, router.assign(ids_of(len(vectors)), vectors)


def one_centroid_each(vectors: np.ndarray, partitions: int) -> Router:
    chosen = lloyd(vectors, partitions, seed=1, rounds=3)
    line = np.arange(partitions, dtype=np.int32)
    offsets = np.linspace(0, 0.05, partitions).astype(np.float32)
    return Router(partitions, "kmeans", centroids=chosen, owner=line, offsets=offsets, splits=np.ones(partitions, np.int32))


def divided(router: Router, number: int, vectors: np.ndarray, parts: int) -> tuple[Router, dict[int, float]]:
    found = divide(router, number, vectors, range(router.partitions, router.partitions + parts - 1))
    assert found is not None
    return found


# --- dividing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_dividing_between_centroids_moves_no_row_of_others(fitted, parts):
    router, vectors, before = fitted
    number = int(np.bincount(before).argmax())
    own = before == number
    after, shares = divided(router, number, vectors[own], parts)
    siblings = sorted(shares)
    now = after.assign(ids_of(len(vectors)), vectors)
    assert (np.diff(after.owner) >= 0).all()
    assert after.partitions == router.partitions + len(shares) - 1
    if len(after.owner) == len(router.owner):  # no centroid had to be replaced
        np.testing.assert_array_equal(now[~own], before[~own])
        np.testing.assert_array_equal(now[own], assign_among(after, vectors[own], siblings))
    assert (now[~own] != before[~own]).mean() < 0.01
    assert len(siblings) == parts
    assert siblings[0] == number
    counts = np.array([(assign_among(after, vectors[own], siblings) == each).sum() for each in siblings])
    np.testing.assert_allclose(counts / own.sum(), [shares[each] for each in siblings])
    assert counts.sum() == own.sum()
    assert counts.max() <= 1.45 * own.sum() / parts


@pytest.mark.parametrize("parts", [2, 4])
def test_one_centroid_is_replaced_where_its_rows_lie(parts):
    vectors = clustered(3000, clusters=30)[0]
    router = one_centroid_each(vectors, 6)
    before = router.assign(ids_of(len(vectors)), vectors)
    number = int(np.bincount(before).argmax())
    own = before == number
    after, shares = divided(router, number, vectors[own], parts)
    assert len(shares) == parts
    assert max(shares.values()) < 1.5 / parts
    others = ~np.isin(after.owner, list(shares))
    np.testing.assert_array_equal(after.centroids[others], router.centroids[router.owner != number])
    now = after.assign(ids_of(len(vectors)), vectors)
    moved = ~own & (now != before)
    assert moved.mean() < 0.15
    # A row that would go elsewhere now finds the partition it lies in close by.
    assert np.isin(now[moved], list(shares)).all()


def test_the_same_rows_are_divided_alike(fitted):
    router, vectors, before = fitted
    rows = vectors[before == 2]
    one, other = divided(router, 2, rows, 3), divided(router, 2, rows.copy(), 3)
    assert one[1] == other[1]
    for name in ("centroids", "owner", "offsets", "splits"):
        np.testing.assert_array_equal(getattr(one[0], name), getattr(other[0], name))


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_equal_rows_are_not_divided(fitted, rows):
    router = one_centroid_each(fitted[1], 4)
    assert divide(router, 1, np.repeat(router.centroids[[1]], rows, axis=0), [4]) is None


def test_a_slot_is_used_before_a_new_number(fitted):
    router, vectors, before = fitted
    emptied = merge(router, 3, 4)
    assert emptied.slots == (3,)
    assert router.slots == ()
    found = divide(emptied, 6, vectors[before == 6], [3])
    assert found is not None
    assert found[0].partitions == router.partitions
    assert found[0].slots == ()
    assert sorted(found[1]) == [3, 6]
    now = found[0].assign(ids_of(len(vectors)), vectors)
    assert set(now[before == 6]) == {3, 6}


def test_queries_find_as_much_for_as_many_rows(fitted):
    """Rows that have to be scanned for routing recall 0.97, before and after three partitions were divided."""
    router, vectors, before = fitted
    queries, items = vectors[::20], vectors
    truth, _ = exact_topk(items, queries, 10, distance="squared_euclidean")

    def scanned(router: Router, place: np.ndarray) -> float:
        near = router.nearness(queries)
        sizes = np.bincount(place, minlength=router.partitions)
        least = near[np.arange(len(queries))[:, None], place[truth]]
        margin = float(np.quantile(least, 0.97)) * 1.0001 + 1e-6
        asked = router.ask(queries, SearchSetting(margin=margin))
        found = asked[np.arange(len(queries))[:, None], place[truth]]
        assert found.mean() >= 0.97
        return float((asked @ sizes).mean())

    after, now = router, before
    for number in np.argsort(-np.bincount(before))[:3].tolist():
        after, shares = divided(after, number, vectors[now == number], 2)
        rows = now == number
        now = now.copy()
        now[rows] = assign_among(after, vectors[rows], sorted(shares))
    assert scanned(after, now) <= 1.05 * scanned(router, before)


# --- merging and slots -------------------------------------------------------------------------------------------------


def test_merged_partitions_get_the_rows_of_both(fitted):
    router, vectors, before = fitted
    after = merge(router, 5, 2)
    now = after.assign(ids_of(len(vectors)), vectors)
    np.testing.assert_array_equal(now, np.where(before == 5, 2, before))
    assert (np.diff(after.owner) >= 0).all()


def test_distance_of_partitions(fitted):
    router = merge(fitted[0], 5, 2)
    far = distances_from(router, 1)
    own = router.centroids[router.owner == 1].astype(np.float64)
    near = ((own[:, None] - router.centroids[None]) ** 2).sum(axis=2) + router.offsets
    expected = np.stack([near[:, router.owner == each].min(axis=1, initial=np.inf) for each in range(8)], axis=1)
    expected -= expected.min(axis=1, keepdims=True)
    np.testing.assert_allclose(far, np.where(np.arange(8) == 1, 0, expected.mean(axis=0)), atol=1e-3)
    assert np.isinf(far[5])


@given(probes=st.integers(1, 12) | st.none(), margin=st.floats(0, 3) | st.none() | st.just(np.inf))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("spill", ["none", "nearest", "soar"])
def test_a_router_with_slots_decides_like_one_without(spill, probes, margin):
    vectors = clustered(400, clusters=12)[0]
    plain = replace(one_centroid_each(vectors, 6), spill=spill, reach=0.8)
    wide = np.array([1, 2, 4, 5, 8, 9])  # slots 0, 3, 6, 7, 10
    slotted = replace(plain, partitions=11, owner=wide.astype(np.int32), splits=np.ones(11, np.int32))
    assert slotted.slots == (0, 3, 6, 7, 10)
    ids = ids_of(len(vectors))
    (first, (rows, second)), (slot_first, (slot_rows, slot_second)) = plain.route(ids, vectors), slotted.route(ids, vectors)
    np.testing.assert_array_equal(slot_first, wide[first])
    np.testing.assert_array_equal(slot_rows, rows)
    np.testing.assert_array_equal(slot_second, wide[second])
    np.testing.assert_array_equal(slotted.assign(ids, vectors), slot_first)
    for found, expected in zip(slotted.replicas(vectors, slot_first), (rows, wide[second]), strict=True):
        np.testing.assert_array_equal(found, expected)
    nearness, asked = slotted.nearness(vectors), slotted.ask(vectors, SearchSetting(probes=probes, margin=margin))
    np.testing.assert_array_equal(nearness[:, wide], plain.nearness(vectors))
    np.testing.assert_array_equal(asked[:, wide], plain.ask(vectors, SearchSetting(probes=probes, margin=margin)))
    slots = list(slotted.slots)
    assert np.isinf(nearness[:, slots]).all()
    assert not asked[:, slots].any()
    assert not slotted.ask(vectors, ALL)[:, slots].any()


def test_slots_beside_a_territory_that_is_divided_by_hash():
    vectors = clustered(600, clusters=12)[0]
    plain = replace(one_centroid_each(vectors, 3), partitions=5, splits=np.array([1, 3, 1], np.int32))
    slotted = replace(plain, partitions=7, splits=np.array([1, 1, 3, 1, 1], np.int32), owner=np.array([0, 2, 4], np.int32))
    assert slotted.slots == (1, 5)
    assert slotted.splits_of.tolist() == [1, 1, 3, 3, 3, 1, 1]
    wide, ids = np.array([0, 2, 3, 4, 6]), ids_of(len(vectors))
    np.testing.assert_array_equal(slotted.assign(ids, vectors), wide[plain.assign(ids, vectors)])
    one = SearchSetting(probes=1)
    np.testing.assert_array_equal(slotted.ask(vectors, one)[:, wide], plain.ask(vectors, one))
    assert not slotted.ask(vectors, one)[:, [1, 5]].any()
    # New partitions come after all others, whatever territories hold.
    before = slotted.assign(ids, vectors)
    after, shares = divided(slotted, 6, vectors[before == 6], 2)
    assert sorted(shares) == [6, 7]
    placed = assign_among(after, vectors[before == 6], [6, 7])
    np.testing.assert_allclose(np.bincount(placed)[6:] / len(placed), [shares[6], shares[7]])
    assert set(placed) == {6, 7} == set(after.assign(ids, vectors)) - set(before) | {6}


def test_slots_are_saved(fitted, tmp_path):
    router = merge(fitted[0], 7, 2)
    router.save(tmp_path / "router.npz")
    again = Router.load(tmp_path / "router.npz", 8)
    assert again.slots == (7,)
    np.testing.assert_array_equal(again.nearness(fitted[1][:50]), router.nearness(fitted[1][:50]))
    replace(router, owner=router.owner[::-1].copy()).save(tmp_path / "other.npz")
    with pytest.raises(ContractError, match="not ascending"):
        Router.load(tmp_path / "other.npz")
