"""The search profile of a re-indexed release: what is measured again, what counts as gone, and drift of the routing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.line import Line
from simpipe.config import Config, parse_config
from simpipe.embeddings import EmbeddingsInfo, vectors_column, vectors_of
from simpipe.ids import hash_ids
from simpipe.index.distance import between, prepare
from simpipe.index.hidden import hidden_file, write_hidden
from simpipe.index.measure import PROBE_FILE, PartitionMeasure, Probe, measure_file, measure_partition
from simpipe.index.partitions import build_partition, partition_folder
from simpipe.index.profile import PROFILE_JSON, Profile, make_profile
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher
from simpipe.index.setting import SearchSetting
from simpipe.manifest import Manifest
from simpipe.reindex.profile import finish_profile, measure_rebuilt, routing_drift, start_profile, trained
from simpipe.reindex.split import divide

N, DIM, PARTITIONS = 2400, 8, 5
TARGETS = (0.8, 0.95)


def config_of(root: Path, source: Path, **changes) -> Config:
    profile = {"queries": 300, "targets": list(TARGETS)}
    build = {"router": {"kind": "kmeans", "partitions": PARTITIONS}, "backend": {"kind": "exact"}, "profile": profile}
    raw = {"kind": "vectors", "path": str(source), "ids": "id"}
    line = {"name": "profile", "root": str(root), "source": raw, "queries": {"fraction": 0.12}, "build": build}
    return parse_config({**line, "search": {"target_recall": 0.95}, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """A release with a profile, its searcher, and its items: ids and vectors as they are stored."""
    root = tmp_path_factory.mktemp("root")
    vectors, _ = clustered(N, dim=DIM, clusters=40)
    pq.write_table(pa.table({"id": [f"i{row}" for row in range(N)], "embedding": vectors_column(vectors)}), root / "x.parquet")
    line = Line(config_of(root, root / "x.parquet"), say=lambda text: None)
    line.embed()
    folder, manifest = line.build()
    return SimpleNamespace(config=line.config, folder=folder, manifest=manifest, base=Searcher(folder, manifest))


def curve(profile: Profile) -> list[tuple]:
    """All of a profile but the time that it takes."""
    return sorted((point.recall, point.probes, point.setting.probes or 0, point.setting.margin or 0) for point in profile.curve)


def targets_of(profile: Profile) -> dict[float, float]:
    return {target: point.recall for target, point in profile.targets.items()}


def truth_of(probe: Probe, ids: np.ndarray, vectors: np.ndarray, distance: str) -> np.ndarray:
    """Hashes of the exact neighbors: uint64[q, k]."""
    far = between(probe.vectors, np.broadcast_to(vectors, (len(probe.vectors), *vectors.shape)), distance)
    return hash_ids(pa.array(ids[np.argsort(far, axis=1, kind="stable")[:, : probe.k]].ravel())).reshape(-1, probe.k)


def rebuild(made: SimpleNamespace, folder: Path, number: int, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Builds a partition of a new release and measures it, as a re-index does."""
    table = pa.table({"id": ids.astype(str), "label": pa.nulls(len(ids), pa.string()), "embedding": vectors_column(vectors)})
    backend = made.config.build.backend
    record = build_partition(table, folder / partition_folder(number), backend, distance=made.manifest.distance)
    for _ in range(2):  # the second time it is kept
        measure_rebuilt(made.base, folder, record, params=made.manifest.backend)


# --- what a build keeps --------------------------------------------------------------------------------------------------


def test_a_build_keeps_what_its_profile_was_made_from(made):
    manifest, folder = made.manifest, made.folder
    names = [PROBE_FILE, *(measure_file(number) for number in range(PARTITIONS))]
    assert all(manifest.has(name) for name in [*names, PROFILE_JSON])
    assert {path.name for path in (folder / "measures").iterdir()} == {Path(name).name for name in names[1:]}
    probe = Probe.load(folder / PROBE_FILE)
    again = make_profile([PartitionMeasure.load(folder / name) for name in names[1:]], probe, targets=TARGETS)
    saved = Profile.load(folder / PROFILE_JSON)
    assert curve(again) == curve(saved)
    about = manifest.router["trained"]
    rows = np.array([part.rows for part in manifest.partitions])
    assert (about["release"], about["items"]) == (folder.name, manifest.items)
    assert about["balance"] == pytest.approx(rows.max() / rows.mean(), abs=1e-4)
    assert about["probes"] == pytest.approx(saved.point_for(0.95).probes, abs=1e-4)


def test_without_a_profile_nothing_is_kept(made, tmp_path):
    config = made.config.model_copy(
        update={
            "root": str(tmp_path),
            "build": made.config.build.model_copy(
                update={"profile": made.config.build.profile.model_copy(update={"queries": 0})}
            ),
        }
    )
    line = Line(config, say=lambda text: None)
    line.embed()
    folder, manifest = line.build()
    assert manifest.router["trained"]["probes"] is None
    assert not [entry for entry in manifest.files if entry.path.startswith(("probe", "measures", "profile"))]
    base = Searcher(folder, manifest)
    assert not start_profile(base, base.router, tmp_path)
    assert finish_profile(base, tmp_path, partitions=PARTITIONS, rebuilt=(), targets=TARGETS) == []


# --- hidden rows -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), queries=st.integers(1, 12), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_hidden_items_are_no_neighbors(seed, k, queries, share):
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.integers(0, 9, (queries, k)).astype(np.float32), axis=1)
    distances[np.arange(k) >= rng.integers(0, k + 1, queries)[:, None]] = np.inf
    tie = np.where(np.isfinite(distances), np.argsort(rng.random((queries, 20)), axis=1)[:, :k] + 1, 0).astype(np.uint64)
    asked = np.flatnonzero(rng.random(queries) < 0.7).astype(np.int32)
    found = (rng.random((2, len(asked), k)) < 0.5) & np.isfinite(distances[asked])
    hidden = np.flatnonzero(rng.random(21) < share).astype(np.uint64)
    measure = PartitionMeasure(distances, tie, asked, found, np.ones(2))
    left = measure.without(hidden)
    assert left.distances.dtype == np.float32
    for row in range(queries):
        kept = [place for place in range(k) if np.isfinite(distances[row, place]) and tie[row, place] not in hidden]
        count = len(kept)
        assert left.distances[row].tolist() == distances[row, kept].tolist() + [np.inf] * (k - count)
        assert left.tie[row].tolist() == tie[row, kept].tolist() + [0] * (k - count)
        for at in np.flatnonzero(asked == row):
            expected = np.concatenate([found[:, at, kept], np.zeros((2, k - count), bool)], axis=1)
            np.testing.assert_array_equal(left.found[:, at], expected)


# --- rebuilt and carried partitions ----------------------------------------------------------------------------------------


def test_with_nothing_new_the_profile_is_the_same(made, tmp_path):
    assert start_profile(made.base, made.base.router, tmp_path)
    assert not (tmp_path / PROBE_FILE).exists(), "it is carried over"
    written = finish_profile(made.base, tmp_path, partitions=PARTITIONS, rebuilt=(), targets=TARGETS)
    assert written == [PROFILE_JSON]
    assert curve(Profile.load(tmp_path / PROFILE_JSON)) == curve(made.base.profile)


def test_rebuilt_partitions_are_measured_and_hidden_rows_left_out(made, tmp_path):
    base, probe = made.base, Probe.load(made.folder / PROBE_FILE)
    parts = {number: (base.partition(number).ids, np.array(base.partition(number).vectors)) for number in range(PARTITIONS)}
    near = between(probe.vectors, np.broadcast_to(parts[1][1], (len(probe.vectors), *parts[1][1].shape)), base.distance)
    hidden = np.unique(near.argmin(axis=1))[:20]  # rows that are the nearest of some query
    write_hidden(hidden, tmp_path / hidden_file(1))
    ids, vectors = parts[0]
    moved = (vectors[:60] + np.random.default_rng(0).normal(size=(60, DIM)) * 0.05).astype(np.float32)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    parts[0] = (np.concatenate([ids[100:], [f"new{row}" for row in range(60)]]), np.concatenate([vectors[100:], moved]))
    rebuild(made, tmp_path, 0, *parts[0])
    written = finish_profile(base, tmp_path, partitions=PARTITIONS, rebuilt={0}, targets=TARGETS)
    assert written == [PROFILE_JSON, measure_file(0)]
    measures = [PartitionMeasure.load(base.file(measure_file(number))) for number in range(PARTITIONS)]
    measures[0] = PartitionMeasure.load(tmp_path / measure_file(0))
    left = measures[1].without(base.rows(1).tie[hidden])
    assert not np.isin(left.tie, base.rows(1).tie[hidden]).any()
    measures[1] = left
    expected = make_profile(measures, probe, targets=TARGETS)
    assert curve(Profile.load(tmp_path / PROFILE_JSON)) == curve(expected)
    # The nearest of what is left, over all partitions.
    live = {**parts, 1: tuple(np.delete(each, hidden, axis=0) for each in parts[1])}
    everything = (np.concatenate([each[place] for each in live.values()]) for place in (0, 1))
    truth = truth_of(probe, *everything, base.distance)
    tie = np.concatenate([each.tie for each in measures], axis=1)
    order = np.argsort(np.concatenate([each.distances for each in measures], axis=1), axis=1, kind="stable")
    np.testing.assert_array_equal(np.take_along_axis(tie, order, axis=1)[:, 0], truth[:, 0])


def test_a_divided_partition_with_the_probe_of_the_new_router(made, tmp_path):
    base = made.base
    part = base.partition(2)
    vectors = np.array(part.vectors)
    found = divide(base.router, 2, vectors, [PARTITIONS])
    assert found is not None
    router = found[0]
    assert start_profile(base, router, tmp_path)
    probe = Probe.load(tmp_path / PROBE_FILE)
    np.testing.assert_array_equal(probe.nearness, router.nearness(probe.vectors))
    place = router.assign(pa.array(part.ids, pa.string()), vectors)
    for number in (2, PARTITIONS):
        rows = np.flatnonzero(place == number) if number != 2 else np.flatnonzero(place != PARTITIONS)
        rebuild(made, tmp_path, number, part.ids[rows], vectors[rows])
    written = finish_profile(base, tmp_path, partitions=PARTITIONS + 1, rebuilt={2, PARTITIONS}, targets=TARGETS)
    assert set(written) == {PROFILE_JSON, PROBE_FILE, measure_file(2), measure_file(PARTITIONS)}
    profile, before = Profile.load(tmp_path / PROFILE_JSON), base.profile
    assert profile.best.recall == pytest.approx(before.best.recall, abs=1e-6)
    assert targets_of(profile).keys() == targets_of(before).keys()


def test_a_partition_that_more_queries_ask_is_measured_again(made, tmp_path):
    base, probe = made.base, Probe.load(made.folder / PROBE_FILE)
    router = base.router
    own = router.owner == 3
    nearer = replace(router, offsets=np.where(own, router.offsets - 0.2, router.offsets).astype(np.float32))
    start_profile(base, nearer, tmp_path)
    written = finish_profile(base, tmp_path, partitions=PARTITIONS, rebuilt=(), targets=TARGETS)
    assert measure_file(3) in written
    again = PartitionMeasure.load(tmp_path / measure_file(3))
    new = replace(probe, nearness=nearer.nearness(probe.vectors))
    part = base.partition(3)
    expected = measure_partition(part, np.array(part.vectors), part.tie, new, number=3)
    for name in ("distances", "tie", "asked", "found"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    assert len(again.asked) > len(PartitionMeasure.load(base.file(measure_file(3))).asked)


def test_a_slot_is_asked_by_nobody(made, tmp_path):
    router = made.base.router
    slotted = replace(router, partitions=PARTITIONS + 1, splits=np.ones(PARTITIONS + 1, np.int32))
    start_profile(made.base, slotted, tmp_path)
    rebuild(made, tmp_path, PARTITIONS, np.zeros(0, object), np.zeros((0, DIM), np.float32))
    finish_profile(made.base, tmp_path, partitions=PARTITIONS + 1, rebuilt={PARTITIONS}, targets=TARGETS)
    assert not len(PartitionMeasure.load(tmp_path / measure_file(PARTITIONS)).asked)
    assert curve(Profile.load(tmp_path / PROFILE_JSON)) == curve(made.base.profile)


# --- drift of the routing --------------------------------------------------------------------------------------------------


@pytest.fixture
def later(made, tmp_path):
    """A function that gives a release made from `made` whose queries ask so many partitions for the target recall."""

    def make(probes: float, **changes) -> tuple[Path, Manifest]:
        folder = tmp_path / "later"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made.folder, folder)
        profile = made.base.profile
        points = tuple(replace(point, probes=probes) for point in profile.curve)
        replace(profile, curve=points).save(folder / PROFILE_JSON)
        manifest = made.manifest.model_copy(update={"release": "later", **changes})
        return folder, manifest.with_files(folder, [PROFILE_JSON])

    return make


def test_more_probes_than_at_training_are_a_reason(made, later):
    about = made.manifest.router["trained"]
    router = {**made.manifest.router, "trained": {**about, "probes": 2.0}}
    assert routing_drift(*later(3.0, router=router), made.config) is None
    assert routing_drift(*later(3.1, router=router), made.config) == (
        "recall 0.95 takes 3.1 partitions a query, 2.0 when the router was trained"
    )
    few = {**router, "trained": {**about, "probes": 1.1}}
    assert routing_drift(*later(2.0, router=few), made.config) is None, "less than a partition more"
    assert routing_drift(*later(2.2, router=few), made.config) is not None


def test_todays_queries_tell_how_many_partitions_are_asked(made):
    """Whatever the profile says, whose queries are those of training."""
    folder = made.folder.parent / "later"
    shutil.copytree(made.folder, folder)
    try:
        profile = made.base.profile
        wide = SearchSetting(margin=5.0)
        points = tuple(replace(point, probes=1.0, setting=wide) for point in profile.curve)
        replace(profile, curve=points).save(folder / PROFILE_JSON)
        source = made.folder.parent.parent / "embeddings" / made.manifest.provenance["embeddings"][:12]
        held_out = EmbeddingsInfo.load(source).of_splits("query")
        vectors = np.concatenate([vectors_of(pq.read_table(source / file.path)) for file in held_out])
        asked = made.base.ask(prepare(vectors, made.base.distance), 1, wide).sum() / len(vectors)
        assert asked > 3.0
        router = {**made.manifest.router, "trained": {**made.manifest.router["trained"], "probes": 2.0}}
        manifest = made.manifest.model_copy(update={"release": "later", "router": router}).with_files(folder, [PROFILE_JSON])
        assert f"takes {asked:.1f} partitions a query" in str(routing_drift(folder, manifest, made.config))
        gone = manifest.model_copy(update={"provenance": {"embeddings": "0" * 64}})
        assert routing_drift(folder, gone, made.config) is None, "the profile has the last word"
    finally:
        shutil.rmtree(folder)


def test_where_nothing_can_be_compared_there_is_no_reason(made, later):
    assert routing_drift(made.folder, made.manifest, made.config) is None
    about = {**made.manifest.router["trained"], "probes": 1.0}
    router = {**made.manifest.router, "trained": about}
    assert routing_drift(*later(9.0, router={**router, "trained": {**about, "probes": None}}), made.config) is None
    assert routing_drift(*later(9.0, router={"kind": "kmeans"}), made.config) is None
    other = made.config.model_copy(update={"search": made.config.search.model_copy(update={"target_recall": 0.9})})
    assert routing_drift(*later(9.0, router=router), other) is None


def test_what_training_leaves_without_rows_or_profile(tmp_path):
    assert trained(tmp_path, rows=[0, 0], items=0, target=0.9) == {
        "release": tmp_path.name,
        "items": 0,
        "balance": 1.0,
        "probes": None,
    }
    assert trained(tmp_path, rows=[10, 30, 0], items=40, target=None)["balance"] == 1.5
    assert Router(3).slots == ()
