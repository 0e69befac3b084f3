"""Calibration counts and thresholds, bit for bit: whatever the query files, partitions, bundles, with and without Beam."""

from __future__ import annotations

import itertools
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from release_maker import RELEASE, make_release

from simpipe import releases
from simpipe.beam.calibrate import MergeCounts
from simpipe.beam.options import run_graph
from simpipe.beam.query import QueryRelease
from simpipe.calibration import calibrate, targets_of
from simpipe.calibration.counts import CalibrationCounts, CountSpec, count_answer
from simpipe.config.index import KMeansRouter
from simpipe.embeddings import vectors_column
from simpipe.index.query import QuerySpec, answer_all
from simpipe.index.router import fit_router
from simpipe.job import job_of

SPEC = CountSpec((("match_nearest", 1), ("match_majority_vote", 5)), by="shop")
KNOWN = pa.array([f"l{number}" for number in range(5)])
TARGETS = targets_of({"precision": (0.3, 0.9), "recall_all": (0.2,), "fpr": (0.1,)})
SHARDS, PARTITIONS = (1, 3, 17), (1, 4, 12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases of the same 500 items in 1, 4 and 12 partitions (with spill), and 300 queries in 1, 3 and 17 files."""
    root = tmp_path_factory.mktemp("shards")
    vectors, _ = clustered(800)
    items, queries = vectors[:500].copy(), vectors[500:].copy()
    items[::50] = items[1::50]  # exact twins under other ids
    queries[:40] = items[:40]  # and queries that stand in the index, under their own ids
    for partitions in PARTITIONS:
        config = KMeansRouter(kind="kmeans", partitions=partitions, spill="nearest" if partitions > 1 else "none")
        make_release(root / f"{partitions}", items, fit_router(items, config, seed=0))
    rng = np.random.default_rng(3)
    labels = [None if row % 9 == 0 else "stranger" if row % 7 == 0 else f"l{rng.integers(5)}" for row in range(300)]
    table = pa.table(
        {
            "id": [f"i{row}" if row < 40 else f"q{row}" for row in range(300)],
            "label": pa.array(labels, pa.string()),
            "embedding": vectors_column(queries),
            "shop": [f"shop-{row % 3}" for row in range(300)],
        }
    )
    for shards in SHARDS:
        (root / f"queries-{shards}").mkdir()
        bounds = np.linspace(0, len(table), shards + 1).astype(int)
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            pq.write_table(table.slice(first, last - first), root / f"queries-{shards}" / f"{number:05d}.parquet")
    return root


def spec_of(world: Path, shards: int, partitions: int, work: Path | None = None) -> QuerySpec:
    names = tuple(str(path) for path in sorted((world / f"queries-{shards}").iterdir()))
    folder = releases.releases_folder(world / f"{partitions}") / RELEASE
    labels = frozenset({"labels"})
    return QuerySpec(str(folder), names, 5, block=64, columns=("shop",), names=labels, work=str(work) if work else "")


def bits(counts: CalibrationCounts) -> list[object]:
    """Everything that was counted and every threshold and cutpoint that follows, as bytes and numbers."""
    found: list[object] = [counts.queries, counts.labelled, counts.open_set]
    for name, pairs in sorted(counts.pairs.items()):
        result = calibrate(pairs, metric="f1_all", optimal=("precision",), targets=TARGETS, bootstrap=20, confidence=0.9, seed=1)
        arrays = [getattr(pairs, part).tobytes() for part in ("distances", "hits", "total", "open")]
        found += [name, arrays, pairs.unmatched, pairs.unmatched_open, result.cutpoints]
        found += [values.tobytes() for values in result.thresholds.values()]
    groups = counts.groups
    assert groups is not None
    arrays = (groups.code, groups.distances, groups.hits, groups.total, groups.open, groups.unmatched, groups.unmatched_open)
    return [*found, groups.values.to_pylist(), [values.tobytes() for values in arrays]]


def in_memory(world: Path, shards: int, partitions: int) -> list[CalibrationCounts]:
    return [count_answer(answer, SPEC, KNOWN) for answer in answer_all(spec_of(world, shards, partitions))]


@pytest.fixture(scope="module")
def expected(world: Path) -> list[object]:
    return bits(CalibrationCounts.merge(in_memory(world, 1, 1)))


@pytest.mark.parametrize("partitions", PARTITIONS)
@pytest.mark.parametrize("shards", SHARDS)
def test_shards_and_partitions_change_nothing(world, expected, shards, partitions, tmp_path):
    assert bits(CalibrationCounts.merge(in_memory(world, shards, partitions))) == expected
    spec = spec_of(world, shards, partitions, tmp_path)
    path = tmp_path / "counts.npz"

    def graph(pipeline: beam.Pipeline) -> None:
        counts = (
            pipeline
            | QueryRelease(spec, tuple(range(partitions)))
            | beam.Map(count_answer, SPEC, KNOWN)
            | beam.CombineGlobally(MergeCounts(SPEC.max_distinct))
        )
        _ = counts | beam.Map(CalibrationCounts.save, path)

    run_graph(graph, job_of(None, "calibrate"))
    assert bits(CalibrationCounts.load(path)) == expected


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SHARDS), st.sampled_from(PARTITIONS), st.randoms(), st.integers(1, 9))
def test_bundles_merge_in_any_order(world, expected, shards, partitions, random, bundles):
    """Blocks fall into bundles by chance, bundles into accumulators, and these are merged in any order."""
    parts = _COUNTED.setdefault((shards, partitions), in_memory(world, shards, partitions)).copy()
    random.shuffle(parts)
    combine = MergeCounts(SPEC.max_distinct)
    accumulators = [combine.create_accumulator() for _ in range(bundles)]
    for part in parts:
        place = random.randrange(bundles)
        accumulators[place] = combine.add_input(accumulators[place], part)
    while len(accumulators) > 1:
        taken = [accumulators.pop(random.randrange(len(accumulators))) for _ in range(min(len(accumulators), 3))]
        accumulators.append(combine.merge_accumulators([combine.compact(each) for each in taken]))
    assert bits(combine.extract_output(accumulators[0])) == expected


_COUNTED: dict[tuple[int, int], list[CalibrationCounts]] = {}


def test_what_is_counted_is_what_brute_force_counts(world):
    """One query at a time over all items, own entry out by id, in float32 as calibration compares."""
    import simpipe

    searcher = simpipe.open_release(world / "12")
    table = pa.concat_tables([pq.read_table(path) for path in sorted((world / "queries-1").iterdir())])
    hits = total = strangers = 0
    for row in table.to_pylist():
        if row["label"] is None:
            continue
        found = searcher.lookup(np.array(row["embedding"], np.float32), 1, query_ids=[row["id"]], exact=True)
        assert found.ids[0, 0] != row["id"]
        hits += found.labels[0, 0] == row["label"]
        total += 1
        strangers += row["label"] == "stranger"
    pairs = CalibrationCounts.merge(in_memory(world, 3, 12)).pairs["match_nearest@1"]
    assert (pairs.hits.sum(), pairs.queries, pairs.open_set) == (hits, total, strangers)
