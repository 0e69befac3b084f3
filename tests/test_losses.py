"""Losses and distances: TF Similarity's golden values, masks of pairless anchors, mixed precision, replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe import distances
from simpipe.errors import ConfigError
from simpipe.losses import MultiSimilarityLoss, TripletLoss

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "metric_learning.json"
RAW = [[1, 0.2, 0.1, 0], [0.9, 0.3, 0, 0.1], [0.1, 1, 0.2, 0], [0.5, 0.8, 0.3, 0.1], [0, 0.1, 1, 0.4], [0.6, 0.2, 0.7, 0.3]]
LOSSES: dict[str, Any] = {"TripletLoss": TripletLoss, "MultiSimilarityLoss": MultiSimilarityLoss}


@cache
def golden() -> dict[str, Any]:
    if not GOLDEN.exists():
        pytest.skip("no golden values here: ../shared/golden/metric_learning.json is missing")
    return json.loads(GOLDEN.read_text())


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def values_of(loss: Any, labels: Any, embeddings: Any) -> np.ndarray:
    return np.asarray(loss.call(tf.constant(labels, tf.int64), tf.constant(embeddings, tf.float32)))


def test_golden_losses() -> None:
    cases = [c for c in golden()["supervised"] if c["loss"] in LOSSES and c["labels"] == "LABELS"]
    assert len(cases) >= 18
    inputs = golden()["inputs"]
    embeddings = unit(inputs["RAW (rows are L2-normalised before use)"])
    for case in cases:
        loss = LOSSES[case["loss"]](**case["kwargs"])
        # The golden numbers have seven digits and come from float32 distances of size one: hence the absolute 3e-7.
        np.testing.assert_allclose(
            values_of(loss, inputs["LABELS"], embeddings), case["per_example"], rtol=1e-5, atol=3e-7, err_msg=str(case)
        )
        mean = float(loss(np.array(inputs["LABELS"]), embeddings))
        np.testing.assert_allclose(mean, case["mean"], rtol=1e-5, atol=1e-7, err_msg=str(case))


def test_golden_distances() -> None:
    for case in golden()["distances"]:
        if case["distance"] in ("cosine", "euclidean", "squared_euclidean", "manhattan"):
            q, k = (np.array(golden()["inputs"][case[side]], np.float32) for side in "qk")
            np.testing.assert_allclose(distances.get(case["distance"])(q, k), case["value"], rtol=1e-5, atol=1e-6)


def test_known_distances() -> None:
    q, k = np.float32([[0, 1], [0, 1], [1, 1]]), np.float32([[2, 1], [1, 1]])
    np.testing.assert_allclose(distances.EuclideanDistance()(q, k), [[2, 1], [2, 1], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(
        distances.CosineDistance()(unit([[0.1, 0.3, 0.2]]), unit([[0, 0.1, 0.5]])), [[0.31861484]], atol=1e-6
    )
    with pytest.raises(ConfigError, match="nonsense"):
        distances.get("nonsense")


def test_euclidean_gradient_is_finite_at_zero() -> None:
    x = tf.Variable(np.ones((2, 3), np.float32))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(distances.EuclideanDistance()(x, x))
    assert np.isfinite(tape.gradient(y, x)).all()


def perfect(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.tile(np.arange(n), 2)
    return labels, np.eye(n, dtype=np.float32)[labels]


def bad(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(n), 2), np.eye(n, dtype=np.float32)[np.concatenate([np.arange(n), np.arange(n)[::-1]])]


@pytest.mark.parametrize(
    ("batch", "margin", "expected"),
    [(perfect(32), None, 0.31326169), (perfect(32), 1.1, 0.1), (bad(32), None, 0.69314718), (bad(32), 1.0, 1.0)],
)
def test_triplet_known_means(batch: tuple[np.ndarray, np.ndarray], margin: float | None, expected: float) -> None:
    assert float(TripletLoss(margin=margin)(*batch)) == pytest.approx(expected, rel=1e-5)
    summed = float(TripletLoss(margin=margin, reduction="sum")(*batch))
    assert summed == pytest.approx(expected * 64, rel=1e-5)


def test_triplet_known_mining() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    e = np.float32([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0]])
    easy = TripletLoss(positive_mining_strategy="easy", negative_mining_strategy="easy", margin=1.0)
    hard = TripletLoss(positive_mining_strategy="hard", negative_mining_strategy="hard", margin=1.0)
    assert float(easy(labels, e)) == pytest.approx(1 / 3, abs=1e-4)
    assert float(hard(labels, e)) == pytest.approx(2.0, abs=1e-4)
    semi = TripletLoss(positive_mining_strategy="easy", negative_mining_strategy="semi-hard", margin=1.0)
    e = np.float32([[1, 0], [0.5, 0.8660254], [0, 1], [0.01010049, 0.999949]])
    np.testing.assert_allclose(values_of(semi, [0, 0, 1, 1], e), [0.51, 1.366, 0.866, 0.871], atol=1e-3)


@pytest.mark.parametrize("loss", [TripletLoss(), TripletLoss(margin=0.5), MultiSimilarityLoss()])
def test_pairless_anchors_do_not_count(loss: Any) -> None:
    e = unit(RAW)
    both = values_of(loss, [0, 0, 1, 1, 2, 3], e)
    assert (both[4:] == 0).all()
    assert float(loss(np.array([0, 0, 1, 1, 2, 3]), e)) == pytest.approx(both[:4].mean(), rel=1e-6)
    one_class = tf.Variable(e)
    with tf.GradientTape() as tape:
        value = loss(np.zeros(6, np.int64), one_class)
    assert float(value) == 0.0
    assert (np.asarray(tape.gradient(value, one_class)) == 0).all()


def test_labels_beyond_float_precision() -> None:
    e = unit(RAW)
    labels = np.array([0, 0, 1, 1, 2, 2]) + 2**40
    assert float(TripletLoss()(labels, e)) == pytest.approx(0.5679485, rel=1e-5)
    assert float(TripletLoss()(labels[:, None], e)) == pytest.approx(0.5679485, rel=1e-5)


def test_half_precision_embeddings_are_compared_in_float32() -> None:
    half = unit(RAW).astype(np.float16)
    labels = np.array([0, 0, 1, 1, 2, 2])
    for loss in (TripletLoss(), MultiSimilarityLoss(epsilon=0.5, beta=10)):
        value = loss(labels, tf.constant(half))
        assert value.dtype == tf.float32
        assert float(value) == pytest.approx(float(loss(labels, half.astype(np.float32))), rel=1e-6)


def test_config_round_trip() -> None:
    for loss in (TripletLoss("euclidean", "easy", "hard", 0.3), MultiSimilarityLoss(alpha=3, reduction="sum")):
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(again) is type(loss)
        assert again.get_config() == loss.get_config()
    with pytest.raises(ConfigError, match="semi"):
        TripletLoss(negative_mining_strategy="semi")


def test_sample_weight_scales_values() -> None:
    e, labels = unit(RAW), np.array([0, 0, 1, 1, 2, 2])
    loss = TripletLoss()
    weights = np.float32([2, 0, 1, 1, 0, 0])
    expected = (values_of(loss, labels, e) * weights).sum() / 6
    assert float(loss(labels, e, weights)) == pytest.approx(expected, rel=1e-6)


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from simpipe.layers import MetricEmbedding
from simpipe.losses import MultiSimilarityLoss, TripletLoss
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 5)).astype(np.float32)
y = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 0, 1, 2, 3, 9])  # 9 has no positive
out = []
for loss in (lambda: TripletLoss(), lambda: TripletLoss("euclidean", margin=0.5), lambda: MultiSimilarityLoss(epsilon=0.3)):
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        with tf.distribute.MirroredStrategy(devices).scope():
            init = keras.initializers.GlorotUniform(seed=1)
            model = keras.Sequential([keras.Input((5,)), MetricEmbedding(4, kernel_initializer=init)])
            model.compile(keras.optimizers.SGD(0.5), loss=loss())
        history = model.fit(tf.data.Dataset.from_tensors((x, y)).unbatch().batch(16), epochs=3, verbose=0)
        out.append({"loss": history.history["loss"], "weights": model.get_weights()[0].tolist()})
json.dump(out, open(sys.argv[1], "w"))
"""


def test_two_replicas_equal_one(tmp_path: Path) -> None:
    """Losses and weights after three steps: 1 x 16 examples against 2 x 8."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, str(tmp_path / "out.json")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "out.json").read_text())
    for one, two in zip(runs[::2], runs[1::2], strict=True):
        assert one["loss"][0] > one["loss"][-1] > 0
        np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
        np.testing.assert_allclose(one["weights"], two["weights"], rtol=1e-4, atol=1e-6)
