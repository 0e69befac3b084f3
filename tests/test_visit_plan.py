"""The plan of batches over one group of rows in memory, against plain statements of what a batch is."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.samplers.plan import VisitPlan, plan_pass


@st.composite
def groups(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """(labels in random order, P, K, seed) with at least P classes of K examples, and some smaller ones."""
    k = draw(st.integers(2, 5))
    counts = draw(st.lists(st.integers(1, 17), min_size=1, max_size=9).filter(lambda c: max(c) >= k))
    p = draw(st.integers(1, sum(count >= k for count in counts)))
    seed = draw(st.integers(0, 2**31))
    labels = np.repeat(np.arange(len(counts)) * 7, counts)
    return np.random.default_rng(seed).permutation(labels), p, k, seed


def batches_of(labels: np.ndarray, p: int, k: int, *seed: int, steps: int = 150) -> np.ndarray:
    plan = VisitPlan(labels, classes_per_batch=p, examples_per_class=k, seed=seed)
    return np.stack(list(itertools.islice(plan.batches(), steps)))


@settings(max_examples=60, deadline=None)
@given(groups())
def test_plan_batches_are_exact(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    for rows in batches_of(labels, p, k, seed):
        assert len(set(rows.tolist())) == p * k
        assert sorted(Counter(labels[rows].tolist()).values()) == [k] * p
        assert (labels[rows].reshape(p, k) == labels[rows].reshape(p, k)[:, :1]).all()


@settings(max_examples=60, deadline=None)
@given(groups())
def test_plan_repeats_no_example_before_all_were_seen(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    dealt = batches_of(labels, p, k, seed).ravel()
    for name, count in zip(*np.unique(labels, return_counts=True), strict=True):
        stream = dealt[labels[dealt] == name]
        assert len(stream) == 0 or count >= k
        rounds = len(stream) // count
        assert all(len(set(part.tolist())) == count for part in np.split(stream[: rounds * count], rounds or 1) if rounds)


@settings(max_examples=30, deadline=None)
@given(groups())
def test_plan_follows_from_its_seed(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    assert (batches_of(labels, p, k, seed) == batches_of(labels, p, k, seed)).all()


def test_plan_shuffles_anew_and_other_seeds_differ() -> None:
    labels = np.repeat(np.arange(4), 12)
    rows = batches_of(labels, 4, 4, 1, steps=30)  # every class deals 12 examples in three batches
    rounds = [tuple(np.concatenate([r[labels[r] == 0] for r in rows[i : i + 3]])) for i in range(0, 30, 3)]
    assert len(set(rounds)) == 10
    assert {tuple(sorted(r)) for r in rounds} == {tuple(range(12))}
    assert (batches_of(labels, 4, 4, 2, steps=30) != rows).any()


def test_plan_draws_classes_uniformly() -> None:
    labels = np.repeat(np.arange(10), [4, 40, 4, 4, 4, 4, 4, 4, 4, 4])
    drawn = Counter(labels[batches_of(labels, 2, 4, 5, steps=2000)].ravel().tolist())
    expected = 2000 * 2 * 4 / 10
    assert all(abs(count - expected) < 0.15 * expected for count in drawn.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 8), st.integers(0, 5))
def test_pass_covers_every_shard_once(lengths: list[int], open_shards: int, number: int) -> None:
    visits = plan_pass(lengths, open_shards=open_shards, batch=8, seed=3, number=number)
    assert visits == plan_pass(lengths, open_shards=open_shards, batch=8, seed=3, number=number)
    shards = [shard for visit in visits for shard in visit.shards]
    assert sorted(shards) == [shard for shard, length in enumerate(lengths) if length]
    assert all(len(visit.shards) <= open_shards for visit in visits)
    if len(visits) > 1:
        for visit in visits:
            assert visit.steps == max(1, round(sum(lengths[shard] for shard in visit.shards) / 8))
    else:
        assert visits[0].steps is None


def test_passes_group_shards_anew() -> None:
    passes = {tuple(v.shards for v in plan_pass([10] * 11, open_shards=3, batch=8, seed=3, number=n)) for n in range(5)}
    assert len(passes) == 5
