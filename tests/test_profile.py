"""The search profile: the recall it promises is the recall that asking so gives, by brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.errors import QueryError, ReleaseError
from simpipe.index.distance import between
from simpipe.index.measure import PartitionMeasure, Probe, measure_partition
from simpipe.index.merge import TopK
from simpipe.index.profile import Profile, make_profile
from simpipe.index.setting import SearchSetting

K = 3
SETTINGS = ({"width": 2}, {"width": 4}, {"width": 1000})


@dataclass(frozen=True)
class Forgetful:
    """Stands for a partition: exact over the items that a setting of some width does not forget."""

    vectors: np.ndarray
    tie: np.ndarray
    distance: str = "euclidean"

    def search(self, queries: np.ndarray, k: int, *, setting: SearchSetting) -> TopK:
        kept = np.flatnonzero(self.tie % np.uint64(7) < setting.backend["width"])
        distances = between(queries, np.broadcast_to(self.vectors[kept], (len(queries), len(kept), 2)), self.distance)
        tie = np.broadcast_to(self.tie[kept], distances.shape)
        order = np.lexsort((tie, distances), axis=1)[:, :k]
        none = np.full(order.shape, None, object)
        return _top(np.take_along_axis(distances, order, axis=1), np.take_along_axis(tie, order, axis=1), none)


def _top(distances: np.ndarray, tie: np.ndarray, none: np.ndarray) -> TopK:
    fields = {"distances": distances, "tie": tie, "ids": none, "labels": none, "place": np.zeros(distances.shape, np.int64)}
    return TopK(**{name: value for name, value in fields.items() if name in TopK.__dataclass_fields__})


def world(seed: int, partitions: int, items: int, queries: int, *, spill: bool, own: bool):
    """Items in partitions by nearest centroid (with copies in the second nearest), and queries; brute force stays possible."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(items, 2)).astype(np.float32)
    tie = rng.permutation(np.arange(1, items + 1)).astype(np.uint64) * np.uint64(2**40 + 13)
    centroids = rng.normal(size=(partitions, 2)).astype(np.float32)
    asked = vectors[: min(queries, items)] if own else rng.normal(size=(queries, 2)).astype(np.float32)
    square = ((asked[:, None] - centroids[None]) ** 2).sum(-1)
    order = np.argsort(((vectors[:, None] - centroids[None]) ** 2).sum(-1), axis=1)
    members = [np.flatnonzero(order[:, 0] == number) for number in range(partitions)]
    if spill and partitions > 1:
        members = [np.union1d(rows, np.flatnonzero(order[: items // 3, 1] == number)) for number, rows in enumerate(members)]
    own_tie = tie[: len(asked)] if own else np.zeros(len(asked), np.uint64)
    nearness = (square - square.min(axis=1, keepdims=True)).astype(np.float32)
    probe = Probe(asked, own_tie, nearness, np.inf, SETTINGS, K, 0.0, "items" if own else "queries")
    return vectors, tie, members, probe


def recall_by_hand(vectors, tie, members, probe, setting: SearchSetting) -> float:
    """Asks the partitions within the setting, merges, compares with exact search; query by query."""
    shares = []
    rank = np.argsort(np.argsort(probe.nearness, axis=1, kind="stable"), axis=1)
    for row, query in enumerate(probe.vectors):
        distances = between(query[None], vectors[None], "euclidean")[0]
        eligible = np.flatnonzero(tie != probe.own[row])
        true = sorted(eligible, key=lambda item: (distances[item], tie[item]))[:K]
        seen = set()
        for number, rows in enumerate(members):
            if setting.margin is not None and probe.nearness[row, number] > setting.margin:
                continue
            if setting.probes is not None and rank[row, number] >= setting.probes:
                continue
            kept = [item for item in rows if tie[item] % np.uint64(7) < setting.backend["width"] and tie[item] != probe.own[row]]
            seen |= set(sorted(kept, key=lambda item: (distances[item], tie[item]))[:K])
        if true:
            shares.append(len(set(true) & seen) / len(true))
    return float(np.mean(shares))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    partitions=st.sampled_from([1, 2, 5, 12]),
    items=st.integers(2, 60),
    spill=st.booleans(),
    own=st.booleans(),
)
def test_every_point_of_a_profile_is_what_asking_so_gives(seed, partitions, items, spill, own):
    vectors, tie, members, probe = world(seed, partitions, items, 15, spill=spill, own=own)
    measures = [
        measure_partition(Forgetful(vectors[rows], tie[rows]), vectors[rows], tie[rows], probe, number=number)  # type: ignore[arg-type]
        for number, rows in enumerate(members)
    ]
    profile = make_profile(measures, probe, targets=(0.5, 0.9))
    if profile is None:
        assert items - own < 1
        return
    for point in profile.curve:
        assert point.recall == pytest.approx(recall_by_hand(vectors, tie, members, probe, point.setting), abs=1e-6)
    assert profile.best.recall == pytest.approx(1.0), "the widest setting over all partitions finds everything"
    costs = [point.microseconds for point in profile.curve]
    assert costs == sorted(costs)
    assert all(later.low > earlier.low for earlier, later in zip(profile.curve, profile.curve[1:], strict=False))
    assert all(point.low >= target for target, point in profile.targets.items())


def test_measures_and_profile_survive_the_disk(tmp_path):
    vectors, tie, members, probe = world(5, 3, 40, 20, spill=True, own=False)
    part = Forgetful(vectors[members[0]], tie[members[0]])
    measure = measure_partition(part, part.vectors, part.tie, probe, number=0)  # type: ignore[arg-type]
    measure.save(tmp_path / "measure.npz")
    probe.save(tmp_path / "probe.npz")
    again, asked = PartitionMeasure.load(tmp_path / "measure.npz"), Probe.load(tmp_path / "probe.npz")
    for name in ("distances", "tie", "asked", "found", "cost"):
        np.testing.assert_array_equal(getattr(again, name), getattr(measure, name))
    assert (asked.settings, asked.k, asked.source) == (SETTINGS, K, "queries")
    np.testing.assert_array_equal(asked.nearness, probe.nearness)
    profile = make_profile([again], Probe(**{**vars(asked), "nearness": asked.nearness[:, :1] * 0}), targets=(0.9,))
    assert profile is not None
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile
    (tmp_path / "profile.json").write_text('{"format_version": 1}')
    with pytest.raises(ReleaseError, match="not a search profile"):
        Profile.load(tmp_path / "profile.json")


def test_a_target_out_of_reach_is_refused_with_the_best():
    vectors, tie, _, probe = world(1, 1, 50, 30, spill=False, own=False)
    few = Probe(**{**vars(probe), "settings": ({"width": 2},)})
    measure = measure_partition(Forgetful(vectors, tie), vectors, tie, few, number=0)  # type: ignore[arg-type]
    profile = make_profile([measure], few, targets=(0.5, 0.99))
    assert profile is not None
    assert 0.99 not in profile.targets
    with pytest.raises(QueryError, match=rf"target recall 0\.99: the release reaches {profile.best.recall:.4f}"):
        profile.setting_for(0.99)
