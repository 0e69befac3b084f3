"""Building an index through the line: every router and backend, recall as promised, resume, memory, columns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from line_runs import run

import simpipe
from pipelines import build
from simpipe import releases
from simpipe.config import Config, parse_config
from simpipe.embeddings import vectors_column
from simpipe.errors import ConfigError
from simpipe.index.distance import prepare
from simpipe.index.profile import PROFILE_JSON, Profile
from simpipe.index.searcher import Searcher
from simpipe.types import Neighbors

N, DIM, K = 6000, 16, 10
COUNTRIES = ("de", "fr", "it", "se")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Parquet of 6,000 vectors with a metadata column, one value of which holds more than half of the items."""
    folder = tmp_path_factory.mktemp("items")
    vectors, labels = clustered(N, dim=DIM, clusters=60)
    country = np.array(COUNTRIES)[np.random.default_rng(1).choice(4, N, p=[0.6, 0.2, 0.15, 0.05])]
    ids = [f"item-{row:05d}" for row in range(N)]
    table = {"id": ids, "label": labels.astype(str), "embedding": vectors_column(vectors), "country": country}
    pq.write_table(pa.table(table), folder / "x.parquet")
    return folder / "x.parquet"


def config_of(root: Path, source: Path, **changes) -> Config:
    raw = {
        "name": "index",
        "root": str(root),
        "source": {"kind": "vectors", "path": str(source), "ids": "id", "labels": "label", "metadata": ["country"]},
        "queries": {"fraction": 0.1},
        "report": {"projection_items": 60},
    }
    return parse_config({**raw, **changes})


def built(config: Config) -> tuple[Path, Searcher]:
    """A release, without calibration."""
    from pipelines.line import Line

    line = Line(config, say=lambda text: None)
    line.embed()
    folder, manifest = line.build()
    return folder, Searcher(folder, manifest)


def fresh(n: int = 400) -> np.ndarray:
    """Queries by the law of the items; no build has seen them."""
    rng = np.random.default_rng(99)
    items, _ = clustered(N, dim=DIM, clusters=60)
    return items[rng.choice(N, n, replace=False)] + 0.25 * rng.normal(size=(n, DIM)).astype(np.float32)


def recall(found: Neighbors, exact: Neighbors) -> float:
    """Share of the exact distances that were reached: equal ones stand for each other."""
    return float((found.distances <= exact.distances[:, -1:] + 1e-6).mean())


SPLITS = {
    "auto": ({"kind": "auto", "partitions": 6}, {"kind": "scann", "exact_below": 100}),
    "packed": (
        {"kind": "packed", "partitions": 12, "spill": "nearest"},
        {"kind": "scann", "exact_below": 100, "scoring": "hash"},
    ),
    "kmeans": ({"kind": "kmeans", "partitions": 12, "spill": "soar"}, {"kind": "nmslib", "exact_below": 100}),
    "hash": ({"kind": "hash", "partitions": 3}, {"kind": "scann", "exact_below": 100}),
}


@pytest.mark.parametrize("name", list(SPLITS))
def test_promises_are_kept_and_no_item_comes_twice(tmp_path, source, name):
    router, backend = SPLITS[name]
    folder, searcher = built(config_of(tmp_path, source, build={"router": router, "backend": backend}))
    manifest, queries = searcher.manifest, fresh()
    assert len(manifest.partitions) == router["partitions"]
    rows = sum(part.rows for part in manifest.partitions)
    assert (rows > manifest.items) == (manifest.router.get("spill", "none") != "none"), "spilled copies are rows, not items"
    exact = searcher.lookup(queries, K, exact=True)
    items = np.concatenate([searcher.partition(part.partition).vectors[:] for part in manifest.partitions])
    distances = 1.0 - prepare(queries, "cosine") @ np.unique(items, axis=0).T
    np.testing.assert_allclose(exact.distances, np.sort(distances, axis=1)[:, :K], atol=1e-5)
    profile = Profile.load(folder / PROFILE_JSON)
    assert profile.source == "queries"
    for target in (0.9, 0.95):
        found = searcher.lookup(queries, K, target_recall=target)
        assert all(len(set(row)) == K for row in found.ids.tolist())
        # 400 queries of each side differ by chance, by two standard errors of about 0.005 each.
        assert recall(found, exact) >= target - 0.02
    if name != "hash":
        assert profile.point_for(0.9).probes < 0.8 * router["partitions"], "a query asks some partitions only"


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_rounded_vectors_show_their_cost(tmp_path, source, storage):
    settings = {"router": {"kind": "packed", "partitions": 3}, "backend": {"kind": "exact"}, "storage": storage}
    folder, searcher = built(config_of(tmp_path, source, build=settings))
    best = Profile.load(folder / PROFILE_JSON).best.recall
    assert (0.999 if storage == "float16" else 0.9) < best <= 1.0
    assert best == 1.0 or storage == "float16" or best < 0.9999
    stored = searcher.folder / "partitions/00000/vectors.npy"
    assert np.load(stored, mmap_mode="r").dtype == storage
    assert searcher.lookup(fresh(5), K).ids.shape == (5, K)


def test_a_killed_build_keeps_finished_partitions(tmp_path, source, monkeypatch):
    config = config_of(tmp_path, source, build={"router": {"kind": "packed", "partitions": 12}, "backend": {"kind": "exact"}})
    monkeypatch.setattr(build, "_finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        built(config)
    monkeypatch.undo()
    (folder,) = releases.releases_folder(tmp_path).glob("*Z-*")
    parts = sorted((folder / "partitions").iterdir())
    assert len(parts) == 12
    before = {path: path.stat().st_mtime_ns for path in folder.glob("partitions/*/*")}
    shutil.rmtree(parts[7])
    (folder / "measures" / "00003.npz").unlink()
    again, searcher = built(config)
    assert again == folder
    after = {path: path.stat().st_mtime_ns for path in folder.glob("partitions/*/*")}
    assert set(after) == set(before)
    assert {path.parent.name for path in before if before[path] != after[path]} == {"00007"}
    assert Profile.load(folder / PROFILE_JSON).best.recall == 1.0
    assert searcher.lookup(fresh(20), K, exact=True).ids.tolist() == searcher.lookup(fresh(20), K, probes=12).ids.tolist()


def test_a_partition_beyond_its_memory_is_refused(tmp_path, source):
    wide = pq.read_table(source)
    vectors = np.random.default_rng(0).normal(size=(N, 2048)).astype(np.float32)
    pq.write_table(wide.set_column(2, "embedding", vectors_column(vectors)), tmp_path / "wide.parquet")
    settings = {"router": {"kind": "hash", "partitions": 1}, "backend": {"kind": "exact"}, "partition_memory_mib": 16}
    with pytest.raises(ConfigError, match=r"partition 0 has 5,\d+ rows and takes about \d+ MiB to build"):
        built(config_of(tmp_path / "root", tmp_path / "wide.parquet", build=settings))
    fits = {**settings, "router": {"kind": "auto"}}
    _, searcher = built(config_of(tmp_path / "root", tmp_path / "wide.parquet", build=fits))
    assert len(searcher.manifest.partitions) > 4, "the planner takes as many as fit"


def test_a_column_routes_and_where_asks_its_value_only(tmp_path, source):
    settings = {"router": {"kind": "column", "column": "country"}, "backend": {"kind": "exact"}}
    _, searcher = built(config_of(tmp_path, source, build=settings))
    assert len(searcher.manifest.partitions) == 4
    country = dict(zip(*(pq.read_table(source).column(name).to_pylist() for name in ("id", "country")), strict=True))
    queries = fresh(40)
    everywhere = searcher.lookup(queries, K)
    assert {country[name] for name in everywhere.ids.ravel()} > {"de", "fr"}
    swedish = searcher.lookup(queries, K, where="se")
    assert {country[name] for name in swedish.ids.ravel()} == {"se"}
    wanted = list(np.array(COUNTRIES)[np.arange(40) % 4])
    each = searcher.lookup(queries, K, where=wanted)
    assert [{country[name] for name in row} for row in each.ids.tolist()] == [{value} for value in wanted]
    assert not searcher.lookup(queries, K, where="xx").valid.any()


def test_a_column_that_is_not_there_is_refused(tmp_path, source):
    settings = {"router": {"kind": "column", "column": "city"}}
    with pytest.raises(ConfigError, match="'city' is no metadata column of the embeddings"):
        built(config_of(tmp_path, source, build=settings))


def test_the_line_shows_profile_and_planner(tmp_path, source, capsys):
    config = config_of(tmp_path, source, build={"router": {"kind": "auto", "partitions": 6}})
    line, _ = run(config)
    folder, manifest = line.release()
    assert manifest.has(PROFILE_JSON)
    assert {"router", "partitions", "probes"} <= set(manifest.router["planner"]["candidates"][0])
    report = (folder / "report.html").read_text()
    assert 'id="search"' in report
    assert "What the planner measured" in report
    assert simpipe.open_release(tmp_path).profile == Profile.load(folder / PROFILE_JSON)
    assert json.loads((folder / PROFILE_JSON).read_text())["k"] == K
