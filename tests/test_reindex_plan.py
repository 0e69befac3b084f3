"""The plan of a re-index: what is rebuilt, hidden, split and merged, over rows that are really routed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.config.index import ColumnRouter, KMeansRouter, PackedRouter
from simpipe.config.release import ReindexConfig
from simpipe.index.distance import prepare
from simpipe.index.router import Router, fit_column_router, fit_router
from simpipe.reindex.plan import RebuildPlan, plan_rebuild
from simpipe.reindex.split import assign_among, distances_from

CONFIG = ReindexConfig()
VECTORS = prepare(clustered(6000, clusters=60)[0], "cosine")
ROUTERS = {
    "kmeans": fit_router(VECTORS[:2000], KMeansRouter(kind="kmeans", partitions=8), seed=1),
    "packed": fit_router(VECTORS[:2000], PackedRouter(kind="packed", partitions=8, spill="nearest", spill_factor=1.3), seed=1),
    "hash": Router(8),
}


class Catalogue:
    """Which partition each row lies in, primaries and spilled copies alike, as rebuilds leave it."""

    def __init__(self, router: Router, rows: np.ndarray) -> None:
        self.router = router
        self.item, self.place = _routed(router, rows)

    def plan(self, dropped: np.ndarray, added: np.ndarray, **more) -> RebuildPlan:
        router, count = self.router, self.router.partitions
        self.gone, self.added = np.isin(self.item, dropped), added
        self.new = _routed(router, added)
        live = ~self.gone

        def vectors_of(number: int) -> np.ndarray:
            return VECTORS[np.sort(self.item[(self.place == number) & live])]

        return plan_rebuild(
            router,
            rows=np.bincount(self.place, minlength=count),
            hidden=more.pop("hidden", np.zeros(count, np.int64)),
            dropped=np.bincount(self.place[self.gone], minlength=count),
            added=np.bincount(self.new[1], minlength=count),
            vectors_of=vectors_of,
            **{"config": CONFIG, "balance": 1.2, "cap_rows": 10_000, **more},
        )

    def follow(self, plan: RebuildPlan) -> None:
        """Does what a rebuild does with the plan that was made last."""
        new = _routed(plan.router, self.added)
        plan = plan.with_added(np.bincount(new[1], minlength=plan.partitions))
        kept = ~self.gone
        item, place = self.item[kept], self.place[kept]
        touched = {each.partition for each in plan.work}
        stays = ~np.isin(place, [source for each in plan.work for source in each.sources])
        items, places = [item[stays]], [place[stays]]
        for each in plan.work:
            rows = np.unique(item[np.isin(place, each.sources)])
            if each.siblings and len(rows):
                rows = rows[assign_among(plan.router, VECTORS[rows], each.siblings) == each.partition]
            rows = np.concatenate([rows, new[0][new[1] == each.partition]])
            items.append(rows)
            places.append(np.full(len(rows), each.partition))
        assert set(new[1].tolist()) <= touched
        self.router, self.item, self.place = plan.router, np.concatenate(items), np.concatenate(places)

    @property
    def balance(self) -> float:
        sizes = np.bincount(self.place)
        return float(sizes.max() / sizes[sizes > 0].mean())


def _routed(router: Router, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, (copied, second) = router.route(pa.array([f"i{row}" for row in rows], pa.string()), VECTORS[rows])
    return np.concatenate([rows, rows[copied]]), np.concatenate([first, second])


def check(plan: RebuildPlan, base: Router) -> None:
    """What holds of every plan."""
    numbers = [each.partition for each in plan.work]
    assert numbers == sorted(set(numbers))
    assert not set(numbers) & {*plan.hidden, *plan.emptied}
    assert plan.partitions == plan.router.partitions >= base.partitions
    assert set(plan.emptied) == set(plan.merged) <= set(plan.router.slots)
    for each in plan.work:
        assert each.partition in each.siblings or not each.siblings
        assert list(each.siblings) == sorted(each.siblings)
    assert set(plan.shifted) <= set(plan.split)
    if not plan.split and not plan.merged:
        assert plan.router is base


def simple(router: Router, *, rows, dropped=0, added=0, hidden=0, **more) -> RebuildPlan:
    """A plan over plain numbers."""
    wide = [np.broadcast_to(np.asarray(each), router.partitions).astype(np.int64) for each in (rows, hidden, dropped, added)]
    named = dict(zip(("rows", "hidden", "dropped", "added"), wide, strict=True))

    def vectors_of(number: int) -> np.ndarray:
        pool = VECTORS[router.assign(pa.array(np.arange(len(VECTORS)).astype(str)), VECTORS) == number]
        return pool[: named["rows"][number]]

    plan = plan_rebuild(router, vectors_of=vectors_of, **{"config": CONFIG, "balance": 1.2, "cap_rows": 10_000, **more}, **named)
    check(plan, router)
    return plan


# --- what is touched ---------------------------------------------------------------------------------------------------


def test_added_rows_rebuild_few_dropped_ones_hide():
    dropped, added, hidden = (np.zeros(8, int) for _ in range(3))
    dropped[[1, 2, 3]], hidden[2], added[5] = [2, 1, 3], 1, 1
    plan = simple(ROUTERS["hash"], rows=100, dropped=dropped, added=added, hidden=hidden)
    assert [each.partition for each in plan.work] == [3, 5]  # more than 2 of 100 rows hidden, and the one that gets a row
    assert all(each.sources == (each.partition,) and not each.siblings for each in plan.work)
    assert plan.hidden == (1, 2)
    assert (plan.retrain, plan.split, plan.merged, plan.emptied) == (None, (), (), ())


def test_nothing_changed_nothing_is_done():
    plan = simple(ROUTERS["kmeans"], rows=200, hidden=5)
    assert not plan.work
    assert not plan.hidden


def test_with_no_hidden_rows_allowed_every_drop_rebuilds():
    plan = simple(ROUTERS["hash"], rows=1000, dropped=[1] + [0] * 7, config=ReindexConfig(max_hidden=0))
    assert [each.partition for each in plan.work] == [0]
    assert not plan.hidden


def test_rows_that_come_after_all_rebuild_their_partition():
    plan = simple(ROUTERS["hash"], rows=100, dropped=[1, 1] + [0] * 6)
    again = plan.with_added(np.eye(8, dtype=int)[1] + np.eye(8, dtype=int)[6])
    assert [each.partition for each in again.work] == [1, 6]
    assert again.hidden == (0,)


# --- splits and merges -------------------------------------------------------------------------------------------------


def test_a_large_partition_is_split_a_small_one_merged():
    router = ROUTERS["kmeans"]
    plan = simple(router, rows=[200, 200, 700, 200, 30, 200, 200, 200])
    assert plan.split == (2,)
    assert plan.merged == (4,) == plan.emptied
    parts = [each for each in plan.work if each.siblings]
    assert {each.partition for each in parts} == set(parts[0].siblings) == {2, 8, 9}
    assert all(each.sources == (2,) for each in parts)
    (taking,) = (each for each in plan.work if not each.siblings)
    assert taking.sources == tuple(sorted((4, taking.partition)))
    assert plan.retrain is None


def test_a_slot_takes_a_part():
    first = simple(ROUTERS["kmeans"], rows=[200, 200, 200, 140, 30, 200, 200, 200])
    assert first.merged == (4,)
    assert [each.sources for each in first.work] == [(3, 4)]
    plan = simple(first.router, rows=[200, 200, 400, 200, 0, 200, 200, 200])
    assert plan.split == (2,)
    assert {each.partition for each in plan.work} == {2, 4}
    assert plan.partitions == 8
    assert plan.router.slots == ()


def test_a_large_partition_shifts_rows_to_a_near_one_that_has_room():
    router = ROUTERS["kmeans"]
    rows = np.array([200, 200, 290, 200, 200, 200, 200, 200])
    near = [each for each in np.argsort(distances_from(router, 2), kind="stable").tolist() if each != 2]
    rows[near[1]] = 150
    plan = simple(router, rows=rows)
    assert plan.shifted == (2,)
    both = tuple(sorted((2, near[1])))
    assert [(each.partition, each.sources, each.siblings) for each in plan.work] == [(number, both, both) for number in both]
    assert plan.partitions == 8


def test_partitions_that_are_built_anew_are_levelled_before_they_are_too_large():
    router = ROUTERS["kmeans"]
    rows = np.array([200, 200, 246, 200, 200, 200, 200, 200])
    near = [each for each in np.argsort(distances_from(router, 2), kind="stable").tolist() if each != 2]
    rows[near[0]] = 170
    both = np.zeros(8, int)
    both[[2, near[0]]] = 5
    assert simple(router, rows=rows, added=both).shifted == (2,)
    assert not simple(router, rows=rows, added=both * (np.arange(8) == 2)).shifted, "the other one would be built for it alone"
    spilled = replace(router, spill="nearest", reach=0.1)
    assert not simple(spilled, rows=rows, added=both).shifted


def test_small_releases_are_left_as_they_are():
    plan = simple(ROUTERS["kmeans"], rows=[10, 10, 200, 5, 0, 10, 90, 10])
    assert (plan.work, plan.retrain) == ((), None)
    # But for the memory.
    plan = simple(ROUTERS["kmeans"], rows=[10, 10, 200, 5, 0, 10, 90, 10], cap_rows=150)
    assert plan.split == (2,)


def test_where_memory_ends_hash_routers_are_trained_anew():
    rows = [200, 200, 200, 290, 200, 200, 200, 200]
    plan = simple(ROUTERS["hash"], rows=rows, added=10, cap_rows=299)
    assert plan.retrain == "partition 3 would hold 300 rows, memory takes 299"
    assert simple(ROUTERS["hash"], rows=rows, added=10, cap_rows=300).retrain is None
    column = fit_column_router({"a": 900, "b": 20}, ColumnRouter(kind="column", column="shop"), cap=1000)
    assert simple(column, rows=[900, 20], added=[200, 0], cap_rows=1000).retrain is not None
    assert simple(column, rows=[900, 20], added=[100, 0], cap_rows=1000).retrain is None


def test_territories_divided_by_hash_stay_and_may_ask_for_training():
    vectors = np.concatenate([np.repeat(VECTORS[:1], 1500, axis=0), VECTORS[:1500]])
    router = fit_router(vectors, KMeansRouter(kind="kmeans", partitions=8), seed=0)
    twins = np.flatnonzero(router.splits_of > 1)
    assert len(twins) > 1
    rows = np.full(router.partitions, 300)
    rows[twins] = 420
    assert not set(simple(router, rows=rows).split) & set(twins.tolist())
    rows[twins] = 3000
    plan = simple(router, rows=rows)
    assert not set(plan.split) & set(twins.tolist())
    assert simple(router, rows=rows, cap_rows=2999).retrain is not None


def test_rows_that_cannot_be_divided_ask_for_training_unless_training_gave_them_so():
    router = ROUTERS["kmeans"]
    rows = np.array([200, 200, 620, 200, 200, 200, 200, 200])
    alike = {"rows": rows, "hidden": rows * 0, "dropped": rows * 0, "added": rows * 0, "cap_rows": 9999, "config": CONFIG}
    equal = np.repeat(router.centroids[router.owner == 2][:1], 620, axis=0)
    plan = plan_rebuild(router, vectors_of=lambda number: equal, balance=1.2, **alike)
    assert plan.retrain == "the largest partition would hold 2.46 times the mean, 1.6 is the limit"
    assert plan_rebuild(router, vectors_of=lambda number: equal, balance=2.4, **alike).retrain is None


# --- over many rounds --------------------------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(sorted(ROUTERS)),
    start=st.integers(0, 4000),
    rounds=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 900), st.booleans()), min_size=1, max_size=4),
    cap=st.sampled_from([150, 400, 10_000]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_no_row_is_lost_or_doubled(kind, start, rounds, cap, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(VECTORS))
    catalogue, waiting = Catalogue(ROUTERS[kind], order[:start]), order[start:]
    live = order[:start]
    for out, into, focused in rounds:
        dropped = rng.choice(live, min(out, len(live)), replace=False)
        if focused and len(waiting):  # all near one item
            waiting = waiting[np.argsort(((VECTORS[waiting] - VECTORS[waiting[0]]) ** 2).sum(axis=1), kind="stable")]
        added, waiting = waiting[:into], waiting[into:]
        base = catalogue.router
        plan, again = catalogue.plan(dropped, added, cap_rows=cap), catalogue.plan(dropped, added, cap_rows=cap)
        check(plan, base)
        assert plan.work == again.work
        assert plan.hidden == again.hidden
        assert plan.retrain == again.retrain
        numbers = [number for each in plan.work for number in (each.partition, *each.sources)]
        untouched = np.setdiff1d(np.arange(base.partitions), numbers)
        assert not np.isin(catalogue.new[1], untouched).any()
        live = np.concatenate([live[~np.isin(live, dropped)], added])
        before = catalogue.place, catalogue.item
        catalogue.follow(plan)
        now, counts = np.unique(catalogue.item, return_counts=True)
        np.testing.assert_array_equal(now, np.sort(live))
        assert counts.max(initial=1) <= (2 if kind == "packed" else 1)
        for number in untouched.tolist():
            mine = catalogue.item[catalogue.place == number]
            assert set(mine.tolist()) <= set(before[1][before[0] == number].tolist()) | set(added.tolist())


@pytest.mark.parametrize("kind", ["kmeans", "packed"])
def test_balance_holds_over_rounds_of_growth_in_one_place(kind):
    rng = np.random.default_rng(3)
    near = np.argsort(((VECTORS - VECTORS[7]) ** 2).sum(axis=1), kind="stable")
    start = rng.permutation(near[1500:])[:3000]
    catalogue, live = Catalogue(ROUTERS[kind], start), start
    waiting = np.setdiff1d(near, start, assume_unique=True)  # nearest to one item first
    for turn in range(10):
        added, waiting = waiting[:250], waiting[250:]
        dropped = rng.choice(live, 200, replace=False)
        plan = catalogue.plan(dropped, added)
        catalogue.follow(plan)
        live = np.concatenate([live[~np.isin(live, dropped)], added])
        assert plan.retrain is None, turn
        assert catalogue.balance <= 1.45, (turn, np.bincount(catalogue.place))
