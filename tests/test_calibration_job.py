"""The calibrate verb: what its files hold, against a plain computation over the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered

from pipelines import calibrate as verb
from pipelines.line import Line
from pipelines.queries import label_items, query_spec
from simpipe.arrow import pc
from simpipe.beam.calibrate import CollectCalibration, write_labels
from simpipe.beam.options import run_graph
from simpipe.calibration import PairCounts, calibrate, targets_of
from simpipe.calibration.counts import CalibrationCounts, CountSpec, count_answer
from simpipe.classification_metrics import METRICS as DEFAULT_METRICS
from simpipe.config import Config, parse_config
from simpipe.cutpoints import COMPARISON
from simpipe.embeddings import EmbeddingsInfo, vectors_column
from simpipe.errors import ConfigError, RejectedError
from simpipe.ids import holdout
from simpipe.index.query import answer_all
from simpipe.index.searcher import open_release
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.matchers import match_labels
from simpipe.probability import fit_probability
from simpipe.types import Neighbors

pytestmark = pytest.mark.usefixtures("undrawn")

METRICS = (*DEFAULT_METRICS, "open_set_fpr")
SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors whose labels are often those of their cluster, with a metadata column; one label is of queries only."""
    vectors, clusters = clustered(1500)
    rng = np.random.default_rng(4)
    labels = np.where(rng.random(1500) < 0.8, clusters, rng.integers(20, size=1500)).astype(str).astype(object)
    labels[rng.random(1500) < 0.05] = None
    site = np.array(SITES)[rng.choice(3, 1500, p=[0.5, 0.4, 0.1])]
    ids = [f"item-{row:05d}" for row in range(1500)]
    labels[holdout(ids, 0.25, seed=0) & (rng.random(1500) < 0.1)] = "stranger"
    table = {"id": ids, "label": pa.array(labels, pa.string()), "embedding": vectors_column(vectors), "site": site}
    path = tmp_path_factory.mktemp("items") / "x.parquet"
    pq.write_table(pa.table(table), path)
    return path


def config_of(root: Path, source: Path, **settings) -> Config:
    return parse_config(
        {
            "name": "job",
            "seed": 0,
            "root": str(root),
            "source": {"kind": "vectors", "path": str(source), "ids": "id", "labels": "label", "metadata": ["site"]},
            "queries": {"fraction": 0.25},
            "build": {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "exact"}},
            "search": {"target_recall": None, "block": 64},
            "calibrate": {"bootstrap": 20, **settings},
        }
    )


def line_of(config: Config) -> Line:
    line = Line(config, say=lambda text: None)
    line.embed()
    line.build()
    return line


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """A release that the tests calibrate one after the other."""
    root = tmp_path_factory.mktemp("run")
    line_of(config_of(root, source))
    return root


def calibrated(config: Config, key: str) -> tuple[Path, dict]:
    line = Line(config, say=lambda text: None)
    folder, _ = verb.run(config, release=line.release()[0], embeddings=line.embeddings[0], key=key)
    return folder, json.loads((folder / "cutpoints.json").read_text())


def asked(config: Config, folder: Path, splits: tuple[str, ...]) -> tuple[pa.Table, Neighbors]:
    """The labelled queries and their five neighbors, by a search in memory."""
    embeddings = Line(config, say=lambda text: None).embeddings[0]
    parts = [pq.read_table(embeddings / file.path) for file in EmbeddingsInfo.load(embeddings).of_splits(*splits)]
    table = pa.concat_tables(parts).filter(pc.field("label").is_valid())
    vectors = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    return table, open_release(folder).lookup(vectors, 5, query_ids=table["id"].to_pylist())


def counted(table: pa.Table, neighbors: Neighbors, matcher: str, k: int, rows=None) -> PairCounts:
    truth = table["label"].to_numpy(zero_copy_only=False)
    labels, distances = match_labels(neighbors.first(k), matcher)
    hits, opened = labels == truth, truth == "stranger"
    rows = slice(None) if rows is None else rows
    return PairCounts.of(distances[rows], hits[rows].astype(bool), open_set=opened[rows])


TARGETS = {"precision": (0.8, 0.99), "fpr": (0.2,), "open_set_fpr": (0.5,)}


def test_files_hold_what_a_plain_computation_gives(root, source):
    settings = {"targets": TARGETS, "optimal": ["precision"], "matchers": [{"matcher": "match_majority_vote", "k": 5}]}
    config = config_of(root, source, **settings)
    folder, record = calibrated(config, "plain")
    table, neighbors = asked(config, folder, ("query",))
    records = {"match_nearest@1": record, **record["matchers"]}
    assert list(records) == ["match_nearest@1", "match_majority_vote@5"]
    curves = pq.read_table(folder / "curves.parquet")
    shown = pq.read_table(folder / "distributions.parquet")
    for (name, found), thresholds in zip(
        records.items(), ("thresholds.parquet", "thresholds-match_majority_vote@5.parquet"), strict=True
    ):
        matcher, k = name.split("@")
        pairs = counted(table, neighbors, matcher, int(k))
        expected = calibrate(pairs, optimal=["precision"], targets=targets_of(TARGETS), bootstrap=20, seed=config.seed)
        assert found["cutpoints"] == json.loads(json.dumps(expected.cutpoints))
        assert found["unreached"] == [name.name for name in targets_of(TARGETS) if name.name not in expected.cutpoints]
        about = {"matcher": matcher, "k": int(k), "depth": 5, "metric": "f1", "comparison": COMPARISON}
        about |= {"labelled": len(table), "open_set": pairs.open_set, "distinct": len(pairs.distances), "dropped_bits": 0}
        about |= {"threshold_error": 0.0, "bootstrap": {"replicates": 20, "confidence": 0.95}}
        assert about.items() <= found.items()
        assert found["queries"] > found["labelled"] > found["open_set"] > 0
        stored = pq.read_table(folder / thresholds)
        assert stored.column_names == list(expected.thresholds)
        for column, values in expected.thresholds.items():
            assert np.array_equal(stored[column].to_numpy(), values)
        fitted = fit_probability(pairs, method="isotonic", seed=config.seed)
        assert fitted is not None
        assert found["probability"] == json.loads(json.dumps(fitted.to_json()))
        curve = curves.filter(pc.field("matcher") == name)
        assert {cut["distance"] for cut in found["cutpoints"].values()} <= set(curve["distance"].to_pylist())
        bars = shown.filter(pc.field("matcher") == name)
        assert [sum(bars[kind].to_pylist()) for kind in ("hits", "open")] == [pairs.hits.sum(), pairs.open.sum()]
    assert record["by"] is None
    assert Manifest.load(folder).has("thresholds-match_majority_vote@5.parquet")


@pytest.mark.parametrize("by", ["label", "site"])
def test_cutpoints_of_each_value(root, source, by):
    config = config_of(root, source, by=by, by_min_queries=15, targets={"precision": (0.8,)})
    folder, record = calibrated(config, f"by-{by}")
    table, neighbors = asked(config, folder, ("query",))
    values = (
        match_labels(neighbors.first(1), "match_nearest")[0] if by == "label" else table["site"].to_numpy(zero_copy_only=False)
    )
    found = pq.read_table(folder / "cutpoints_by.parquet").to_pylist()
    expected = []
    for value in sorted({value for value in values if value is not None}):
        pairs = counted(table, neighbors, "match_nearest", 1, values == value)
        if pairs.queries < 15 or not pairs.hits.sum():
            continue
        for name, cut in calibrate(pairs, targets=targets_of({"precision": (0.8,)}), metrics=METRICS).cutpoints.items():
            about = {"value": value, "cutpoint": name, "queries": pairs.queries, "hits": int(pairs.hits.sum())}
            expected.append({**{each: cut[each] for each in ("distance", *METRICS)}, **about})
    assert found == expected
    groups = len({row["value"] for row in expected})
    about = {"column": by, "groups": groups, "file": "cutpoints_by.parquet", "min_queries": 15}
    assert record["by"] == {**about, "dropped_bits": 0, "threshold_error": 0.0}
    assert groups >= 3


def test_a_calibration_leaves_nothing_of_the_one_before(root, source):
    more = {"matchers": [{"matcher": "match_majority_vote", "k": 3}], "by": "site"}
    folder, _ = calibrated(config_of(root, source, **more), "more")
    manifest = Manifest.load(folder)
    (folder / "metrics.json").write_text("{}")
    manifest.with_files(folder, ["metrics.json"], evaluate="x").save(folder)
    folder, record = calibrated(config_of(root, source, probability="none", bootstrap=0), "less")
    manifest = Manifest.load(folder)
    for name in ("metrics.json", "cutpoints_by.parquet", "thresholds-match_majority_vote@3.parquet"):
        assert not manifest.has(name)
        assert not (folder / name).exists()
    assert "evaluate" not in manifest.steps
    assert (record["probability"], record["bootstrap"], record["depth"]) == (None, None, 1)
    assert "interval" not in record["cutpoints"]["optimal"]
    assert pq.read_table(folder / "curves.parquet")["f1_low"].null_count > 0


def test_items_as_queries_leave_their_own_entries_out(root, source):
    config = config_of(root, source, queries="items")
    folder, record = calibrated(config, "items")
    table, neighbors = asked(config, folder, ("train", "index"))
    assert record["queries"] == Manifest.load(folder).items
    assert record["labelled"] == len(table)
    expected = calibrate(counted(table, neighbors, "match_nearest", 1), targets=targets_of(config.calibrate.targets))
    assert record["cutpoints"]["optimal"]["distance"] == expected.cutpoints["optimal"]["distance"]
    assert record["cutpoints"]["optimal"]["distance"] > 0
    _, fewer = calibrated(config_of(root, source, queries="items", max_queries=300), "some")
    assert 200 < fewer["queries"] < 400


def test_bounded_counts_state_their_error(root, source):
    folder, record = calibrated(config_of(root, source, matcher="match_majority_vote", k=2, max_distinct=1024), "exact")
    assert (record["dropped_bits"], record["threshold_error"]) == (0, 0.0)
    config = config_of(root, source)
    config = config.model_copy(update={"calibrate": config.calibrate.model_copy(update={"max_distinct": 50})})
    folder, record = calibrated(config, "bounded")
    stored = pq.read_table(folder / "thresholds.parquet")
    assert len(stored) == record["distinct"] <= 50
    table, neighbors = asked(config, folder, ("query",))
    exact = calibrate(counted(table, neighbors, "match_nearest", 1)).thresholds
    rows = np.searchsorted(exact["distance"], stored["distance"].to_numpy())
    for name, values in exact.items():
        assert np.array_equal(stored[name].to_numpy(), values[rows]), name
    kept = stored["distance"].to_numpy().astype(np.float64)
    gaps = kept[np.searchsorted(kept, exact["distance"])] - exact["distance"]
    assert 0 < gaps.max() <= record["threshold_error"]


def test_a_column_that_is_not_there_is_refused(root, source):
    with pytest.raises(ConfigError, match="no column 'shop'"):
        calibrated(config_of(root, source, by="shop"), "x")


def test_queries_without_labels_have_no_cutpoints(tmp_path):
    vectors, _ = clustered(300)
    table = {"id": [f"i{row}" for row in range(300)], "embedding": vectors_column(vectors)}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    config = config_of(tmp_path / "run", tmp_path / "x.parquet")
    source = config.source.model_copy(update={"labels": None, "metadata": ()})
    config = config.model_copy(update={"source": source})
    line_of(config)
    folder, record = calibrated(config, "none")
    assert (record["cutpoints"], record["labelled"], record["probability"]) == ({}, 0, None)
    assert record["queries"] > 0
    assert len(pq.read_table(folder / "thresholds.parquet")) == 0


def test_rejected_queries_are_counted_and_listed(root, source, monkeypatch):
    config = config_of(root, source)
    line = Line(config, say=lambda text: None)
    embeddings, manifest = line.embeddings[0], line.release()[1]
    (file,) = EmbeddingsInfo.load(embeddings).of_splits("query")
    table = pq.read_table(embeddings / file.path)
    vectors = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).copy()
    vectors[3] = np.nan
    altered = root / "altered.parquet"
    pq.write_table(table.set_column(table.column_names.index("embedding"), "embedding", vectors_column(vectors)), altered)
    spec = query_spec(config, line.release()[0], manifest, embeddings, k=1)
    monkeypatch.setattr(verb, "query_spec", lambda *_, **__: replace(spec, files=(str(altered),)))
    with pytest.raises(RejectedError, match="1 of "):
        calibrated(config, "rejects")
    (listed,) = (root / "calibrate" / "rejects").iterdir()
    assert "not-finite" in listed.read_text()
    allowed = config_of(root, source, rejects={"max_share": 0.1})
    assert calibrated(allowed, "allowed")[1]["queries"] == len(table) - 1


def test_the_transform_writes_the_counts_of_all_blocks(tmp_path, root, source):
    config = config_of(root, source)
    line = Line(config, say=lambda text: None)
    spec = query_spec(config, *line.release(), line.embeddings[0], k=3, columns=("site",))
    answers = list(answer_all(spec))
    wanted = CountSpec((("match_nearest", 1), ("match_majority_vote", 3)), by="site", max_distinct=64)
    known = label_items(*line.release()).column("label").combine_chunks()
    assert "stranger" not in known.to_pylist()
    assert len(known) == 20
    write_labels(known, tmp_path / "labels.parquet")
    collect = CollectCalibration(wanted, str(tmp_path / "labels.parquet"), str(tmp_path / "counts.npz"))
    run_graph(lambda pipeline: pipeline | beam.Create(answers[::-1]) | collect, job_of(None, "calibrate"))
    found = CalibrationCounts.load(tmp_path / "counts.npz")
    expected = CalibrationCounts.merge([count_answer(answer, wanted, known) for answer in answers], max_distinct=64)
    assert found.pairs.keys() == expected.pairs.keys()
    for one, other in zip([*found.pairs.values(), found.groups], [*expected.pairs.values(), expected.groups], strict=True):
        for name in ("distances", "hits", "total", "open"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
        assert one.dropped_bits == other.dropped_bits > 0
    assert (found.queries, found.open_set) == (expected.queries, expected.open_set)
