"""Counts of pairs: exact in any order and any split, bounded, and what bounding costs is stated."""

from __future__ import annotations

from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.calibration import PairCounts, sweep
from simpipe.calibration.counts import Accumulator, CalibrationCounts, CountSpec, count_answer
from simpipe.calibration.groups import GroupCounts
from simpipe.index.answers import Answer, Found
from simpipe.index.merge import order_bits

FIELDS = ("distances", "hits", "total", "open")
# Near values (which share bins), far ones, both signs, both zeros, none.
distances = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-40, 40).map(lambda step: float(np.float32(1.5) + step * np.float32(2**-23))),
    st.sampled_from([0.0, -0.0, float("inf"), -1.0, 1e-45, -1e-45]),
)
randoms = st.integers(0, 2**32 - 1).map(Random)
pair_lists = st.lists(st.tuples(distances, st.sampled_from(["hit", "wrong", "open"]), st.integers(0, 3)), max_size=80)


def arrays_of(pairs) -> dict[str, np.ndarray]:
    return {
        "distances": np.array([pair[0] for pair in pairs], np.float32),
        "hits": np.array([pair[1] == "hit" for pair in pairs], bool),
        "open_set": np.array([pair[1] == "open" for pair in pairs], bool),
        "values": np.array(["abcd"[pair[2]] for pair in pairs], object),
    }


def pairs_of(columns, rows=slice(None), **limits) -> PairCounts:
    return PairCounts.of(columns["distances"][rows], columns["hits"][rows], open_set=columns["open_set"][rows], **limits)


def groups_of(columns, rows=slice(None), **limits) -> GroupCounts:
    values = pa.array(columns["values"][rows], pa.string())
    return GroupCounts.of(values, columns["distances"][rows], columns["hits"][rows], open_set=columns["open_set"][rows], **limits)


def same(one, other) -> bool:
    """To the bit."""
    arrays = all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in FIELDS)
    kinds = all(getattr(one, name).dtype == getattr(other, name).dtype for name in FIELDS)
    return arrays and kinds and one.dropped_bits == other.dropped_bits


def merged(parts, random, merge):
    """By a tree of any shape."""
    parts = list(parts)
    random.shuffle(parts)
    while len(parts) > 1:
        taken = [parts.pop() for _ in range(random.randint(1, min(4, len(parts))))]
        parts.insert(random.randint(0, len(parts)), merge(taken))
    return merge(parts)


def split(count: int, random) -> list[np.ndarray]:
    place = np.array([random.randrange(5) for _ in range(count)], np.int64)
    return [np.flatnonzero(place == part) for part in range(5)]


@settings(deadline=None, max_examples=300)
@given(pair_lists, st.integers(1, 30), randoms)
def test_any_split_and_any_tree_give_the_same_counts(pairs, limit, random):
    columns = arrays_of(pairs)
    whole = pairs_of(columns, max_distinct=limit)
    parts = [pairs_of(columns, rows, max_distinct=limit) for rows in split(len(pairs), random)]
    tree = merged(parts, random, lambda taken: PairCounts.merge(taken, max_distinct=limit))
    assert same(tree, whole)
    assert (tree.unmatched, tree.unmatched_open) == (whole.unmatched, whole.unmatched_open)
    assert len(whole.distances) <= limit


@settings(deadline=None, max_examples=200)
@given(pair_lists, st.integers(1, 30))
def test_bounded_counts_are_exact_at_their_thresholds(pairs, limit):
    columns = arrays_of(pairs)
    counts = pairs_of(columns, max_distinct=limit)
    lengths, hits, opened = (columns[name] for name in ("distances", "hits", "open_set"))
    finite = lengths[np.isfinite(lengths)]
    swept = sweep(counts)
    for row, threshold in enumerate(counts.distances):
        near = lengths <= threshold
        assert [swept.tp[row], swept.fp[row], swept.open_fp[row]] == [(kind & near).sum() for kind in (hits, ~hits, opened)]
        assert (finite == threshold).any(), "a threshold occurred"
    assert (counts.queries, counts.open_set, counts.known) == (len(pairs), opened.sum(), (~opened).sum())
    # As few bits as possible, and none of the distances is further below its threshold than stated.
    keys = np.unique(order_bits(finite))
    fewest = next(bits for bits in range(33) if len(np.unique(keys.astype(np.uint64) >> np.uint64(bits))) <= max(limit, 1))
    assert counts.dropped_bits == fewest
    if len(finite):
        assert np.isin(finite.max(), counts.distances)
        above = counts.distances[np.searchsorted(counts.distances, finite)].astype(np.float64)
        assert (above - finite).max() <= counts.threshold_error
    if not fewest:
        assert counts.threshold_error == 0
        assert np.array_equal(counts.distances, np.unique(finite + np.float32(0)))


@settings(deadline=None, max_examples=200)
@given(pair_lists, st.integers(4, 40), randoms)
def test_groups_merge_in_any_order_and_are_the_counts_of_their_queries(pairs, limit, random):
    columns = arrays_of(pairs)
    whole = groups_of(columns, max_distinct=limit)
    parts = [groups_of(columns, rows, max_distinct=limit) for rows in split(len(pairs), random)]
    tree = merged(parts, random, lambda taken: GroupCounts.merge(taken, max_distinct=limit))
    assert same(tree, whole)
    assert tree.values == whole.values
    for name in ("code", "unmatched", "unmatched_open"):
        assert np.array_equal(getattr(tree, name), getattr(whole, name))
    assert len(whole.code) <= limit
    found = dict(whole.pairs())
    assert sorted(found) == sorted(set(columns["values"]))
    for value, counts in found.items():
        alone = pairs_of(columns, columns["values"] == value)
        assert (counts.queries, counts.open_set, counts.unmatched) == (alone.queries, alone.open_set, alone.unmatched)
        if not whole.dropped_bits:
            assert same(counts, alone)
    least = 3
    assert set(dict(whole.pairs(least))) == {value for value in found if (columns["values"] == value).sum() >= least}


def test_a_value_that_is_missing_counts_nowhere():
    groups = GroupCounts.of(pa.array([3, None, 12]), np.array([0.1, 0.2, np.inf], np.float32), np.array([True, True, False]))
    assert groups.values.to_pylist() == ["12", "3"]
    assert groups.queries.tolist() == [1, 1]
    assert len(GroupCounts.of(pa.nulls(2), np.zeros(2, np.float32), np.zeros(2, bool)).values) == 0


def answers(seed: int = 0, queries: int = 300, block: int = 37) -> list[Answer]:
    """Answered blocks with queries without label, of unknown label, and with too few neighbors."""
    rng = np.random.default_rng(seed)
    names = np.array([*(f"c{each}" for each in range(6)), None], object)
    lengths = np.sort((rng.integers(0, 40, (queries, 3)) / 16).astype(np.float32), axis=1)
    labels = names[rng.integers(0, 4, (queries, 3))]
    for row in range(0, queries, 11):
        lengths[row, row % 3 :] = np.inf
    labels[~np.isfinite(lengths)] = None
    own = names[rng.choice(7, queries, p=[0.3, 0.2, 0.2, 0.1, 0.05, 0.05, 0.1])]
    table = pa.table({"id": [f"q{row}" for row in range(queries)], "label": pa.array(own, pa.string())})
    table = table.append_column("site", pa.array([None if row % 7 == 0 else row % 3 for row in range(queries)]))
    found = []
    for first in range(0, queries, block):
        rows = slice(first, min(first + block, queries))
        tie = np.zeros(lengths[rows].shape, np.uint64)
        place = np.where(np.isfinite(lengths[rows]), 0, -1)
        neighbors = Found(lengths[rows], place, tie, labels=labels[rows])
        part = table.slice(first, rows.stop - rows.start)
        found.append(Answer(part, tie[:, 0], neighbors, np.zeros(0, np.int64)))
    return found


KNOWN = pa.array(["c0", "c1", "c2", "c3"])


@pytest.mark.parametrize("by", ["label", "site", None])
def test_answers_are_counted_as_by_hand(by):
    blocks = answers()
    spec = CountSpec((("match_nearest", 1), ("match_majority_vote", 3)), by=by)
    total = CalibrationCounts.merge([count_answer(block, spec, KNOWN) for block in blocks])
    table = pa.concat_tables([block.queries for block in blocks]).to_pylist()
    lengths = np.concatenate([block.found.distances for block in blocks])
    labels = np.concatenate([block.found.labels for block in blocks])
    asked = [row for row, query in enumerate(table) if query["label"] is not None]
    assert (total.queries, total.labelled) == (len(table), len(asked))
    assert total.open_set == sum(table[row]["label"] in ("c4", "c5") for row in asked)
    nearest = total.pairs["match_nearest@1"]
    for row, distance in enumerate(nearest.distances):
        here = [place for place in asked if lengths[place, 0] == distance]
        assert nearest.total[row] == len(here)
        assert nearest.hits[row] == sum(labels[place, 0] == table[place]["label"] for place in here)
        assert nearest.open[row] == sum(table[place]["label"] in ("c4", "c5") for place in here)
    assert nearest.unmatched == sum(not np.isfinite(lengths[place, 0]) for place in asked)
    voted = total.pairs["match_majority_vote@3"]
    assert (voted.queries, voted.unmatched) == (nearest.queries, nearest.unmatched)
    if by is None:
        assert total.groups is None
        return
    assert total.groups is not None
    for value, counts in total.groups.pairs():
        key = [labels[place, 0] if by == "label" else table[place]["site"] for place in asked]
        here = [place for place, each in zip(asked, key, strict=True) if str(each) == value]
        assert counts.queries == len(here)
        assert counts.hits.sum() == sum(labels[place, 0] == table[place]["label"] for place in here)
    assert None not in total.groups.values.to_pylist()


@settings(deadline=None, max_examples=30)
@given(randoms, st.sampled_from([12, 1 << 22]))
def test_an_accumulator_gives_the_merge_of_all(random, limit):
    spec = CountSpec((("match_nearest", 1),), by="site", max_distinct=limit)
    parts = [count_answer(block, spec, KNOWN) for block in answers(block=random.randint(3, 50))]
    whole = CalibrationCounts.merge([count_answer(block, spec, KNOWN) for block in answers(block=300)], max_distinct=limit)
    random.shuffle(parts)
    accumulator = Accumulator(limit)
    accumulator._LEAST = random.choice([1, 20, 1 << 16])
    for part in parts:
        accumulator.add([part])
    found = accumulator.result()
    assert same(found.pairs["match_nearest@1"], whole.pairs["match_nearest@1"])
    assert same(found.groups, whole.groups)
    assert (found.queries, found.labelled, found.open_set) == (whole.queries, whole.labelled, whole.open_set)


@pytest.mark.parametrize("by", ["label", None])
def test_counts_come_back_from_a_file(tmp_path, by):
    spec = CountSpec((("match_nearest", 1), ("match_majority_vote", 3)), by=by, max_distinct=9)
    counts = CalibrationCounts.merge([count_answer(block, spec, KNOWN) for block in answers()], max_distinct=9)
    counts.save(tmp_path / "counts.npz")
    loaded = CalibrationCounts.load(tmp_path / "counts.npz")
    assert list(loaded.pairs) == list(counts.pairs)
    for name, pairs in counts.pairs.items():
        assert same(loaded.pairs[name], pairs)
        assert pairs.dropped_bits > 0
        assert loaded.pairs[name].unmatched == pairs.unmatched
    assert (loaded.queries, loaded.labelled, loaded.open_set) == (counts.queries, counts.labelled, counts.open_set)
    if by:
        assert counts.groups is not None
        assert loaded.groups is not None
        assert same(loaded.groups, counts.groups)
        assert loaded.groups.values == counts.groups.values
    assert CalibrationCounts().size == 0
