"""The searcher: fan out and merge against brute force, spilled copies, cache, damage, threads, queries that are refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from release_maker import EXACT, RELEASE, make_release

import simpipe
from simpipe import files
from simpipe.config.index import KMeansRouter, NmslibBackend, ScannBackend
from simpipe.errors import ContractError, IncompatibleError, QueryError, ReleaseError, SimpipeError
from simpipe.ids import hash_ids
from simpipe.index.distance import between, prepare
from simpipe.index.fan_out import fan_out
from simpipe.index.partitions import Partition, in_memory
from simpipe.index.profile import PROFILE_JSON, Profile, ProfilePoint
from simpipe.index.router import Router, fit_router
from simpipe.index.rows import Rows, names_of
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.stored import decoded, encode
from simpipe.manifest import Manifest
from tests.fake_gcs import serving


def oracle(queries: np.ndarray, vectors: np.ndarray, k: int, distance: str = "euclidean") -> list[list[str]]:
    """Ids by (distance, hash of the id), query by query."""
    tie = hash_ids([f"i{row}" for row in range(len(vectors))])
    answers = []
    for query in queries:
        distances = between(query[None], vectors[None], distance)[0]
        order = np.lexsort((tie, distances))[:k]
        answers.append([f"i{row}" for row in order])
    return answers


def spilled(vectors: np.ndarray, partitions: int) -> Router:
    config = KMeansRouter(kind="kmeans", partitions=partitions, spill="nearest", spill_factor=1.6)
    return fit_router(vectors, config, seed=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([1, 2, 11, 64]), st.integers(0, 10_000), st.booleans())
def test_any_partitions_with_copies_equal_one_exact_index(n, k, partitions, seed, many):
    """Few distinct vectors (ties everywhere), items in up to three partitions; with and without threads."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 3, size=(n, 2)).astype(np.float32)
    queries = rng.integers(0, 3, size=(90 if many else 3, 2)).astype(np.float32)
    member = rng.random((n, partitions)) < 0.3 / partitions
    member[np.arange(n), rng.integers(partitions, size=n)] = True
    parts = []
    for number in range(partitions):
        rows = np.flatnonzero(member[:, number])
        table, order = Rows.sort([f"i{row}" for row in rows], ["x"] * len(rows))
        part = in_memory(table, vectors[rows][order], EXACT, distance="euclidean")
        parts.append(Partition(part.rows, part.vectors, part.backend, "euclidean", number))
    filled = np.broadcast_to(member.any(axis=0), (len(queries), partitions))
    found = fan_out(queries, min(k, n), filled, parts.__getitem__, setting=ALL, exact=True)
    assert names_of(found.tables, found.place)[0].tolist() == oracle(queries, vectors, k)


@pytest.mark.parametrize("partitions", [1, 2, 11, 64])
def test_exact_search_of_a_release_equals_numpy(tmp_path, partitions):
    vectors, _ = clustered(700, dim=4)
    vectors = np.round(vectors)  # ties
    members = make_release(tmp_path, vectors, spilled(vectors, partitions))
    searcher = simpipe.open_release(tmp_path, verify=True)
    assert searcher.items == 700
    if len(members) > 1:
        assert sum(map(len, members)) > 700, "some items lie in two partitions"
    queries = np.round(clustered(150, dim=4, seed=3)[0])
    for k in (1, 10, 699, 700, 5000):
        expected = oracle(queries, vectors, k)
        for how in ({"exact": True}, {}):
            found = searcher.lookup(queries, k, **how)
            assert found.ids.tolist() == expected
            assert found.labels[0].tolist() == [None if int(i[1:]) % 7 == 0 else f"l{int(i[1:]) % 5}" for i in expected[0]]
    one = searcher.lookup(queries[3], 10)
    assert one.ids.tolist() == oracle(queries[3:4], vectors, 10), "a block of one"
    assert one.distances.tobytes() == searcher.lookup(queries, 10).distances[3:4].tobytes(), "to the bit"
    assert searcher.lookup(np.empty((0, 4), np.float32), 3).ids.shape == (0, 3)


def test_a_query_gets_k_items_and_none_twice_at_few_probes(tmp_path):
    vectors, _ = clustered(2000)
    router = spilled(vectors, 8)
    members = make_release(tmp_path, vectors, router)
    searcher = simpipe.open_release(tmp_path)
    queries = clustered(300, seed=5)[0]
    assert np.isfinite(searcher.lookup(queries, 1500, probes=1).distances).all(), "k come back if there are k"
    for probes in (1, 2, 3):
        found = searcher.lookup(queries, 10, probes=probes)
        asked = router.ask(queries, SearchSetting(probes=probes))
        for row, query in enumerate(queries):
            rows = np.unique(np.concatenate([members[number] for number in np.flatnonzero(asked[row])]))
            near = rows[np.argsort(between(query[None], vectors[None, rows], "euclidean")[0])[:10]]
            assert found.ids[row].tolist() == [f"i{item}" for item in near]


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "inner_product"])
def test_stored_vectors_are_what_distances_are_of(tmp_path, storage, distance):
    vectors = prepare(clustered(900)[0], distance)
    make_release(tmp_path, vectors, Router(1), distance=distance, storage=storage)
    searcher = simpipe.open_release(tmp_path)
    data, scale = encode(vectors, storage)
    kept = decoded(data, scale, distance)[:]
    queries = prepare(clustered(40, seed=2)[0], distance)
    assert searcher.lookup(queries, 5).ids.tolist() == oracle(queries, kept, 5, distance)
    assert np.array_equal(searcher.vectors_of(["i7", "i3", "i7"]), kept[[7, 3, 7]])
    plain = oracle(queries, vectors, 5, distance)
    found = searcher.lookup(queries, 5).ids.tolist()
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, plain, strict=True)]) > 0.85


def test_int8_copies_in_several_partitions_come_once(tmp_path):
    vectors, _ = clustered(1000)
    make_release(tmp_path, vectors, spilled(vectors, 5), storage="int8")
    found = simpipe.open_release(tmp_path).lookup(vectors[:200], 20)
    assert all(len(set(row)) == 20 for row in found.ids)
    assert (found.ids[:, 0] == [f"i{row}" for row in range(200)]).mean() > 0.95


@pytest.mark.parametrize("backend", [NmslibBackend(kind="nmslib", exact_below=1), ScannBackend(kind="scann", exact_below=16)])
def test_ann_backends_answer_in_threads_as_alone(tmp_path, backend):
    vectors = prepare(clustered(3000)[0], "cosine")
    make_release(tmp_path, vectors, spilled(vectors, 3), distance="cosine", backend=backend)
    searcher = simpipe.open_release(tmp_path)
    queries = prepare(clustered(400, seed=4)[0], "cosine")
    whole = searcher.lookup(queries, 10)
    truth = searcher.lookup(queries, 10, exact=True)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(whole.ids, truth.ids, strict=True)]) > 0.98
    same = whole.ids == truth.ids
    assert np.array_equal(whole.distances[same], truth.distances[same]), "one distance whatever found it, to the bit"
    blocks = [queries[first : first + 50] for first in range(0, 400, 50)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda block: searcher.lookup(block, 10).ids, blocks))
    assert np.concatenate(parts).tolist() == whole.ids.tolist()
    names = [path.relative_to(tmp_path).name for path in Path(tmp_path).rglob("*.npy")]
    if backend.kind == "scann":
        assert "vectors.npy" not in names, "ScaNN's own file holds the same bytes: one is kept"


def test_a_small_cache_answers_the_same(tmp_path):
    vectors, _ = clustered(1500)
    make_release(tmp_path, vectors, spilled(vectors, 9))
    roomy, tight = simpipe.open_release(tmp_path), simpipe.open_release(tmp_path, cache_bytes=1)
    queries = clustered(200, seed=8)[0]
    expected = roomy.lookup(queries, 7)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: tight.lookup(queries, 7), range(6)):
            assert found.ids.tolist() == expected.ids.tolist()
    assert len(roomy._partitions) == 9
    assert len(tight._partitions) == 1
    two = simpipe.open_release(tmp_path, cache_bytes=2 * max(roomy._partitions._size(number) for number in range(9)))
    two.lookup(queries, 7)
    assert len(two._partitions) >= 2
    assert two._partitions.bytes <= two._partitions.limit


def test_opening_reads_no_partition(tmp_path):
    vectors, _ = clustered(300)
    make_release(tmp_path, vectors, spilled(vectors, 4))
    for path in tmp_path.rglob("partitions/*/*"):
        path.unlink()
    searcher = simpipe.open_release(tmp_path)
    assert searcher.items == 300
    with pytest.raises(ReleaseError, match="missing"):
        searcher.lookup(vectors[:1])


@pytest.mark.parametrize("name", ["rows.arrow", "vectors.npy", "backend.json", "nmslib.hnsw"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_damaged_files_are_named_before_a_library_loads_them(tmp_path, monkeypatch, name, harm):
    vectors = prepare(clustered(600)[0], "cosine")
    make_release(tmp_path, vectors, Router(1), distance="cosine", backend=NmslibBackend(kind="nmslib", exact_below=1))
    (path,) = tmp_path.rglob(f"partitions/00000/{name}")
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    monkeypatch.setattr(Partition, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ReleaseError, match=name) as error:
        simpipe.open_release(tmp_path).lookup(vectors[:2])
    assert error.value.cure


def test_rows_and_vectors_that_disagree_are_refused(tmp_path):
    vectors, _ = clustered(50)
    make_release(tmp_path, vectors, Router(1))
    (folder,) = tmp_path.rglob("partitions/00000")
    for kept, dim in (("int8", 16), ("float32", 15)):
        with pytest.raises(ContractError, match=r"vectors\.npy"):
            Partition.load(folder, "exact", distance="euclidean", dim=dim, params={}, storage=kept)
    (folder / "rows.arrow").write_bytes(b"nothing")
    with pytest.raises(ContractError, match=r"rows\.arrow: no rows"):
        Partition.load(folder, "exact", distance="euclidean", dim=16, params={})


def test_bad_queries_are_refused(tmp_path):
    vectors, _ = clustered(60)
    make_release(tmp_path, vectors, Router(1), distance="cosine")
    searcher = simpipe.open_release(tmp_path)
    good = vectors[:3].copy()
    for value, what in ((np.nan, "NaN"), (np.inf, "NaN or infinite"), (0.0, "zero norm")):
        bad = good.copy()
        bad[1] = value
        with pytest.raises(QueryError, match=f"query row 1 holds {what}|query row 1 has {what}"):
            searcher.lookup(bad)
    with pytest.raises(IncompatibleError, match="dim 5"):
        searcher.lookup(good[:, :5])
    for how, what in (
        ({"k": 0}, "k is 0"),
        ({"probes": 0}, "probes is 0"),
        ({"probes": 1, "target_recall": 0.9}, "exclude each other"),
        ({"target_recall": 0.9}, "no search profile"),
        ({"where": "a"}, "routed by a column"),
    ):
        with pytest.raises(QueryError, match=what):
            searcher.lookup(good, **how)
    assert searcher.lookup(good, 1, query_ids=["i0", "x", "i2"]).ids[0, 0] != "i0"


def test_the_profile_says_how_to_ask(tmp_path):
    vectors, _ = clustered(800)
    make_release(tmp_path, vectors, spilled(vectors, 6))
    folder = tmp_path / "releases" / RELEASE
    curve = tuple(
        ProfilePoint(recall, recall, probes, probes * 10.0, SearchSetting(probes=probes))
        for probes, recall in ((1, 0.8), (3, 0.95))
    )
    Profile(10, 100, "items", {0.95: curve[1]}, curve).save(folder / PROFILE_JSON)
    Manifest.load(folder).with_files(folder, [PROFILE_JSON]).save(folder)
    searcher = simpipe.open_release(folder)
    queries = clustered(50, seed=1)[0]
    for target, probes in ((0.7, 1), (0.95, 3)):
        assert searcher.setting_for(target_recall=target) == SearchSetting(probes=probes)
        asked = searcher.lookup(queries, 5, target_recall=target), searcher.lookup(queries, 5, probes=probes)
        assert asked[0].ids.tolist() == asked[1].ids.tolist()
    assert searcher.default_setting == SearchSetting(probes=3), "0.99 is out of reach: the best there is"
    with pytest.raises(QueryError, match=r"0\.99: the release reaches 0\.9500"):
        searcher.lookup(queries, 5, target_recall=0.99)


def test_metadata_is_joined_for_the_neighbors_only(tmp_path):
    vectors, _ = clustered(120)
    make_release(tmp_path, vectors, spilled(vectors, 3))
    searcher = simpipe.open_release(tmp_path)
    found = searcher.lookup(vectors[:9], 4)
    numbers = searcher.metadata(found).column("number").to_pylist()
    assert numbers == [int(name[1:]) for name in simpipe.neighbors_table(found).column("id").to_pylist()]
    assert searcher.metadata(searcher.lookup(vectors[:0])).num_rows == 0
    with pytest.raises(QueryError, match="no metadata column 'size'"):
        searcher.metadata(found, ["size"])
    with pytest.raises(SimpipeError, match="id 'nobody' is not in"):
        searcher.items_of(["i3", "nobody"])


def test_search_gives_places_that_partitions_resolve(tmp_path):
    vectors, _ = clustered(400)
    make_release(tmp_path, vectors, spilled(vectors, 4))
    searcher = simpipe.open_release(tmp_path)
    top = searcher.search(vectors[:20], 3)
    ids = [[searcher.partition(place >> 32).ids[place & 0xFFFFFFFF] for place in row] for row in top.place.tolist()]
    assert ids == searcher.lookup(vectors[:20], 3).ids.tolist()
    assert np.array_equal(top.tie, hash_ids(np.concatenate(ids).tolist()).reshape(20, 3))


# --- gs:// -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A published release of three partitions under `gs://bucket/data`, its vectors, and the server."""
    root = tmp_path / "gcs" / "bucket" / "data"
    vectors = prepare(clustered(900)[0], "cosine")
    backend = ScannBackend(kind="scann", exact_below=16)
    make_release(root, vectors, spilled(vectors, 3), distance="cosine", backend=backend)
    # A lease on a disk is a file where one on gs:// is a prefix: the server, on a disk, cannot hold both.
    shutil.rmtree(root / ".leases", ignore_errors=True)
    with serving(tmp_path / "gcs") as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        monkeypatch.setattr("simpipe.gcs.DEADLINE", 20.0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield root, vectors, fake


def test_a_release_on_gcs_answers_as_a_local_one_and_is_downloaded_once(bucket, tmp_path):
    root, _, fake = bucket
    queries = prepare(clustered(80, seed=6)[0], "cosine")
    shutil.copytree(root, tmp_path / "local")
    local, remote = simpipe.open_release(tmp_path / "local"), simpipe.open_release("gs://bucket/data")
    assert {name.rpartition("/")[2] for name in fake.sent} == {"live.json", "manifest.json", "router.npz"}
    found, expected = remote.lookup(queries, 6), local.lookup(queries, 6)
    assert found.ids.tolist() == expected.ids.tolist()
    assert np.array_equal(found.distances, expected.distances)
    assert remote.metadata(found).equals(local.metadata(expected))
    assert np.array_equal(remote.vectors_of(["i5"]), local.vectors_of(["i5"]))
    for uri, release in (("gs://bucket/data/", RELEASE), (f"gs://bucket/data/releases/{RELEASE}", None)):
        before = len(fake.sent)
        again = simpipe.open_release(uri, release, verify=True)
        assert again.lookup(queries, 6).ids.tolist() == expected.ids.tolist()
        again = {name.rpartition("/")[2] for name in fake.sent[before:]}
        assert again <= {"live.json", "manifest.json", "backend.json"}, "small files that are read at once"
    kept = list((tmp_path / "cache" / "simpipe" / "objects").glob("*/*/*"))
    assert {files.sha256_file(path) for path in kept} >= {entry.sha256 for entry in remote.manifest.files}


def test_several_processes_may_fill_one_cache(bucket, tmp_path):
    root, vectors, _ = bucket
    code = (
        "import sys, numpy as np, simpipe\n"
        "found = simpipe.open_release('gs://bucket/data', cache_dir=sys.argv[1]).lookup(np.load(sys.argv[2]), 4)\n"
        "print(found.ids.tolist())"
    )
    np.save(tmp_path / "q.npy", vectors[:5])
    command = [sys.executable, "-c", code, str(tmp_path / "shared"), str(tmp_path / "q.npy")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [(text.strip(), run.returncode, errors) for run in runs for text, errors in [run.communicate()]]
    assert [(code, errors) for _, code, errors in said if code] == []
    assert [text for text, _, _ in said] == [str(simpipe.open_release(root).lookup(vectors[:5], 4).ids.tolist())] * 2
    assert not list((tmp_path / "shared").rglob("new/*"))


def test_damage_on_gcs_and_in_its_cache(bucket, tmp_path):
    root, vectors, _ = bucket
    expected = simpipe.open_release("gs://bucket/data").lookup(vectors[:9], 3).ids.tolist()
    victim = root / "releases" / RELEASE / "partitions" / "00001" / "rows.arrow"
    good = victim.read_bytes()
    (cached,) = (path for path in (tmp_path / "cache").rglob("rows.arrow") if path.read_bytes() == good)
    for damage in (cached.read_bytes()[:-1], b"x" * cached.stat().st_size):
        cached.write_bytes(damage)
        assert simpipe.open_release("gs://bucket/data").lookup(vectors[:9], 3).ids.tolist() == expected
    for damage, what in ((good[:-1], "bytes"), (good[:-1] + bytes([good[-1] ^ 1]), "SHA-256")):
        victim.write_bytes(damage)
        fresh = simpipe.open_release("gs://bucket/data", cache_dir=tmp_path / what)
        with pytest.raises(ReleaseError, match=rf"gs://bucket/data/releases/.*rows\.arrow: .*{what}"):
            fresh.lookup(vectors, 3)
    victim.unlink()
    with pytest.raises(SimpipeError, match=r"gs://bucket/data/releases/.*rows\.arrow"):
        simpipe.open_release("gs://bucket/data", cache_dir=tmp_path / "third").lookup(vectors, 3)


def test_nothing_published_on_gcs_is_said_with_the_address(bucket):
    root, _, _ = bucket
    with pytest.raises(ReleaseError, match="gs://bucket/data/releases/20200101T000000Z-abcdef: no such release"):
        simpipe.open_release("gs://bucket/data", "20200101T000000Z-abcdef")
    (root / "live.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"gs://bucket/data/live\.json: damaged"):
        simpipe.open_release("gs://bucket/data")
    (root / "live.json").unlink()
    with pytest.raises(ReleaseError, match="gs://bucket/data: nothing is published"):
        simpipe.open_release("gs://bucket/data")
