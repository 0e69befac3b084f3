"""Hidden rows never answer, and those that are left answer as if the hidden ones had never been there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from release_maker import RELEASE, make_release
from test_backends import BACKENDS, KNOWN, brute_force

import simpipe
from simpipe import files, releases
from simpipe.arrow import pc
from simpipe.config.index import ExactBackend, KMeansRouter
from simpipe.embeddings import vectors_column
from simpipe.errors import ContractError, QueryError, ReleaseError
from simpipe.ids import hash_ids
from simpipe.index.backend import build_backend
from simpipe.index.distance import between, prepare
from simpipe.index.exact import ExactIndex
from simpipe.index.hidden import hidden_file, read_hidden, write_hidden
from simpipe.index.partitions import Partition
from simpipe.index.query import QuerySpec, answer_all
from simpipe.index.router import Router, fit_router
from simpipe.index.rows import Rows
from simpipe.index.setting import SearchSetting
from simpipe.index.stored import decoded, encode
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile
from simpipe.memory_release import read_into_memory
from simpipe.store import store_file


def hide(root: Path, gone: list[str]) -> Manifest:
    """Hides items of a release in all their partitions, and takes them out of the store."""
    folder, manifest = releases.open_live(root)
    searcher = simpipe.open_release(folder)
    listed = [entry for entry in manifest.files if not entry.path.startswith("store/")]
    partitions = []
    for about in manifest.partitions:
        rows = searcher.rows(about.partition).rows_of(gone)
        rows = np.sort(rows[rows >= 0])
        partitions.append(about.model_copy(update={"hidden": len(rows)}))
        if len(rows):
            path = folder / hidden_file(about.partition)
            write_hidden(rows, path)
            listed.append(ManifestFile(**files.entry_of(path, folder).to_json()))
    path = folder / store_file(0, 1)
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.invert(pc.field("id").isin(gone))), path)
    listed.append(ManifestFile(**files.entry_of(path, folder).to_json()))
    update = {"partitions": tuple(partitions), "files": tuple(listed), "items": manifest.items - len(gone)}
    manifest = manifest.model_copy(update=update)
    manifest.save(folder)
    (root / releases.LIVE_JSON).unlink()
    releases.publish(root, needed_steps=())
    return manifest


def nearest_oracle(queries: np.ndarray, vectors: np.ndarray, k: int, gone: list[str]) -> list[list[str]]:
    """Ids by (distance, hash of the id) among those that are left."""
    left = np.flatnonzero(~np.isin([f"i{row}" for row in range(len(vectors))], gone))
    tie = hash_ids([f"i{row}" for row in left])
    lines = [np.lexsort((tie, between(query[None], vectors[None, left], "euclidean")[0]))[:k] for query in queries]
    return [[f"i{left[place]}" for place in line] for line in lines]


def spilled(vectors: np.ndarray, partitions: int) -> Router:
    return fit_router(vectors, KMeansRouter(kind="kmeans", partitions=partitions, spill="nearest", spill_factor=1.6), seed=0)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("name", "distance"), [(name, distance) for name in BACKENDS for distance in KNOWN[name]])
def test_a_partition_gives_k_live_rows(name, distance, storage):
    vectors = prepare(clustered(1500)[0], distance)
    rows, order = Rows.sort([f"i{row}" for row in range(len(vectors))], [None] * len(vectors))
    vectors = vectors[order]
    kept = decoded(*encode(vectors, storage), distance)
    backend = build_backend(vectors, BACKENDS[name], distance=distance, storage=storage)
    backend = ExactIndex(kept, distance) if backend.is_exact else backend  # as it is loaded
    queries = prepare(clustered(40, seed=9)[0], distance)
    # The nearest of half of the queries go, all of them, and a few others.
    truth = brute_force(queries, np.asarray(kept[:]), distance)
    hidden = np.unique(np.concatenate([np.argsort(truth, axis=1)[:20, :30].ravel(), np.arange(0, 1500, 50)]))
    part = Partition(rows, kept, backend, distance, hidden=hidden)
    assert part.live_rows == len(part.live) == 1500 - len(hidden)
    assert not np.isin(part.live, hidden).any()
    truth[:, hidden] = np.inf
    best = np.sort(truth, axis=1)[:, :10]
    for exact in (False, True):
        top = part.search(queries, 10, exact=exact)
        assert (top.place >= 0).all(), "k answers, also where the nearest are hidden"
        assert not np.isin(top.place, hidden).any()
        assert all(len(set(line)) == 10 for line in top.place.tolist())
        near = top.distances <= best[:, -1:] + 1e-4 * (1 + np.abs(best[:, -1:]))
        assert near.mean() > (0.999 if exact or name == "exact" else 0.85)
    assert (part.rows_of(rows.take_ids(hidden)) == -1).all()
    assert part.rows_of(rows.take_ids(part.live)).tolist() == part.live.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.randoms(use_true_random=False))
def test_ties_among_hidden_rows(n, k, random):
    """Few distinct vectors: many rows tie, and the hash of the id decides among those that are left."""
    rng = np.random.default_rng(random.randrange(1 << 30))
    vectors = rng.integers(-1, 2, size=(n, 2)).astype(np.float32)
    rows, order = Rows.sort([f"i{row}" for row in range(n)], [None] * n)
    vectors = vectors[order]
    backend = build_backend(vectors, ExactBackend(kind="exact"), distance="euclidean")
    hidden = np.flatnonzero(rng.random(n) < rng.random())
    part = Partition(rows, vectors, backend, "euclidean", hidden=hidden if len(hidden) else None)
    queries = rng.integers(-1, 2, size=(5, 2)).astype(np.float32)
    top = part.search(queries, k)
    for line, query in zip(top.place, queries, strict=True):
        distances = between(query[None], vectors[None], "euclidean")[0]
        wanted = [row for row in np.lexsort((rows.tie, distances)) if row not in set(hidden.tolist())][:k]
        assert line.tolist() == wanted


def test_searching_with_hidden_spilled_copies(tmp_path):
    vectors = clustered(600, dim=8)[0]
    make_release(tmp_path, vectors, spilled(vectors, 5))
    gone = [f"i{row}" for row in range(0, 600, 9)] + [f"i{row}" for row in range(100, 130) if row % 9]
    manifest = hide(tmp_path, gone)
    searcher = simpipe.open_release(tmp_path, verify=True)
    assert searcher.items == 600 - len(gone)
    assert sum(searcher.partition_rows) == sum(part.live for part in manifest.partitions) > searcher.items
    queries = vectors[90:140] + np.float32(0.01)
    for exact in (True, False):
        found = searcher.lookup(queries, 12, exact=exact)
        assert found.ids.tolist() == nearest_oracle(queries, vectors, 12, gone)
    everything = searcher.lookup(queries[:3], 1000)
    assert everything.ids.tolist() == nearest_oracle(queries[:3], vectors, 600 - len(gone), gone), "no more than there are"
    with pytest.raises(QueryError, match="i0"):
        searcher.items_of(["i0"])
    twin = searcher.lookup_items(["i1"], 3)
    assert twin.ids.tolist() == nearest_oracle(vectors[1:2], vectors, 3, gone)
    in_memory = read_into_memory(searcher, ExactBackend(kind="exact"))
    assert sorted(in_memory.columns()[0].tolist()) == sorted({f"i{row}" for row in range(600)} - set(gone))


def test_a_partition_without_live_rows_is_not_asked(tmp_path):
    vectors = clustered(120, dim=4)[0]
    members = make_release(tmp_path, vectors, Router(4))
    gone = [f"i{row}" for row in members[2]]
    hide(tmp_path, gone)
    searcher = simpipe.open_release(tmp_path)
    assert searcher.partition_rows[2] == 0
    found = searcher.lookup(vectors[:20], 500)
    assert found.ids.tolist() == nearest_oracle(vectors[:20], vectors, 500, gone)
    assert not searcher.is_loaded(2)


@pytest.mark.parametrize("as_items", [False, True])
def test_a_job_answers_as_the_searcher_does(tmp_path, as_items):
    vectors = clustered(500, dim=8)[0]
    make_release(tmp_path, vectors, spilled(vectors, 4), storage="float16")
    gone = [f"i{row}" for row in range(0, 500, 6)]
    hide(tmp_path, gone)
    names = [f"i{row}" for row in range(100)]
    columns = {"id": names, "label": pa.nulls(100, pa.string()), "embedding": vectors_column(vectors[:100])}
    if as_items:
        del columns["embedding"]
    pq.write_table(pa.table(columns), tmp_path / "q.parquet")
    spec = QuerySpec(str(tmp_path / "releases" / RELEASE), (str(tmp_path / "q.parquet"),), 7, exact_k=4, exact=True)
    (answer,) = answer_all(spec)
    asked = answer.queries.column("id").to_pylist()
    # A hidden row is no item: nothing is known of it but what the file holds.
    assert asked == [name for name in names if not as_items or name not in set(gone)]
    searcher = simpipe.open_release(tmp_path)
    own = searcher.vectors_of(asked) if as_items else vectors[:100]
    expected = searcher.lookup(own, 7, query_ids=asked, exact=True)
    assert answer.found.neighbors().ids.tolist() == expected.ids.tolist()
    assert answer.exact is not None
    assert answer.exact.neighbors().ids.tolist() == expected.ids[:, :4].tolist()


def test_hidden_files_are_checked(tmp_path):
    vectors = clustered(60, dim=4)[0]
    make_release(tmp_path, vectors, Router(2))
    hide(tmp_path, ["i3", "i4", "i5", "i6"])
    folder, manifest = releases.open_live(tmp_path)
    path = folder / hidden_file(0)
    rows, count = manifest.partitions[0].rows, manifest.partitions[0].hidden
    assert count
    assert len(read_hidden(path, hidden=count, rows=rows)) == count
    bad = [np.array([3, 2], np.int32), np.array([1, rows], np.int32), np.array([-1, 2], np.int32), np.array([1, 2], np.int64)]
    for number, values in enumerate([*bad, np.array([1], np.int32)]):
        np.save(tmp_path / f"{number}.npy", values)
        with pytest.raises(ContractError, match="ascending"):
            read_hidden(tmp_path / f"{number}.npy", hidden=2, rows=rows)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReleaseError, match="hidden"):
        simpipe.open_release(tmp_path).lookup(vectors[:2], 3, setting=SearchSetting())


def test_a_manifest_of_version_1_is_read(tmp_path):
    make_release(tmp_path, clustered(40, dim=4)[0], Router(2))
    folder, manifest = releases.open_live(tmp_path)
    raw = files.read_json(folder / MANIFEST_JSON)
    assert raw["format_version"] == 2, "an older reader would answer with hidden rows"
    raw["format_version"] = 1
    for part in raw["partitions"]:
        del part["hidden"]
    files.write_json(folder / MANIFEST_JSON, raw)
    assert Manifest.load(folder).partitions == manifest.partitions
    raw["format_version"] = 3
    files.write_json(folder / MANIFEST_JSON, raw)
    with pytest.raises(ReleaseError, match="reads 1 and 2"):
        Manifest.load(folder)
