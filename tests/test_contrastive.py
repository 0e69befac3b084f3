"""Contrastive training: the losses of two views by hand, logs, saving, index, mixed precision, replicas."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe.augmenters import ContrastiveAugmenter, SimCLRAugmenter
from simpipe.errors import ConfigError
from simpipe.layers import ActivationStdLoggingLayer
from simpipe.losses import Barlow, SimCLRLoss, SimSiamLoss, VicReg
from simpipe.models import ContrastiveModel, create_contrastive_model, get_predictor, get_projector, load_model
from simpipe.samplers import SingleShotMemorySampler

LOSSES: dict[str, Any] = {"simsiam": SimSiamLoss, "simclr": SimCLRLoss, "barlow": Barlow, "vicreg": VicReg}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype(np.float32)
VIEWS = tuple((X + 0.1 * RNG.normal(size=X.shape)).astype(np.float32) for _ in range(2))


def backbone_of(**options: Any) -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(8, activation="relu", **options)(inputs), name="backbone")


def small(algorithm: str, **options: Any) -> ContrastiveModel:
    keras.utils.set_random_seed(1)
    # With few hidden units some example has them all at zero, and the slope of its direction is without bound.
    predictor = get_predictor(5, 32) if algorithm == "simsiam" else None
    return create_contrastive_model(backbone_of(**options), get_projector(8, 5, num_layers=2), predictor, algorithm)


def batches(n: int = 16) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(VIEWS).batch(n)


@pytest.mark.parametrize("algorithm", LOSSES)
def test_loss_and_gradient_by_hand(algorithm: str) -> None:
    model, loss = small(algorithm), LOSSES[algorithm]()
    model.compile(keras.optimizers.SGD(0.1), loss=LOSSES[algorithm]())
    state = [np.asarray(variable) for variable in model.variables]
    with tf.GradientTape() as tape:
        z1, z2 = (model.projector(model.backbone(view), training=True) for view in VIEWS)
        if algorithm == "simsiam":
            p1, p2 = (model.predictor(z, training=True) for z in (z1, z2))
            value = loss(tf.stop_gradient(z1), p2) + loss(tf.stop_gradient(z2), p1)
        else:
            value = loss(z1, z2)
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    assert all(gradient is not None for gradient in gradients)
    for variable, before in zip(model.variables, state, strict=True):
        variable.assign(before)
    expected = [np.asarray(w) - 0.1 * np.asarray(g) for w, g in zip(model.trainable_weights, gradients, strict=True)]
    history = model.fit(batches(), verbose=0).history
    assert history["loss"] == pytest.approx([float(value)], rel=1e-4)
    assert history["contrastive_loss"] == history["loss"]
    assert history["regularization_loss"] == [0.0]
    for weight, new in zip(model.trainable_weights, expected, strict=True):
        np.testing.assert_allclose(weight, new, rtol=1e-3, atol=1e-5, err_msg=weight.path)


@pytest.mark.parametrize("algorithm", LOSSES)
def test_training_pulls_the_views_together(algorithm: str) -> None:
    model = small(algorithm)
    metric = keras.metrics.CosineSimilarity(name="agreement")
    model.compile(keras.optimizers.Adam(0.01), loss=LOSSES[algorithm](), metrics=[metric])
    history = model.fit(batches().repeat(20), epochs=3, verbose=0, validation_data=batches()).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["agreement"][-1] > 0.7
    assert history["val_loss"][-1] < history["val_loss"][0]
    spread = ["proj_std", "pred_std"] if algorithm == "simsiam" else ["proj_std"]
    assert all(0.05 < history[name][-1] < 0.5 for name in spread)


def test_regularization_is_added_and_logged() -> None:
    # 0.1 |w|^2 of a layer's weights, once, and 0.01 |x| of its outputs in both views.
    model = small("simclr", kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer=keras.regularizers.L1(0.01))
    model.compile("sgd", loss=SimCLRLoss())
    kernel = np.asarray(model.backbone.layers[-1].kernel)
    expected = 0.1 * (kernel**2).sum() + sum(0.01 * np.abs(model.backbone(view)).sum() / 16 for view in VIEWS)
    logs = model.evaluate(batches(), return_dict=True, verbose=0)
    assert logs["regularization_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["contrastive_loss"] + logs["regularization_loss"], rel=1e-5)
    plain = small("simclr")
    plain.compile("sgd", loss=SimCLRLoss())
    assert plain.evaluate(batches(), return_dict=True, verbose=0)["loss"] == pytest.approx(logs["contrastive_loss"], rel=1e-4)


def test_forms_of_batches() -> None:
    model = small("vicreg")
    model.compile("sgd", loss=VicReg())
    pair = tf.data.Dataset.from_tensors(VIEWS)
    value = model.evaluate(pair, verbose=0, return_dict=True)["loss"]
    labelled = tf.data.Dataset.from_tensors((VIEWS, np.arange(16)))
    assert model.evaluate(labelled, verbose=0, return_dict=True)["loss"] == pytest.approx(value, rel=1e-6)
    assert model.evaluate(*VIEWS, batch_size=16, verbose=0, return_dict=True)["loss"] == pytest.approx(value, rel=1e-6)
    same = model.evaluate(tf.data.Dataset.from_tensors((X, X)), verbose=0, return_dict=True)["loss"]
    assert model.evaluate(X, batch_size=16, verbose=0, return_dict=True)["loss"] == pytest.approx(same, rel=1e-6)
    augmenter = ContrastiveAugmenter(lambda x: x + 0.0)
    drawn = tf.data.Dataset.from_tensors(X).map(lambda x: tuple(augmenter(x)))
    assert model.evaluate(drawn, verbose=0, return_dict=True)["loss"] == pytest.approx(same, rel=1e-6)
    for wrong in ((X, np.zeros(16)), (X, X[:, :3])):
        with pytest.raises(ConfigError, match="give two views of the same shape"):
            model.evaluate(tf.data.Dataset.from_tensors(wrong), verbose=0)


def test_a_sampler_with_an_augmenter_feeds_it() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3)).astype(np.uint8)
    augmenter = SimCLRAugmenter(8, 8, seed=1)
    sampler = SingleShotMemorySampler(pictures, augmenter, examples_per_batch=16, steps_per_epoch=2)
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(8)])
    model = create_contrastive_model(backbone, get_projector(8, 5), algorithm="simclr")
    model.compile("adam", loss=SimCLRLoss(0.5))
    history = model.fit(sampler, epochs=2, verbose=0).history
    # 2 log 31 is the loss of views that cannot be told apart.
    assert all(0 < loss < 2 * np.log(31) + 2 for loss in history["loss"])


def test_batches_of_an_epoch_weigh_as_many_as_they_hold() -> None:
    model = small("simsiam")
    model.compile("sgd", loss=SimSiamLoss())
    logs = model.evaluate(batches(6), return_dict=True, verbose=0)  # 6, 6 and 4
    whole = model.evaluate(batches(16), return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(whole["loss"], rel=1e-5)


@pytest.mark.parametrize("algorithm", ["simsiam", "barlow"])
def test_predictions_are_unit_projections(algorithm: str) -> None:
    model = small(algorithm)
    z = np.asarray(model.projector(model.backbone(X)))
    expected = z / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(model(X), expected, atol=1e-5)
    assert model.embedding_size == 5


def test_save_and_load(tmp_path: Path) -> None:
    model = small("simsiam", kernel_regularizer="l2")
    model.compile(keras.optimizers.RMSprop(0.5), loss=SimSiamLoss(projection_type="cosine_distance"))
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "model.keras")
    again: Any = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, ContrastiveModel)
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))
    assert again.algorithm == "simsiam"
    assert float(again.optimizer.learning_rate) == 0.5
    assert again.loss.get_config() == model.loss.get_config()
    assert (again.backbone.input_shape, again.projector.output_shape, again.predictor.output_shape) == (
        (None, 6),
        (None, 5),
        (None, 5),
    )
    both = [each.fit(batches(), epochs=2, verbose=0).history for each in (model, again)]
    np.testing.assert_allclose(both[0]["loss"], both[1]["loss"], rtol=1e-5)


def test_index_after_training(tmp_path: Path) -> None:
    model = small("simclr")
    model.compile("adam", loss=SimCLRLoss())
    model.fit(batches(), verbose=0)
    model.index(X, np.arange(16), data=X)
    found = model.single_lookup(VIEWS[0][3], k=2)
    assert found[0].label == 3
    assert found[0].distance == pytest.approx(0, abs=0.1)
    assert [each[0].label for each in model.lookup(X, k=1)] == list(range(16))
    model.calibrate(VIEWS[0], np.arange(16), verbose=0)
    assert (np.asarray(model.match(X)) == np.arange(16)).mean() > 0.8
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert isinstance(again, ContrastiveModel)
    assert again.index_size() == 16
    assert again.single_lookup(X[5], k=1)[0].label == 5


def test_default_parts() -> None:
    model = create_contrastive_model(backbone_of())
    assert model.algorithm == "simsiam"
    kinds = [type(layer).__name__ for layer in model.projector.layers[1:]]
    assert kinds == ["Dense", "BatchNormalization", "Activation", "Dense", "BatchNormalization", "ActivationStdLoggingLayer"]
    first, norm, _, last, end, _ = model.projector.layers[1:]
    assert (first.units, last.units, first.use_bias, last.use_bias) == (512, 512, False, False)
    assert (norm.center, norm.scale, end.center, end.scale) == (True, True, False, False)
    assert all(layer.synchronized and layer.epsilon == 1.001e-5 for layer in (norm, end))
    hidden, norm, _, output, spread = model.predictor.layers[1:]
    assert (hidden.units, hidden.use_bias, norm.synchronized, output.units, output.use_bias) == (512, False, True, 512, True)
    assert isinstance(spread, ActivationStdLoggingLayer)
    assert len([layer for layer in get_projector(7).layers if isinstance(layer, keras.layers.Dense)]) == 3
    assert create_contrastive_model(backbone_of(), algorithm="barlow").predictor is None
    printed: list[str] = []
    model.summary(print_fn=lambda line, **_: printed.append(line))
    assert [text.split('"')[1] for text in printed if text.startswith("Model:")] == ["backbone", "projector", "predictor"]


def test_a_predictor_that_is_not_used_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = create_contrastive_model(backbone_of(), get_projector(8, 5), get_predictor(5), "simclr")
    assert "uses no predictor" in caplog.text
    assert model.predictor is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_contrastive_model(backbone_of(), algorithm="byol"), "'byol' is unknown"),
        (lambda: ContrastiveModel(backbone_of(), get_projector(8)), "simsiam needs a predictor"),
        (
            lambda: create_contrastive_model(keras.Sequential([keras.Input((4, 3)), keras.layers.ReLU()])),
            r"backbone's output .*None, 4, 3",
        ),
        (lambda: get_projector(8, num_layers=0), "num_layers is 0"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_training_without_a_loss_is_named() -> None:
    model = small("simclr")
    model.compile("sgd")
    with pytest.raises(ConfigError, match="there is no loss"):
        model.fit(batches(), verbose=0)


@pytest.mark.parametrize("algorithm", ["simsiam", "simclr"])
def test_mixed_precision(algorithm: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small(algorithm)
    finally:
        keras.config.set_dtype_policy("float32")
    exact = small(algorithm)
    exact.set_weights(model.get_weights())
    loss = SimSiamLoss() if algorithm == "simsiam" else SimCLRLoss(temperature=0.5)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), loss=loss)
    exact.compile(keras.optimizers.SGD(0.01), loss=loss)
    one, two = (each.fit(batches(), epochs=3, verbose=0).history["loss"] for each in (model, exact))
    np.testing.assert_allclose(one, two, rtol=2e-2)
    unit = model.predict(X, verbose=0)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from simpipe.losses import SimSiamLoss, VicReg
from simpipe.models import create_contrastive_model, get_predictor, get_projector
rng = np.random.default_rng(0)
x = rng.normal(size=(8, 6)).astype(np.float32)
views = tuple((x + 0.3 * rng.normal(size=x.shape)).astype(np.float32) for _ in range(2))
losses = {"simsiam": SimSiamLoss, "vicreg": VicReg}  # one of either form; each loss has a test of its own
out = {}
# One strategy for all: TensorFlow numbers the exchanges of each anew, and mixes up those of two on the same devices.
strategies = [tf.distribute.MirroredStrategy(devices) for devices in (["CPU:0"], ["CPU:0", "CPU:1"])]
for algorithm, loss in losses.items():
    out[algorithm] = []
    for strategy in strategies:
        keras.utils.set_random_seed(1)
        with strategy.scope():
            inputs = keras.Input((6,))
            dense = keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.05))
            backbone = keras.Model(inputs, dense(inputs))
            predictor = get_predictor(5, 32) if algorithm == "simsiam" else None
            model = create_contrastive_model(backbone, get_projector(8, 5, num_layers=2), predictor, algorithm)
            model.compile(keras.optimizers.SGD(0.05), loss=loss())
        data = tf.data.Dataset.from_tensor_slices(views).batch(8)
        history = model.fit(data, epochs=3, verbose=0).history
        logs = model.evaluate(data, verbose=0, return_dict=True)
        out[algorithm].append({
            "history": history, "logs": logs, "weights": [np.asarray(w).tolist() for w in model.weights],
            "predictions": model.predict(x, verbose=0).tolist(),
        })
model.save(sys.argv[2])
json.dump(out, open(sys.argv[1], "w"))
"""


def test_two_replicas_equal_one(tmp_path: Path) -> None:
    """Losses, summands, spread, weights and batch norm statistics after three steps: 1 x 8 examples against 2 x 4."""
    command = [sys.executable, "-c", REPLICAS, str(tmp_path / "out.json"), str(tmp_path / "model.keras")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "out.json").read_text())
    for algorithm, (one, two) in runs.items():
        assert one["history"]["regularization_loss"][0] > 0
        for kind in ("history", "logs"):
            assert one[kind].keys() == two[kind].keys()
            for name, value in one[kind].items():
                np.testing.assert_allclose(value, two[kind][name], rtol=1e-4, atol=1e-5, err_msg=f"{algorithm} {name}")
        for a, b in zip(one["weights"], two["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=algorithm)
    # Saved under a strategy, loaded without one.
    again: Any = keras.models.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 6)).astype(np.float32)
    np.testing.assert_allclose(again.predict(x, verbose=0), runs["vicreg"][1]["predictions"], atol=1e-5)
