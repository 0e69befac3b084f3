"""Jobs over all queries: the same answers for any number of files and partitions, with and without Beam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_maker import make_release

import simpipe.index.query_prepare as query_prepare
from pipelines.queries import run_queries
from simpipe.config.index import RejectLimit
from simpipe.embeddings import vectors_column
from simpipe.errors import RejectedError
from simpipe.ids import hash_ids
from simpipe.index.answers import Answer
from simpipe.index.partitions import Partition
from simpipe.index.query import QuerySpec, Search, answer_all, plan_job
from simpipe.index.query_merge import merge_chunk
from simpipe.index.query_prepare import prepare_source
from simpipe.index.query_search import search_partition
from simpipe.index.routing import Router, sample_rows
from simpipe.index.searcher import Searcher, open_release

DIM, ITEMS, K = 6, 400, 5
_COLLECTED: list[Answer] = []


def items() -> np.ndarray:
    """Items with exact twins: every tenth one stands again under another id."""
    vectors = np.random.default_rng(3).normal(size=(ITEMS, DIM)).astype(np.float32)
    vectors[1::10] = vectors[::10]
    return vectors


def queries() -> tuple[np.ndarray, list[str]]:
    """Items as queries of their own, and others; one id comes twice."""
    other = np.random.default_rng(4).normal(size=(107, DIM)).astype(np.float32)
    vectors = np.concatenate([items()[:150], other, other[:1]])
    names = [f"i{row}" for row in range(150)] + [f"q{row}" for row in range(107)] + ["q0"]
    return vectors, names


def write_files(folder: Path, shards: int) -> tuple[str, ...]:
    vectors, names = queries()
    labels = pa.array([None if row % 5 == 0 else f"l{row % 4}" for row in range(len(names))], pa.string())
    table = pa.table({"id": names, "label": labels, "embedding": vectors_column(vectors), "season": np.arange(len(names)) % 3})
    cuts = np.linspace(0, len(names), shards + 1).astype(int)
    paths = []
    for number in range(shards):
        path = folder / f"q-{number:02d}-of-{shards:02d}.parquet"
        pq.write_table(table.slice(cuts[number], cuts[number + 1] - cuts[number]), path, row_group_size=60)
        paths.append(str(path))
    return tuple(paths)


def spread(partitions: int, spill: str = "none") -> Router:
    if spill == "none":
        return Router(partitions)
    centroids = np.random.default_rng(5).normal(size=(partitions, DIM)).astype(np.float32)
    owner = np.arange(partitions, dtype=np.int32)
    offsets, splits = np.zeros(partitions, np.float32), np.ones(partitions, np.int32)
    return Router(partitions, "kmeans", centroids, owner, offsets, splits, spill=spill, reach=np.inf)


def stack(answers: list[Answer], name: str) -> tuple[np.ndarray, ...]:
    found = [getattr(answer, name) for answer in answers]
    return tuple(np.concatenate([getattr(each, field) for each in found]) for field in ("ids", "labels", "distances", "tie"))


def in_order(answers: list[Answer]) -> list[Answer]:
    """Answers in the order of the queries: all ids but that of the last one tell the place."""
    _, names = queries()
    return sorted(answers, key=lambda answer: names.index(answer.ids[0]) if len(answer) > 1 or answer.ids[0] != "q0" else 1000)


def equal(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def keep(answer: Answer) -> None:
    _COLLECTED.append(answer)


class Keep(beam.PTransform):
    """Collects answers in this process."""

    def expand(self, input_or_inputs):
        return input_or_inputs | beam.Map(keep)


def through_beam(spec: QuerySpec, searcher: Searcher, **how) -> list[Answer]:
    _COLLECTED.clear()
    counts = run_queries(None, spec, manifest=searcher.manifest, collect=Keep(), beam_args=[], verb="test", **how)
    assert counts.written == sum(map(len, _COLLECTED))
    return in_order(list(_COLLECTED))


def brute_force(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and distances by all differences, equal distances by the hash of the id, own ids left out."""
    vectors, names = queries()
    table = items()
    distances = np.sqrt(((vectors[:, None, :].astype(np.float64) - table[None]) ** 2).sum(axis=2))
    ids = np.array([f"i{row}" for row in range(ITEMS)], object)
    distances[np.array(names, object)[:, None] == ids] = np.inf
    tie = np.broadcast_to(hash_ids(ids.tolist()), distances.shape)
    order = np.lexsort((tie, distances), axis=1)[:, :k]
    return ids[order], np.take_along_axis(distances, order, axis=1)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    made = {}
    for partitions in (1, 4, 12):
        root = tmp_path_factory.mktemp(f"p{partitions}")
        make_release(root, items(), spread(partitions))
        made[partitions] = open_release(root)
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return {count: write_files(tmp_path_factory.mktemp(f"s{count}"), count) for count in (1, 3, 17)}


def spec_of(searcher: Searcher, files: tuple[str, ...], **how) -> QuerySpec:
    how = {"exact_k": 7, "exact_share": 0.4, "deep": 20, "block": 32, "columns": ("season",)} | how
    return QuerySpec(str(searcher.folder), files, K, **how)


@pytest.fixture(scope="module")
def expected(releases, shards):
    """What one file and one partition give."""
    return list(answer_all(spec_of(releases[1], shards[1])))


def test_answers_equal_brute_force_and_lookup(releases, expected):
    vectors, names = queries()
    for name, k in (("found", K), ("deep", 20)):
        ids, labels, distances, tie = stack(expected, name)
        true_ids, true_distances = brute_force(k)
        assert np.array_equal(ids, true_ids)
        np.testing.assert_allclose(distances, true_distances, rtol=1e-5, atol=1e-6)
        assert np.array_equal(tie, hash_ids(ids.ravel().tolist()).reshape(ids.shape))
        looked_up = releases[12].lookup(vectors, k, query_ids=names)
        assert equal((ids, labels, distances), (looked_up.ids, looked_up.labels, looked_up.distances))


@pytest.mark.parametrize("partitions", [1, 4, 12])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_same_bits_for_any_sharding_and_partitioning(releases, shards, expected, partitions, count):
    spec = spec_of(releases[partitions], shards[count])
    alone, graph = list(answer_all(spec)), through_beam(spec, releases[partitions])
    tables = pa.concat_tables([answer.queries for answer in expected])
    drawn = np.concatenate([answer.ids[answer.exact_rows] for answer in expected])
    for answers in (alone, graph):
        for name in ("found", "exact", "deep"):
            assert equal(stack(answers, name), stack(expected, name)), name
        assert pa.concat_tables([answer.queries for answer in answers]).equals(tables)
        assert np.concatenate([answer.ids[answer.exact_rows] for answer in answers]).tolist() == drawn.tolist()
        assert np.array_equal(np.concatenate([answer.tie for answer in answers]), hash_ids(queries()[1]))


def test_any_order_of_work_gives_the_same(releases, shards, expected, tmp_path):
    searcher = releases[4]
    spec = replace(spec_of(searcher, shards[17]), work=str(tmp_path))
    plan = plan_job(spec, (0, 1, 2, 3), dim=DIM)
    order = np.random.default_rng(7)
    for source in order.permutation(np.array(plan.sources, object)):
        prepare_source(searcher, spec, source)
    for search in order.permutation(np.array(plan.searches, object)):
        search_partition(searcher, spec, search)
        search_partition(searcher, spec, search)  # a doubled attempt writes the same
    answers = {int(chunk): list(merge_chunk(searcher, spec, int(chunk))) for chunk in order.permutation(plan.chunks)}
    merged = [answer for chunk in sorted(answers) for answer in answers[chunk]]
    assert equal(stack(merged, "found"), stack(expected, "found"))


def test_thin_files_of_queries_fill_blocks_together(releases, shards, tmp_path, monkeypatch):
    """A scan of a partition serves as many queries as a block holds, however few of them lie in a file."""
    searcher = releases[4]
    spec = replace(spec_of(searcher, shards[17]), work=str(tmp_path), block=64)
    plan = plan_job(spec, (0, 1, 2, 3), dim=DIM)
    for source in plan.sources:
        prepare_source(searcher, spec, source)
    sizes: list[int] = []
    real = Partition.candidates

    def candidates(part, asking, *rest, **how):
        sizes.append(len(asking))
        return real(part, asking, *rest, **how)

    monkeypatch.setattr(Partition, "candidates", candidates)
    search = Search(0, tuple(range(plan.chunks)))
    asked = search_partition(searcher, spec, search)
    assert sum(sizes) == asked
    largest = max(source.rows for source in plan.sources)
    assert largest < 20, "or nothing is shown here"
    assert sum(size < 32 for size in sizes) <= len(spec.parts), "only the last block of each kind of search may be small"
    assert 2 * len(sizes) < plan.chunks * len(spec.parts)


def test_exact_share_is_drawn_by_the_id(releases, shards, expected):
    _, names = queries()
    drawn = np.concatenate([answer.ids[answer.exact_rows] for answer in expected])
    mask = sample_rows(pa.array(names), share=0.4, seed=query_prepare._EXACT_SEED)
    assert drawn.tolist() == np.array(names, object)[mask].tolist()
    true_ids, _ = brute_force(7)
    assert np.array_equal(stack(expected, "exact")[0], true_ids[mask])
    nothing = list(answer_all(spec_of(releases[4], shards[3], exact_share=0.0)))
    assert all(len(answer.exact_rows) == 0 and answer.exact.ids.shape == (0, 7) for answer in nothing)
    assert all(answer.exact is None for answer in answer_all(spec_of(releases[4], shards[3], exact_k=0)))


def test_share_draws_queries_by_the_id(releases, shards):
    _, names = queries()
    spec = spec_of(releases[4], shards[3], share=0.3)
    drawn = [name for answer in answer_all(spec) for name in answer.ids]
    again = [name for answer in answer_all(replace(spec, files=shards[17])) for name in answer.ids]
    whole = [name for answer in answer_all(replace(spec, share=0.6)) for name in answer.ids]
    assert drawn == again
    assert set(drawn) < set(whole) < set(names)
    assert 0.2 < len(drawn) / len(names) < 0.4
    assert len(through_beam(spec, releases[4])) > 0


@pytest.mark.parametrize("spill", ["nearest", "soar"])
def test_own_items_go_by_id_where_copies_and_twins_stand_in_several_partitions(tmp_path, shards, spill):
    make_release(tmp_path, items(), spread(6, spill))
    searcher = open_release(tmp_path)
    assert sum(searcher.partition_rows) > 1.5 * ITEMS, "copies"
    answers = list(answer_all(spec_of(searcher, shards[3])))
    ids = stack(answers, "found")[0]
    assert np.array_equal(ids, brute_force(K)[0])
    assert all(len(set(row)) == K for row in ids)
    for row in range(0, 150, 10):
        assert ids[row, 0] == f"i{row + 1}", "the exact twin under another id stays"
        assert f"i{row}" not in ids[row]


def test_few_probes_equal_lookup_with_the_same_probes(tmp_path, shards):
    make_release(tmp_path, items(), spread(6, "nearest"))
    searcher = open_release(tmp_path)
    vectors, names = queries()
    answers = list(answer_all(spec_of(searcher, shards[3], probes=2, deep=0)))
    looked_up = searcher.lookup(vectors, K, query_ids=names, probes=2)
    ids, labels, distances, _ = stack(answers, "found")
    assert equal((ids, labels, distances), (looked_up.ids, looked_up.labels, looked_up.distances))
    assert not np.array_equal(ids, brute_force(K)[0])
    exact = list(answer_all(spec_of(searcher, shards[3], probes=2, exact=True)))
    assert np.array_equal(stack(exact, "found")[0], brute_force(K)[0])


def test_an_index_smaller_than_k(tmp_path, shards):
    make_release(tmp_path, items()[:3], spread(4))
    searcher = open_release(tmp_path)
    vectors, names = queries()
    answers = list(answer_all(spec_of(searcher, shards[3])))
    looked_up = searcher.lookup(vectors, K, query_ids=names)
    assert equal(stack(answers, "found")[:3], (looked_up.ids, looked_up.labels, looked_up.distances))


def test_names_only_as_asked(releases, shards, expected):
    for names in ((), ("labels",), ("ids",)):
        answers = list(answer_all(spec_of(releases[4], shards[3], names=frozenset(names))))
        for answer in answers:
            assert (answer.found.ids is not None) == ("ids" in names)
            assert (answer.found.labels is not None) == ("labels" in names)
        assert np.array_equal(
            np.concatenate([answer.found.tie for answer in answers]), np.concatenate([answer.found.tie for answer in expected])
        )
        if names == ("labels",):
            labels = np.concatenate([answer.found.labels for answer in answers])
            assert np.array_equal(labels, stack(expected, "found")[1])


def test_queries_without_ids_leave_nothing_out(releases, tmp_path):
    path = tmp_path / "named.parquet"
    pq.write_table(pa.table({"embedding": vectors_column(items()[:40])}), path)
    answers = list(answer_all(QuerySpec(str(releases[4].folder), (str(path),), K, block=16)))
    looked_up = releases[4].lookup(items()[:40], K)
    assert equal(stack(answers, "found")[:3], (looked_up.ids, looked_up.labels, looked_up.distances))
    assert (stack(answers, "found")[2][:, 0] == 0).all()
    assert [name for answer in answers for name in answer.ids] == [f"row {row}" for row in range(40)]


def test_rejects_and_their_limit(releases, expected, tmp_path):
    vectors, names = queries()
    vectors = vectors.copy()
    vectors[[3, 200]] = np.nan
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"id": names, "embedding": vectors_column(vectors)}), path)
    spec = QuerySpec(str(releases[4].folder), (str(path),), K)
    answers = through_beam(spec, releases[4], folder=tmp_path)
    assert sum(map(len, answers)) == len(names) - 2
    good = np.delete(np.arange(len(names)), [3, 200])
    assert equal(stack(answers, "found"), tuple(values[good] for values in stack(expected, "found"))), "as if they were not there"
    lines = (tmp_path / "rejects" / "queries-00000.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert "bad.parquet row 3" in lines[0]
    with pytest.raises(RejectedError, match=r"2 of 258(.|\n)*bad.parquet row 200"):
        through_beam(spec, releases[4], rejects=RejectLimit(max_share=0.001))
    assert list(Path(releases[4].folder).parent.glob(".work-*")) == []
