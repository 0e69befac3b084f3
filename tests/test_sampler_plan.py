"""The plan of the shard sampler, piece by piece, against brute force and plain statements of what it promises."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import InputSpec
from simpipe.samplers.deal import batches_of, deal, schedule, spread, trim
from simpipe.samplers.layout import Layout, block_size, make_layout
from simpipe.samplers.near import make_bundles, near_order
from simpipe.samplers.passes import Planner

runs_of_shards = st.lists(st.lists(st.integers(1, 40), max_size=8), min_size=1, max_size=12)


def runs(shards: list[list[int]], classes: int = 9) -> list[np.ndarray]:
    """Runs with these sizes; a class comes once a shard."""
    made = []
    for number, sizes in enumerate(shards):
        names = np.random.default_rng(number).permutation(max(classes, len(sizes)))[: len(sizes)]
        made.append(np.stack([names, np.array(sizes, np.int64)], axis=1).reshape(-1, 2).astype(np.int64))
    return made


@settings(max_examples=100, deadline=None)
@given(runs_of_shards, st.integers(1, 12), st.integers(1, 4))
def test_blocks_hold_every_record_once(shards: list[list[int]], times: int, k: int) -> None:
    size = times * k
    layout = make_layout(runs(shards), size)
    covered: Counter[tuple[int, int]] = Counter()
    for block in range(layout.num_blocks):
        first, count = layout.block_first[block], layout.block_count[block]
        assert 0 < count <= size
        covered.update((int(layout.block_shard[block]), record) for record in range(first, first + count))
        assert layout.segment_count[layout.segments_of(np.array([block]))].sum() == count
    assert covered == Counter((shard, record) for shard, sizes in enumerate(shards) for record in range(sum(sizes)))
    # Class by class, as the runs say; runs that fit in a block are whole, longer ones are cut at multiples of K.
    expected = [run for shard in runs(shards) for run in shard.tolist()]
    joined: list[list[int]] = []
    whole = iter(expected)
    for name, count in zip(layout.segment_class.tolist(), layout.segment_count.tolist(), strict=True):
        if not joined or joined[-1][1] == joined[-1][2]:
            run = next(whole)
            joined.append([run[0], 0, run[1]])
        assert name == joined[-1][0]
        joined[-1][1] += count
        assert count == joined[-1][2] or (joined[-1][2] > size and (joined[-1][1] % k == 0 or joined[-1][1] == joined[-1][2]))
    assert [[name, count] for name, count, _ in joined] == expected


def test_block_size_is_a_multiple_of_k() -> None:
    pixels = InputSpec(name="image", shape=(28, 28, 1), dtype="uint8", encoding="raw")
    photo = InputSpec(name="image", shape=(224, 224, 3), dtype="uint8", encoding="image")
    assert block_size(pixels, wanted=None, examples_per_class=8) == 1024
    assert block_size(pixels, wanted=None, examples_per_class=5) == 1020
    assert block_size(photo, wanted=None, examples_per_class=4) == 24  # 27 photographs fill 4 MiB
    assert block_size(photo, wanted=None, examples_per_class=64) == 64
    assert block_size(pixels, wanted=7, examples_per_class=3) == 6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 6))
def test_number_of_batches_is_the_largest_possible(draws: list[int], p: int) -> None:
    counts = np.array(draws)
    possible = [b for b in range(sum(draws) // p + 1) if np.minimum(counts, b).sum() >= p * b]
    assert batches_of(counts, p) == max(possible)


@st.composite
def units(draw: st.DrawFn) -> tuple[np.ndarray, int, int, np.random.Generator]:
    """(draws, batches, P, rng), trimmed, with one batch or more."""
    counts = np.array(draw(st.lists(st.integers(0, 30), min_size=1, max_size=40)))
    p, rng = draw(st.integers(1, 8)), np.random.default_rng(draw(st.integers(0, 2**31)))
    batches = batches_of(counts, p)
    assume(batches)
    return trim(counts, batches, classes_per_batch=p, rng=rng), batches, p, rng


@settings(max_examples=150, deadline=None)
@given(units(), st.booleans())
def test_schedule_is_exact(case: tuple[np.ndarray, int, int, np.random.Generator], hard: bool) -> None:
    draws, batches, p, rng = case
    assert draws.sum() == p * batches
    assert draws.max() <= batches
    near = rng.integers(-1, len(draws), (len(draws), 5)) if hard else None
    chosen = schedule(draws, batches, classes_per_batch=p, rng=rng, neighbors=near, share=0.7, bundle=3)
    assert chosen.shape == (batches, p)
    assert all(len(set(batch)) == p for batch in chosen.tolist())
    assert (np.bincount(chosen.ravel(), minlength=len(draws)) == draws).all()


def test_any_two_classes_meet() -> None:
    draws, met = np.full(12, 20), np.zeros((12, 12), int)
    chosen = schedule(draws, 60, classes_per_batch=4, rng=np.random.default_rng(0))
    for batch in chosen:
        met[np.ix_(batch, batch)] += 1
    assert met.min() > 0


@settings(max_examples=150, deadline=None)
@given(units(), st.integers(1, 6), st.data())
def test_deal_gives_rows_of_their_class_and_none_before_its_turn(
    case: tuple[np.ndarray, int, int, np.random.Generator], k: int, data: st.DataObject
) -> None:
    draws, batches, p, rng = case
    sizes = np.array(data.draw(st.lists(st.integers(1, 20), min_size=len(draws), max_size=len(draws))))
    chosen = schedule(draws, batches, classes_per_batch=p, rng=rng)
    rows = deal(chosen, sizes, examples_per_class=k, rng=rng)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    assert (owner[rows].reshape(batches, p, k) == chosen[:, :, None]).all()
    drawn = rows.reshape(-1, k)
    names = chosen.ravel()
    for name, size in enumerate(sizes):
        parts = drawn[names == name]
        for part in parts:
            times = Counter(part.tolist()).values()
            assert max(times) - (min(times) if len(times) == size else 0) <= 1  # as evenly as the class allows
            assert len(times) == min(size, k)
        each = size // k
        rounds = len(parts) // each if each else 0
        for begin in range(0, rounds * each, max(each, 1)):
            assert len(set(parts[begin : begin + each].ravel().tolist())) == each * k


def test_spread_keeps_the_number_of_draws() -> None:
    rng = np.random.default_rng(0)
    given_ = spread(np.array([5, 3, 0, 4, 4]), np.array([True, False, True, True, True]), 8, rng=rng)
    assert given_.sum() == 16
    assert given_[1] == 0
    assert given_.max() <= 8


# --- passes ------------------------------------------------------------------------------------------------------


def planner(layout: Layout, **settings: object) -> Planner:
    config = SamplerConfig.model_validate({"weighting": "proportional", "small_classes": "skip", **settings})
    return Planner(layout, layout.segment_class, config, seed=11)


@settings(max_examples=100, deadline=None)
@given(runs_of_shards, st.integers(1, 4), st.integers(1, 4), st.integers(2, 9))
def test_a_pass_opens_every_block_once_and_few_together(shards: list[list[int]], p: int, k: int, open_blocks: int) -> None:
    layout = make_layout(runs(shards), 4 * k)
    plan = planner(layout, classes_per_batch=p, examples_per_class=k, open_blocks=open_blocks)
    one = plan.plan(3)
    assert sorted(block for group in one.groups for block in group.blocks.tolist()) == list(range(layout.num_blocks))
    most = open_blocks if layout.num_blocks <= open_blocks else open_blocks // 2
    for group, again in zip(one.groups, plan.plan(3).groups, strict=True):
        assert len(group.blocks) <= most
        assert group.draws.sum() == p * group.batches
        assert (group.draws * k <= group.sizes).all()  # each example at most once
        assert (group.blocks == again.blocks).all()
        assert (group.draws == again.draws).all()
    # What is left out is what the statement says: of each class less than K a group, and what P distinct classes cannot take.
    for group in one.groups:
        segments = layout.segments_of(group.blocks)
        sizes = np.bincount(layout.segment_class[segments], layout.segment_count[segments], 9).astype(int)
        sizes[: len(plan.sizes)][plan.sizes[:9] == 0] = 0  # smaller than K, skipped
        possible = sizes // k
        assert group.batches == batches_of(possible, p)
        beyond = np.maximum(possible - group.batches, 0).sum()
        assert possible.sum() - group.draws.sum() - beyond < p


def test_passes_differ() -> None:
    layout = make_layout(runs([[16] * 6] * 11), 16)
    plan = planner(layout, classes_per_batch=2, examples_per_class=4, open_blocks=8)
    assert len({tuple(group.blocks.tolist()) for number in range(6) for group in plan.plan(number).groups}) > 40


def test_a_class_of_many_blocks_is_spread_evenly() -> None:
    """Ten classes of 64 blocks each: every group of 32 blocks holds two to five of each, so that 8 of 10 fill batches."""
    layout = make_layout([np.array([[name, 64 * 16]]) for name in range(10)], 16)
    plan = planner(layout, classes_per_batch=8, examples_per_class=4, open_blocks=64)
    one = plan.plan(0)
    assert all(2 <= size / 16 <= 5 for group in one.groups for size in group.sizes)
    assert one.left_out(4) / (640 * 16) < 0.15


def test_weights_come_out_over_passes() -> None:
    """Sizes 8 to 800 in runs over 20 shards, few blocks open: draws in the proportions asked for."""
    sizes = np.array([8, 20, 40, 100, 200, 400, 800])
    pieces = [np.stack([np.arange(2, 7), sizes[2:] // 20], axis=1) for _ in range(20)]
    pieces[3] = np.concatenate([[[0, 8]], pieces[3]])
    pieces[9] = np.concatenate([[[1, 20]], pieces[9]])
    layout = make_layout(pieces, 64)
    for weighting, power in (("uniform", 0.0), ("sqrt", 0.5), ("proportional", 1.0)):
        plan = planner(layout, classes_per_batch=1, examples_per_class=2, open_blocks=8, weighting=weighting)
        drawn = np.zeros(7)
        for number in range(60):
            for group in plan.plan(number).groups:
                np.add.at(drawn, group.classes, group.draws)
        expected = sizes**power / (sizes**power).sum()
        np.testing.assert_allclose(drawn / drawn.sum(), expected, rtol=0.12)
        assert abs(drawn.sum() / 60 * 2 / sizes.sum() - 1) < 0.02


# --- near classes ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.05, 1), st.integers(2, 8), st.integers(0, 99))
def test_near_order_keeps_the_classes(n: int, columns: int, share: float, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, left = rng.permutation(60)[:n], np.zeros(60, np.int64)
    left[classes] = rng.integers(1, 9, n)
    bundles = make_bundles(classes, rng.integers(-1, 60, (60, 20)), size=size, share=share, rng=rng)
    members = bundles.ravel().tolist()
    assert len(set(members)) == len(members) <= max(share * n + size, 0)
    assert set(members) <= set(classes.tolist())
    order = near_order(left, bundles, columns=columns, step=10, rng=rng)
    assert sorted(order.tolist()) == sorted(classes.tolist())


def test_near_classes_meet_more_often() -> None:
    """Classes on a circle: neighbors meet in a batch many times as often as by chance, and all still meet some others."""
    count = 200
    near = (np.arange(count)[:, None] + np.array([1, -1, 2, -2, 3, -3])) % count
    draws, rng = np.full(count, 10), np.random.default_rng(0)

    def close(chosen: np.ndarray) -> float:
        gaps = np.abs(chosen[:, :, None] - chosen[:, None, :])
        gaps = np.minimum(gaps, count - gaps)
        return float(((gaps > 0) & (gaps <= 3)).sum() / len(chosen))

    alone = close(schedule(draws, 250, classes_per_batch=8, rng=rng))
    hard = close(schedule(draws, 250, classes_per_batch=8, rng=rng, neighbors=near, share=1.0, bundle=4))
    half = close(schedule(draws, 250, classes_per_batch=8, rng=rng, neighbors=near, share=0.5, bundle=4))
    assert hard > 4 * alone
    assert alone < half < hard
