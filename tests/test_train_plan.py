"""The plan of the train split, for arbitrary counts, and against a plain reading of its rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.data.train_plan import TrainPlan, plan_train
from simpipe.errors import ContractError

COUNTS = st.lists(st.one_of(st.integers(0, 5), st.integers(0, 400), st.sampled_from([2_000, 50_000])), max_size=40)


def names_of(counts):
    return [f"class {number}" for number in range(len(counts))]


def plan(counts, num_shards, class_run, *, seed=0, one_class_shards=False):
    return plan_train(
        names_of(counts),
        np.array(counts, np.int64),
        num_shards=num_shards,
        class_run=class_run,
        seed=seed,
        one_class_shards=one_class_shards,
    )


def pieces_of(made):
    """The shards of each class."""
    return [made.shards[start:stop].tolist() for start, stop in zip(made.starts[:-1], made.starts[1:], strict=True)]


def classes_in(made):
    held = [set() for _ in range(made.num_shards)]
    for number, shards in enumerate(pieces_of(made)):
        for shard in shards:
            held[shard].add(number)
    return held


@settings(max_examples=300, deadline=None)
@given(COUNTS, st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_any_plan(counts, num_shards, class_run, seed, alone):
    made = plan(counts, num_shards, class_run, seed=seed, one_class_shards=alone)
    pieces = pieces_of(made)
    first = [min(num_shards, max(1, count // class_run)) if count else 0 for count in counts]
    largest = max((count / number for count, number in zip(counts, first, strict=True) if count), default=0)
    for count, shards in zip(counts, pieces, strict=True):
        assert shards == sorted(set(shards)), "pieces of a class lie in different shards"
        assert set(shards) <= set(range(num_shards))
        assert (len(shards) > 0) == (count > 0)
    loads = [sum(counts[number] / len(pieces[number]) for number in sorted(held)) for held in classes_in(made)]
    np.testing.assert_allclose(made.loads, loads)
    assert np.isclose(sum(loads), sum(counts))
    mean, slack = sum(counts) / num_shards, 1e-6 + 1e-9 * sum(counts)
    bare = plan(counts, num_shards, class_run, seed=seed, one_class_shards=True)
    assert list(map(len, pieces_of(bare))) == first
    assert max(bare.loads) - min(bare.loads) <= largest + slack
    assert max(loads) <= mean + (1 if alone else 3) * largest + slack
    same = plan(counts, num_shards, class_run, seed=seed, one_class_shards=alone)
    assert pieces_of(same) == pieces
    assert same.lone == made.lone


@settings(max_examples=300, deadline=None)
@given(COUNTS, st.integers(1, 40), st.integers(1, 300), st.integers(0, 9))
def test_no_shard_holds_one_class_where_that_can_be_avoided(counts, num_shards, class_run, seed):
    made = plan(counts, num_shards, class_run, seed=seed)
    pieces = pieces_of(made)
    held = classes_in(made)
    lone = [shard for shard in range(num_shards) if len(held[shard]) == 1]
    if sum(count > 0 for count in counts) < 2:
        assert made.lone == ()
        return
    assert sorted(made.lone) == lone
    for shard in lone:
        mine = next(iter(held[shard]))
        assert len(pieces[mine]) > 1, "a class in one piece could move"
        spare = [number for number in range(len(counts)) if number != mine and counts[number] > len(pieces[number])]
        assert not spare, "another class could be cut once more"


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.integers(1, 20), st.integers(1, 50), st.integers(0, 5))
def test_every_example_has_one_shard_and_needs_no_other_example(counts, num_shards, class_run, seed):
    made = plan(counts, num_shards, class_run, seed=seed)
    classes = np.repeat(np.arange(len(counts)), np.minimum(counts, 50).astype(int))
    ids = [f"id {number}" for number in range(len(classes))]
    shards = made.shard_of(classes, ids, seed)
    pieces = pieces_of(made)
    assert all(shard in pieces[number] for shard, number in zip(shards.tolist(), classes.tolist(), strict=True))
    some = np.random.default_rng(seed).permutation(len(ids))[: len(ids) // 2]
    alone = made.shard_of(classes[some], [ids[number] for number in some], seed)
    assert (alone == shards[some]).all()
    if len(classes):
        last = np.full(3, len(counts) - 1)
        if counts[-1]:
            assert (made.shard_of(last - len(counts), ids[:1] * 3, seed) == made.shard_of(last, ids[:1] * 3, seed)).all()


def test_pieces_are_of_one_size_and_another_seed_deals_anew():
    ids = [f"id {number}" for number in range(20_000)]
    made = plan([20_000, 300, 300], 16, 256)
    zeros = np.zeros(20_000, np.int64)
    filled = np.bincount(made.shard_of(zeros, ids, 0), minlength=16)
    assert abs(filled - 1250).max() < 5 * np.sqrt(1250), "as even as a fair die, within five standard deviations"
    assert (made.shard_of(zeros, ids, 0) != made.shard_of(zeros, ids, 1)).mean() > 0.9
    many = [300] * 200
    assert pieces_of(plan(many, 8, 256)) != pieces_of(plan(many, 8, 256, seed=1))


def test_a_class_larger_than_all_shards_lies_in_each():
    made = plan([1_000_000, *[3] * 40], 12, 256)
    assert sorted(pieces_of(made)[0]) == list(range(12))
    assert made.lone == ()
    assert max(made.loads) < 1_000_000 / 12 + 40 * 3


def test_one_shard_no_class_and_empty_classes():
    assert pieces_of(plan([5, 0, 9], 1, 2)) == [[0], [], [0]]
    assert pieces_of(plan([], 3, 2)) == []
    assert pieces_of(plan([0, 0], 3, 2)) == [[], []]
    only = plan([100, 0], 4, 10)
    assert (sorted(pieces_of(only)[0]), only.lone) == ([0, 1, 2, 3], ())
    with pytest.raises(ContractError, match="had none when they were counted"):
        only.shard_of(np.array([1]), ["x"], 0)
    assert TrainPlan().shard_of(np.zeros(0, np.int64), [], 0).tolist() == []


def test_lonely_classes_get_company_or_move_together():
    wanted = plan([100] * 7, 13, 256, one_class_shards=True)
    assert sorted(map(len, classes_in(wanted))) == [0] * 6 + [1] * 7
    cut = plan([100] * 7, 13, 256)
    assert sorted(map(len, classes_in(cut))) == [0] * 6 + [2] * 7, "each class is cut in two"
    moved = plan([5] * 4, 4, 256)
    assert sorted(map(len, classes_in(moved))) == [0, 0, 2, 2]
    assert list(map(len, pieces_of(moved))) == [1] * 4


def test_what_counts_do_not_allow_is_told():
    made = plan([10_000, 2], 5, 256)
    assert list(map(len, pieces_of(made))) == [5, 2]
    assert len(made.lone) == 3


def test_a_class_that_moves_can_be_the_company_that_a_shard_was_denied():
    """Shard 0 is looked at before the class that moves into it."""
    made = plan([1, 2], 3, 1)
    assert sorted(map(len, classes_in(made))) == [0, 1, 2]
    assert len(made.lone) == 1


def test_a_hundred_thousand_classes_of_a_power_law():
    counts = np.maximum(1, 2_000_000 / np.arange(1, 100_001) ** 1.1).astype(np.int64)
    made = plan(counts, 1000, 256)
    assert made.lone == ()
    assert max(made.loads) < made.loads.mean() + 2_000_000 / 1000 + 1
