"""Distances: known and golden values, names, precision, rows, gradients, configuration."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from simpipe import distances
from simpipe.distances import (
    CosineDistance,
    Distance,
    EuclideanDistance,
    InnerProductSimilarity,
    ManhattanDistance,
    SNRDistance,
    SquaredEuclideanDistance,
)
from simpipe.errors import ConfigError
from simpipe.losses import TripletLoss

GOLDEN = SHARED / "golden" / "metric_learning.json"
NAMES = {
    InnerProductSimilarity: ("inner_product", "ip"),
    CosineDistance: ("cosine", "COSINE"),
    EuclideanDistance: ("euclidean", "l2", "pythagorean"),
    SquaredEuclideanDistance: ("squared_euclidean", "sql2", "sqeuclidean"),
    ManhattanDistance: ("manhattan", "l1", "taxicab"),
    SNRDistance: ("snr", "signal-to-noise-ratio"),
}
# Of float64 rows to float64[nq, nk], by other code than ours.
ORACLES: dict[str, Any] = {
    "inner_product": lambda q, k: q @ k.T,
    "cosine": lambda q, k: np.maximum(1 - q @ k.T, 0),
    "euclidean": lambda q, k: cdist(q, k, "euclidean"),
    "squared_euclidean": lambda q, k: cdist(q, k, "sqeuclidean"),
    "manhattan": lambda q, k: cdist(q, k, "cityblock"),
    "snr": lambda q, k: np.array([[np.var(a - b) / np.var(a) for b in k] for a in q]),
}
Q, K = [[0, 0], [0, 1], [1, 1], [3, 0]], [[0, 1], [1, 1], [3, 0]]


def test_names_aliases_configurations_and_objects() -> None:
    for cls, names in NAMES.items():
        for name in names:
            found = distances.get(name)
            assert type(found) is cls
            assert found.name == names[0]
        config = distances.serialize(cls())
        assert json.loads(json.dumps(config)) == config
        assert type(distances.get(config)) is type(distances.deserialize(config)) is cls
        one = cls()
        assert distances.get(one) is one
    assert [cls.larger_is_nearer for cls in NAMES] == [True, False, False, False, False, False]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nonsense", "'nonsense' is unknown.*\n.*cosine"),
        (3, "is a int"),
        ({"class_name": "Nowhere", "config": {}, "module": "nowhere", "registered_name": "Nowhere"}, "no class"),
        (keras.saving.serialize_keras_object(keras.layers.ReLU()), "is no distance"),
    ],
)
def test_what_is_no_distance(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        distances.get(wrong)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inner_product", [[0, 0, 0], [1, 1, 0], [1, 2, 3], [0, 3, 9]]),
        ("cosine", [[1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]),
        ("manhattan", [[1, 2, 3], [0, 1, 4], [1, 0, 3], [4, 3, 0]]),
        ("squared_euclidean", [[1, 2, 9], [0, 1, 10], [1, 0, 5], [10, 5, 0]]),
        ("euclidean", np.sqrt([[1, 2, 9], [0, 1, 10], [1, 0, 5], [10, 5, 0]])),
    ],
)
def test_known_matrices(name: str, expected: Any) -> None:
    np.testing.assert_allclose(distances.get(name)(np.array(Q, np.int32), np.array(K, np.int32)), expected, atol=1e-6)


def test_known_values() -> None:
    q, k = np.float32([[0.1, 0.3, 0.2]]), np.float32([[0, 0.1, 0.5]])
    q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
    assert float(CosineDistance()(q, k)[0, 0]) == pytest.approx(0.31861484, abs=1e-6)
    assert float(InnerProductSimilarity()(q, k)[0, 0]) == pytest.approx(0.68138516, abs=1e-6)
    snr = SNRDistance()(np.float32([[0.1, 0.5, 0.9], [1, 2, 4]]), np.float32([[0.2, 0.4, 0.6], [0, 1, 0.5]]))
    np.testing.assert_allclose(snr, [[0.25, 1.3125], [0.76, 0.8928571]], rtol=1e-6)
    e = np.float32([[0, 3], [4, 0]])
    assert float(keras.ops.sum(EuclideanDistance()(e, e))) == pytest.approx(10)


def test_golden() -> None:
    if not GOLDEN.exists():
        pytest.skip("../shared/golden/metric_learning.json is no part of the project and not here; oracles of our own run anyway")
    golden = json.loads(GOLDEN.read_text())
    assert {case["distance"] for case in golden["distances"]} == set(ORACLES)
    for case in golden["distances"]:
        q, k = (np.array(golden["inputs"][case[side]], np.float32) for side in "qk")
        np.testing.assert_allclose(distances.get(case["distance"])(q, k), case["value"], rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(2, 9), st.sampled_from(sorted(ORACLES)))
def test_against_scipy(seed: int, nq: int, nk: int, dim: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(nq, dim)), rng.normal(size=(nk, dim))
    distance, expected = distances.get(name), ORACLES[name](q, k)
    np.testing.assert_allclose(distance(q, k), expected, rtol=2e-4, atol=2e-5)
    n = min(nq, nk)
    np.testing.assert_allclose(distance.rows(q[:n], k[:n]), np.diagonal(expected), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_precision_is_computed_in_float32(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    q, k = (tf.cast(rng.normal(size=(4, 64)), dtype) for _ in range(2))
    distance = distances.get(name)
    for value in (distance(q, k), distance.rows(q, k)):
        assert value.dtype == tf.float32
    # What the low precision lost is lost; the distance of what is left is exact.
    expected = ORACLES[name](np.asarray(tf.cast(q, "float64")), np.asarray(tf.cast(k, "float64")))
    np.testing.assert_allclose(distance(q, k), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("rows", [np.ones((3, 4)), np.zeros((3, 4)), np.eye(3, 4)])
def test_gradients_are_finite_at_zero(name: str, rows: np.ndarray) -> None:
    x, distance = tf.Variable(rows, dtype=tf.float32), distances.get(name)
    with tf.GradientTape(persistent=True) as tape:
        both, aligned = tf.reduce_sum(distance(x, x)), tf.reduce_sum(distance.rows(x, x))
    for value in (both, aligned):
        assert np.isfinite(value)
        assert np.isfinite(tape.gradient(value, x)).all()


def test_snr_is_small_in_memory() -> None:
    """[nq, nk, dim] would be 33 GiB."""
    x = tf.random.stateless_normal((3000, 1000), seed=(0, 0))
    assert SNRDistance()(x, x).shape == (3000, 3000)


@keras.saving.register_keras_serializable(package="tests")
class Chebyshev(Distance):
    """A distance of one's own, in the manner of TF Similarity."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__("chebyshev", ["linf"])
        self.scale = scale

    def call(self, query_embeddings: Any, key_embeddings: Any) -> Any:
        return self.scale * keras.ops.max(keras.ops.abs(query_embeddings[:, None] - key_embeddings[None]), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}


def test_a_distance_of_ones_own() -> None:
    mine = Chebyshev(2.0)
    assert (mine.name, mine.aliases) == ("chebyshev", ("linf",))
    q, k = np.float32([[0, 0], [1, 5]]), np.float32([[3, 1], [1, 1]])
    np.testing.assert_allclose(mine(q, k), [[6, 2], [8, 8]])
    np.testing.assert_allclose(mine.rows(q, k), [6, 8])
    again = distances.deserialize(distances.serialize(mine))
    assert isinstance(again, Chebyshev)
    assert again.scale == 2.0
    loss: Any = keras.losses.deserialize(keras.losses.serialize(TripletLoss(mine)))
    assert isinstance(loss.distance, Chebyshev)
    assert loss.distance.scale == 2.0
