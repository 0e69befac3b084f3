"""Layers: TF Similarity's known and golden values, oracles in numpy, mixed precision, serialization, logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED

from simpipe.errors import ConfigError
from simpipe.layers import (
    ActivationStdLoggingLayer,
    GeneralizedMeanPooling1D,
    GeneralizedMeanPooling2D,
    MetricEmbedding,
)

GOLDEN = SHARED / "golden" / "metric_learning.json"
KNOWN_2D = np.repeat(np.float32([[0, 5], [5, 10], [10, 15]])[None, :, None], 3, axis=2)
KNOWN_1D = np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1)
# The golden picture and its values, so that a stranger without the golden file tests them too.
PICTURE = np.float32([[[[-1.0, 2.0], [0.5, 4.0]], [[3.0, -2.0], [1.0, 0.0]]]])
POOLED = {
    1.0: [0.875, 1.0],
    2.0: [1.211308, 1.582576],
    3.0: [1.480332, 1.986631],
    0.0: [0.4746161, 0.2010858],
    math.inf: [3.0, 4.0],
    -math.inf: [-1.0, -2.0],
}


def test_golden_pooling() -> None:
    if not GOLDEN.exists():
        pytest.skip("../shared/golden/metric_learning.json is no part of the project and not here; oracles of our own run anyway")
    golden = json.loads(GOLDEN.read_text())["gem2d"]
    for p, value in golden["value"].items():
        pooled = GeneralizedMeanPooling2D(p=float(p))(np.float32(golden["x"]))
        np.testing.assert_allclose(pooled, value, rtol=1e-5, atol=1e-6, err_msg=p)


@pytest.mark.parametrize("p", POOLED)
def test_known_pooling(p: float) -> None:
    np.testing.assert_allclose(GeneralizedMeanPooling2D(p=p)(PICTURE), [POOLED[p]], rtol=1e-5, atol=1e-6)


def test_known_values_of_the_library() -> None:
    for p, expected in ((1, [5, 10]), (math.inf, [10, 15]), (-math.inf, [0, 5]), (0, [3.0412402, 8.041241])):
        np.testing.assert_allclose(GeneralizedMeanPooling2D(p=p)(KNOWN_2D), [expected], rtol=1e-5)
    one = GeneralizedMeanPooling1D(p=0)(KNOWN_1D)
    np.testing.assert_allclose(one, [[1.8171206], [4.8171206], [7.8171206]], rtol=1e-5)
    embedding = MetricEmbedding(4, kernel_initializer="ones")
    np.testing.assert_allclose(embedding(np.full((1, 4), 4.0, np.float32)), np.full((1, 4), 0.5), rtol=1e-6)


@pytest.mark.parametrize("p", [-3.0, 0.5, 1.0, 4.0])
def test_pooling_against_numpy(p: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    least = x.min(axis=(1, 2), keepdims=True)
    expected = (((x - least + 1.0) ** p).mean(axis=(1, 2), keepdims=True) ** (1 / p) + least - 1.0)[:, 0, 0]
    np.testing.assert_allclose(GeneralizedMeanPooling2D(p=p)(x), expected, rtol=1e-5, atol=1e-5)
    first = GeneralizedMeanPooling2D(p=p, data_format="channels_first", keepdims=True)
    np.testing.assert_allclose(first(x.transpose(0, 3, 1, 2)), expected[:, :, None, None], rtol=1e-5, atol=1e-5)
    flat = GeneralizedMeanPooling1D(p=p, keepdims=True)(x.reshape(2, 20, 3))
    np.testing.assert_allclose(flat, expected[:, None], rtol=1e-5, atol=1e-5)
    first = GeneralizedMeanPooling1D(p=p, data_format="channels_first")
    np.testing.assert_allclose(first(x.reshape(2, 20, 3).transpose(0, 2, 1)), expected, rtol=1e-5, atol=1e-5)


def test_large_powers_do_not_overflow_and_have_a_gradient() -> None:
    x = tf.Variable(np.float32([[[1.0], [50.0], [100.0]]]))
    for p in (50.0, 1000.0, -50.0):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(GeneralizedMeanPooling1D(p=p)(x))
        assert (1.0 <= float(y) <= 3.0) if p < 0 else (95.0 <= float(y) <= 100.0)
        gradient = np.asarray(tape.gradient(y, x))
        assert np.isfinite(gradient).all()
        # The mean of values shifted by c is shifted by c.
        assert gradient.sum() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("p", [3.0, math.inf, -math.inf])
def test_symbolic_shape_is_the_real_one(p: float, keepdims: bool) -> None:
    inputs = keras.Input((None, None, 3))
    output = GeneralizedMeanPooling2D(p=p, keepdims=keepdims)(inputs)
    assert output.shape == ((None, 1, 1, 3) if keepdims else (None, 3))
    assert keras.Model(inputs, output)(np.zeros((2, 4, 5, 3), np.float32)).shape == ((2, 1, 1, 3) if keepdims else (2, 3))


def test_wrong_pooling_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="p is not a number"):
        GeneralizedMeanPooling2D(p=math.nan)
    with pytest.raises(ConfigError, match="nonsense"):
        GeneralizedMeanPooling1D(data_format="nonsense")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy: str) -> None:
    # Cubes of 100 leave float16's range.
    x = np.float32([[[[100.0], [20.0]], [[60.0], [0.5]]]])
    pooled = GeneralizedMeanPooling2D(dtype=policy)(x)
    assert pooled.dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(np.float32(pooled), GeneralizedMeanPooling2D()(x), rtol=1e-2)
    embedding = MetricEmbedding(3, dtype=policy)(np.full((2, 8), 300.0, np.float32))
    assert embedding.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    spread = ActivationStdLoggingLayer("spread", dtype=policy)
    assert spread(np.eye(4, dtype=np.float32) * 300).dtype == policy.removeprefix("mixed_")
    assert float(spread.std.result()) == pytest.approx(math.sqrt(3) / 4, rel=1e-3)


LAYERS: list[Any] = [
    lambda: GeneralizedMeanPooling2D(p=math.inf, keepdims=True, name="a"),
    lambda: GeneralizedMeanPooling2D(p=-math.inf, data_format="channels_first"),
    lambda: GeneralizedMeanPooling1D(p=0.0),
    lambda: ActivationStdLoggingLayer("spread"),
    lambda: MetricEmbedding(
        3,
        "relu",
        False,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer="l2",
        bias_regularizer=keras.regularizers.L1(0.2),
        kernel_constraint="non_neg",
        bias_constraint=keras.constraints.MaxNorm(2),
        activity_regularizer="l1",
        dtype="mixed_float16",
    ),
]


@pytest.mark.parametrize("make", LAYERS)
def test_config_round_trip(make: Any) -> None:
    layer = make()
    config = keras.saving.serialize_keras_object(layer)
    json.loads(json.dumps(config, allow_nan=False))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_saved_model_gives_the_same_values(tmp_path: Path) -> None:
    inputs = keras.Input((4, 5, 3))
    x = GeneralizedMeanPooling2D(p=math.inf)(inputs)
    x = ActivationStdLoggingLayer("spread")(x)
    model = keras.Model(inputs, MetricEmbedding(2, kernel_regularizer="l2")(x))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(x), model(x))


def test_embedding_takes_the_arguments_of_a_dense_layer() -> None:
    x = np.float32([[1.0, -2.0], [3.0, 4.0]])
    layer = MetricEmbedding(
        2,
        activation="relu",
        kernel_initializer=keras.initializers.Identity(),
        bias_initializer=keras.initializers.Constant(1.0),
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_constraint="non_neg",
    )
    dense = np.maximum(x + 1.0, 0)
    np.testing.assert_allclose(layer(x), dense / np.linalg.norm(dense, axis=1, keepdims=True), rtol=1e-6)
    assert [float(value) for value in layer.losses] == [1.0]
    assert layer.kernel.shape == (2, 2)
    np.testing.assert_array_equal(layer.bias, [1, 1])
    assert MetricEmbedding(2, use_bias=False)(x).shape == (2, 2)


def test_zero_rows_stay_zero() -> None:
    assert (np.asarray(MetricEmbedding(3)(np.zeros((2, 4), np.float32))) == 0).all()


def test_configuration_of_earlier_versions_is_read() -> None:
    config = {
        "module": "simpipe.layers",
        "class_name": "MetricEmbedding",
        "registered_name": "simpipe>MetricEmbedding",
        "config": {
            "name": "embedding",
            "trainable": True,
            "dtype": "float32",
            "units": 3,
            "use_bias": False,
            "kernel_initializer": {"module": "keras.initializers", "class_name": "Ones", "config": {}, "registered_name": None},
        },
    }
    layer = keras.saving.deserialize_keras_object(config)
    np.testing.assert_allclose(layer(np.ones((1, 2), np.float32)), np.full((1, 3), 3**-0.5), rtol=1e-6)
    # Where saved weights are looked up.
    assert [weight.path for weight in layer.weights] == ["embedding/dense/kernel"]


def test_spread_is_logged_by_fit() -> None:
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    inputs = keras.Input((8,))
    part = keras.Sequential([keras.Input((8,)), ActivationStdLoggingLayer("spread")], name="part")
    model = keras.Model(inputs, keras.layers.Dense(1)(part(inputs)))
    model.compile("sgd", "mse")
    history = model.fit(x, np.zeros(64), batch_size=32, shuffle=False, epochs=2, validation_data=(x, np.zeros(64)), verbose=0)
    expected = np.mean([unit[:32].std(axis=0).mean(), unit[32:].std(axis=0).mean()])
    np.testing.assert_allclose(history.history["spread"], [expected] * 2, rtol=1e-5)
    np.testing.assert_allclose(history.history["val_spread"], [expected] * 2, rtol=1e-5)
    layer = ActivationStdLoggingLayer("spread")
    layer(np.ones((5, 8), np.float32))
    assert float(layer.std.result()) == pytest.approx(0.0, abs=1e-6)
