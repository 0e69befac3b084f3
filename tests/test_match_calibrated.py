"""From calibration to match: what a release counted at a cutpoint is what it accepts, whatever the blocks of queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered

import simpipe
from pipelines.line import Line
from simpipe import files
from simpipe.arrow import pc
from simpipe.config import parse_config
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.index.searcher import Searcher
from simpipe.matchers import match_labels

VOTE = "match_majority_vote@5"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> tuple[Searcher, np.ndarray, list[str], np.ndarray]:
    """A release with an approximate index, and its calibration queries: vectors, ids, labels."""
    folder: Path = tmp_path_factory.mktemp("calibrated")
    vectors, labels = clustered(2000)
    vectors += np.random.default_rng(5).normal(size=vectors.shape).astype(np.float32) * 0.6
    columns = {"x": vectors, "ids": np.array([f"item-{row:04d}" for row in range(2000)])}
    for name, values in {**columns, "labels": np.array([f"c{label}" for label in labels])}.items():
        np.save(folder / f"{name}.npy", values)
    source = {"kind": "vectors", **{key: str(folder / f"{name}.npy") for key, name in (("ids", "ids"), ("labels", "labels"))}}
    settings = {"matchers": [{"matcher": "match_majority_vote", "k": 5}], "by": "label", "by_min_queries": 8, "bootstrap": 0}
    raw = {
        "name": "calibrated",
        "root": str(folder / "root"),
        "source": {**source, "path": str(folder / "x.npy")},
        "build": {"router": {"kind": "kmeans", "partitions": 4}, "backend": {"kind": "nmslib"}},
        "calibrate": settings,
    }
    line = Line(parse_config(raw), say=lambda text: None)
    line.embed()
    line.build()
    line.calibrate()
    info = EmbeddingsInfo.load(line.embeddings[0])
    table = pa.concat_tables([pq.read_table(files.inside(line.embeddings[0], file.path)) for file in info.of_splits("query")])
    truth = table.column("label").to_numpy(zero_copy_only=False)
    return simpipe.open_release(line.release()[0]), vectors_of(table), table.column("id").to_pylist(), truth


@pytest.mark.parametrize("matcher", [None, VOTE])
@pytest.mark.parametrize(("block", "named"), [(1000, True), (1000, False), (7, True), (1, False)])
def test_every_cutpoint_accepts_what_calibration_counted(calibrated, matcher, block, named):
    searcher, queries, ids, truth = calibrated
    record = searcher.calibration() if matcher is None else searcher.calibration()["matchers"][matcher]
    assert record["probability"]["queries"] == len(queries)
    found = searcher.lookup(queries, 6).first(record["k"])
    for name, cut in record["cutpoints"].items():
        labels, predicted = [], []
        for first in range(0, len(queries), block):
            rows = slice(first, first + block)
            got = searcher.match(queries[rows], name, query_ids=ids[rows] if named else None, matcher=matcher)
            labels += got.labels.tolist()
            predicted.append(got.probabilities)
        near, right = np.array([label is not None for label in labels]), np.array(labels, object) == truth
        assert cut["precision"] == right[near].mean()
        assert cut["binary_accuracy"] == right.mean()
        # A least-squares fit keeps the mean: over its own queries it is the share of right labels.
        derived, _ = match_labels(found, record["matcher"])
        assert np.concatenate(predicted).mean() == pytest.approx((derived == truth).mean())


def test_labels_have_the_cutpoints_that_were_made_of_their_matches(calibrated):
    searcher, queries, _, truth = calibrated
    table = searcher.group_cutpoints()
    assert table is not None
    labels = searcher.lookup(queries, 6).labels[:, 0]
    checked = 0
    for name in searcher.cutpoints:
        found = searcher.match(queries, name, by_group=True)
        for row in table.filter(pc.equal(table.column("cutpoint"), name)).to_pylist():
            own = labels == row["value"]
            assert row["queries"] == own.sum()
            assert row["hits"] == (own & (truth == row["value"])).sum()
            assert (found.limits[own] == np.float32(row["distance"])).all()
            near = own & (found.labels == row["value"])
            assert row["precision"] == (truth[near] == row["value"]).mean()
            checked += 1
    assert checked > 20
