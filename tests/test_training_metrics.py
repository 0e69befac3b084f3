"""Distance metrics of training: golden values, means over batches, batches without pairs, files; class ratio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED

from simpipe import training_metrics
from simpipe.errors import ConfigError, SourceError
from simpipe.training_metrics import DistanceGapMetric, DistanceMetric, batch_class_ratio

GOLDEN = SHARED / "golden" / "metric_learning.json"
RAW = [[1, 0.2, 0.1, 0], [0.9, 0.3, 0, 0.1], [0.1, 1, 0.2, 0], [0.5, 0.8, 0.3, 0.1], [0, 0.1, 1, 0.4], [0.6, 0.2, 0.7, 0.3]]
LABELS = np.array([0, 0, 1, 1, 2, 2])
KNOWN = {
    "max_pos": 0.2155355,
    "max_neg": 0.6097537,
    "avg_pos": 0.1136307,
    "avg_neg": 0.3875318,
    "min_pos": 0.01789957,
    "min_neg": 0.2625039,
    "sum_pos": 0.6817842,
    "sum_neg": 2.325191,
    "dist_gap": 0.04696834,
}


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def value(metric: Any, *batches: tuple[Any, Any]) -> float:
    for labels, embeddings in batches:
        metric.update_state(labels, embeddings)
    return float(metric.result())


def oracle(name: str, labels: np.ndarray, e: np.ndarray) -> float:
    """One batch: the hard positive or negative of the anchors that have one."""
    d, same = np.maximum(1 - e.astype(np.float64) @ e.T, 0), labels[:, None] == labels[None]
    np.fill_diagonal(d, np.nan)
    positives, negatives = np.where(same, d, np.nan), np.where(~same, d, np.nan)
    hard = {"pos": np.nanmax(positives, axis=1), "neg": np.nanmin(negatives, axis=1)}
    if name == "dist_gap":
        return abs(np.nanmin(hard["neg"]) - np.nanmax(hard["pos"]))
    how = {"max": np.nanmax, "min": np.nanmin, "avg": np.nanmean, "sum": np.nansum}[name[:3]]
    return float(how(hard[name[4:]]))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_values_of_a_batch(name: str) -> None:
    metric = getattr(training_metrics, name)("cosine")
    assert metric.name == name
    assert value(metric, (LABELS, unit(RAW))) == pytest.approx(KNOWN[name], rel=1e-5)
    if GOLDEN.exists():
        assert json.loads(GOLDEN.read_text())["training_metrics"][name] == pytest.approx(KNOWN[name])


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_mean_over_batches_without_pairless_anchors(name: str) -> None:
    """TF Similarity gives the last batch, and counts anchors without a pair."""
    rng = np.random.default_rng(1)
    batches = [
        (np.array(labels), unit(rng.normal(size=(5, 4)))) for labels in ([0, 0, 1, 1, 2], [3, 3, 3, 1, 0], [7, 8, 7, 8, 8])
    ]
    metric = getattr(training_metrics, name)("cosine")
    expected = np.mean([oracle(name, *batch) for batch in batches])
    assert value(metric, *batches) == pytest.approx(expected, rel=1e-5)
    metric.reset_state()
    assert value(metric, batches[1]) == pytest.approx(oracle(name, *batches[1]), rel=1e-5)


def test_batches_without_pairs_are_skipped() -> None:
    e = unit(RAW)
    no_positive, no_negative = (np.arange(6), e), (np.zeros(6, np.int64), e)
    for name in KNOWN:
        metric = getattr(training_metrics, name)("cosine")
        without = no_negative if name.endswith("neg") else no_positive
        assert np.isnan(value(metric, without))
        assert value(metric, (LABELS, e), without) == pytest.approx(KNOWN[name], rel=1e-5)
    assert np.isnan(value(training_metrics.dist_gap("cosine"), no_positive, no_negative))


def test_mining_strategies() -> None:
    e = unit(RAW)
    d = 1 - e.astype(np.float64) @ e.T
    same = LABELS[:, None] == LABELS[None]
    farthest = np.where(~same, d, -1).max(axis=1)
    assert value(DistanceMetric("cosine", "mean", "negative", negative_mining_strategy="easy"), (LABELS, e)) == pytest.approx(
        farthest.mean(), rel=1e-5
    )
    hard_positive = np.where(same & ~np.eye(6, dtype=bool), d, -1).max(axis=1)
    semi = [min([x for x in d[i][~same[i]] if x > hard_positive[i]], default=farthest[i]) for i in range(6)]
    metric = DistanceMetric("cosine", "avg", "negative", negative_mining_strategy="semi-hard")
    assert value(metric, (LABELS, e)) == pytest.approx(np.mean(semi), rel=1e-5)
    # Three of a class: the nearest positive is not the farthest.
    labels, nearest = np.array([0, 0, 0, 1, 1, 1]), np.where(np.eye(6) > 0, 9, d)
    expected = np.where((np.arange(6) < 3)[:, None] == (np.arange(6) < 3)[None], nearest, 9).min(axis=1).max()
    assert value(DistanceMetric("cosine", "max", positive_mining_strategy="easy"), (labels, e)) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_similarity_is_mined_from_its_own_end() -> None:
    """The farthest positive by inner product is the least similar: 1 - the cosine distance of unit vectors."""
    for name in ("avg_pos", "avg_neg"):
        assert value(getattr(training_metrics, name)("ip"), (LABELS, unit(RAW))) == pytest.approx(1 - KNOWN[name], rel=1e-5)
    assert value(training_metrics.dist_gap("ip"), (LABELS, unit(RAW))) == pytest.approx(KNOWN["dist_gap"], rel=1e-5)


@pytest.mark.parametrize(
    "metric", [DistanceMetric("l1", "sum", "negative", "easy", "semi-hard", "mine"), DistanceGapMetric("snr")]
)
def test_configuration(metric: Any) -> None:
    again: Any = keras.metrics.deserialize(json.loads(json.dumps(keras.metrics.serialize(metric))))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()


def test_names_and_wrong_arguments() -> None:
    assert [DistanceMetric("cosine", how).name for how in ("mean", "avg", "max")] == ["avg_pos", "avg_pos", "max_pos"]
    for wrong in ({"aggregate": "median"}, {"anchor": "both"}, {"positive_mining_strategy": "semi-hard"}):
        with pytest.raises(ConfigError, match="is unknown"):
            DistanceMetric("cosine", **wrong)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # in Keras' UnitNormalization of float16
def test_in_a_compiled_model(tmp_path: Path) -> None:
    """Of fit and evaluate, in half precision, with labels of 64 bits in a column, and after loading the file."""
    from simpipe.losses import TripletLoss

    half = keras.layers.UnitNormalization(dtype="mixed_float16")
    model = keras.Sequential([keras.Input((4,)), half])
    model.compile(loss=TripletLoss(), metrics=[training_metrics.avg_pos("cosine"), training_metrics.dist_gap("cosine")])
    x, y = np.concatenate([RAW, RAW[::-1]]).astype(np.float32), np.concatenate([LABELS, [0, 1, 2, 3, 4, 5]])[:, None] + 2**40
    seen = model.evaluate(x, y, batch_size=6, verbose=0, return_dict=True)
    assert seen["avg_pos"] == pytest.approx(KNOWN["avg_pos"], abs=2e-3)
    assert seen["dist_gap"] == pytest.approx(KNOWN["dist_gap"], abs=2e-3)
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.evaluate(x, y, batch_size=6, verbose=0, return_dict=True) == pytest.approx(seen)


def test_batch_class_ratio() -> None:
    batches = [(np.zeros((6, 2)), [0, 0, 1, 1, 2, 2]), (np.zeros((6, 2)), [0, 0, 0, 1, 1, 1])]
    assert batch_class_ratio(batches) == 2.5
    assert batch_class_ratio(batches, num_batches=1) == 2.0
    data = tf.data.Dataset.from_tensors((np.zeros((4, 2)), np.array([["a"], ["a"], ["a"], ["a"]]))).repeat()
    assert batch_class_ratio(data, num_batches=3) == 4.0

    class Endless(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((8, 2)), np.arange(8) // 2 % (2 if index < 2 else 4)

    assert batch_class_ratio(Endless(), num_batches=4) == 3.0
    with pytest.raises(SourceError, match="no example"):
        batch_class_ratio([])
