"""A data set without held-out queries: the indexed items are asked, each without its own entry, against brute force."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered
from pydantic import ValidationError

from pipelines.line import Line
from simpipe import files, releases
from simpipe.config import Config, parse_config
from simpipe.config.measure import DedupeConfig
from simpipe.errors import SimpipeError

N = 400


def config_of(folder: Path, **steps: object) -> Config:
    source = {
        "kind": "vectors",
        "path": str(folder / "x.npy"),
        "labels": str(folder / "labels.npy"),
        "ids": str(folder / "ids.npy"),
    }
    return parse_config(
        {
            "name": "items",
            "root": str(folder / "root"),
            "source": source,
            "queries": {"fraction": 0.0},
            "build": {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "exact"}},
            "search": {"target_recall": None, "block": 50},
            **steps,
        }
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The line over vectors of few classes, half of the labels by chance; two items are alone with their label."""
    folder = tmp_path_factory.mktemp("items")
    vectors, clusters = clustered(N, clusters=5)
    rng = np.random.default_rng(2)
    labels = np.where(rng.random(N) < 0.5, clusters, rng.integers(5, size=N)).astype(str).astype(object)
    labels[[7, 300]] = "alone", "alone too"
    for name, values in (("x", vectors), ("labels", labels.astype(str)), ("ids", np.array([f"i{row}" for row in range(N)]))):
        np.save(folder / f"{name}.npy", values)
    line = Line(config_of(folder, calibrate={"queries": "items"}, evaluate={"queries": "items", "k": 4}), say=lambda text: None)
    line.run()
    cosines = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = 1 - cosines @ cosines.T
    np.fill_diagonal(distances, np.inf)
    return line, labels, np.argsort(distances, axis=1)


def test_metrics_are_those_of_brute_force_without_own_entries(ran):
    line, labels, order = ran
    record = files.read_json(line.release()[0] / "metrics.json")
    hits = labels[order] == labels[:, None]
    assert (record["queries"], record["labelled"], record["asked"]) == (N, N, "items")
    assert record["metrics"]["label_precision_at_1"] == pytest.approx(hits[:, 0].mean(), abs=1e-9)
    assert record["metrics"]["label_precision_at_4"] == pytest.approx(hits[:, :4].mean(), abs=1e-9)
    assert record["metrics"]["ann_recall_at_4"] == 1.0
    others = np.array([(labels == label).sum() - 1 for label in labels])
    precise = np.cumsum(hits, axis=1) / np.arange(1, N + 1)
    first = np.arange(N) < np.minimum(others, 100)[:, None]
    by_hand = (hits * precise * first).sum(axis=1) / np.maximum(np.minimum(others, 100), 1)
    assert record["metrics"]["map_at_r"] == pytest.approx(by_hand.mean(), abs=1e-9), "R without the query itself"


def test_an_item_that_is_alone_with_its_label_is_open_set(ran):
    line, labels, order = ran
    folder, _ = line.release()
    cutpoints, metrics = (files.read_json(folder / name) for name in ("cutpoints.json", "metrics.json"))
    assert cutpoints["open_set"] == metrics["open_set"] == 2
    hits = labels[order[:, 0]] == labels
    last = cutpoints["cutpoints"]["optimal"]
    assert last["recall_all"] * (N - 2) == pytest.approx(round(last["recall"] * hits.sum())), "of those that can be matched"


def test_the_report_says_who_was_asked(ran):
    page = (ran[0].release()[0] / "report.html").read_text()
    assert "Measured with the indexed items themselves, each without its own entry." in page
    assert "neither trained on nor indexed" not in page
    assert re.search(r"query i\d+", page), "and shows some of them"
    assert releases.read_pointer(ran[0].root) is not None


def test_held_out_queries_that_are_not_there_are_named(ran, tmp_path):
    folder = ran[0].root.parent
    line = Line(config_of(folder, calibrate={"queries": "items"}), say=lambda text: None)
    line.calibrate()
    with pytest.raises(SimpipeError, match="no held-out queries"):
        line.evaluate()


@pytest.mark.parametrize("distance", [0.0, -1.0, float("inf"), float("nan")])
def test_near_is_a_finite_distance(distance):
    with pytest.raises(ValidationError):
        DedupeConfig(distance=distance)
