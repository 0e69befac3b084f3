"""Encoders: shapes, unit length, preprocessing inside, saving, wrong inputs; augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe.architectures import build_encoder
from simpipe.augmenters.affine import is_identity, random_affine
from simpipe.config.models import AugmentConfig, EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.errors import ConfigError, ContractError
from simpipe.layers import MetricEmbedding
from simpipe.models import SimilarityModel
from simpipe.training.encoder import fingerprint_of, load_model, save_encoder


def image(*shape: int, dtype: Any = "uint8") -> InputSpec:
    return InputSpec(name="image", shape=shape, dtype=dtype, encoding="raw")


def vector(*shape: int) -> InputSpec:
    return InputSpec(name="columns", shape=shape, dtype="float32", encoding="float")


@pytest.mark.parametrize(
    ("spec", "architecture"),
    [
        (image(8, 8, 1), "conv4"),
        (image(28, 28, 1), "conv4"),
        (image(13, 40, 3, dtype="float32"), "conv4"),
        (image(8, 8, 1), "resnet8"),
        (image(56, 48, 1), "resnet8"),
        (image(13, 40, 3, dtype="float32"), "resnet8"),
        (vector(7), "mlp"),
    ],
)
def test_raw_example_in_unit_vector_out(spec: InputSpec, architecture: Any) -> None:
    model = build_encoder(spec, EncoderConfig(architecture=architecture, filters=4, dim=5), seed=1)
    x = np.random.default_rng(0).integers(0, 256, (6, *spec.shape)).astype(spec.dtype)
    e = model.encode(x, batch_size=4)
    assert isinstance(model, SimilarityModel)
    assert e.dtype == np.float32
    assert e.shape == (6, 5)
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, atol=1e-5)
    assert model.encode(x[:0]).shape == (0, 5)
    assert isinstance(model.layers[-1], MetricEmbedding)


def test_seed_gives_the_weights() -> None:
    config = EncoderConfig(filters=4, dim=5)
    prints = [fingerprint_of(build_encoder(image(8, 8, 1), config, seed=seed)) for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("spec", "architecture", "cure"),
    [(vector(7), "conv4", "mlp"), (image(8, 8, 1), "mlp", "conv4"), (vector(4, 4), "conv4", r"\[height, width, channels\]")],
)
def test_architecture_and_input_must_fit(spec: InputSpec, architecture: Any, cure: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)train\.encoder\.architecture.*cure: .*{cure}"):
        build_encoder(spec, EncoderConfig(architecture=architecture), seed=1)


def test_save_and_load(tmp_path: Path) -> None:
    spec = image(8, 8, 1)
    model = build_encoder(spec, EncoderConfig(filters=4, dim=5), seed=1)
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    fields = {"dim": 5, "distance": "cosine", "train_classes": ("a",), "training": {}, "history": {}, "metrics": {}}
    info = save_encoder(model, tmp_path, key="k", input=spec, **fields)
    again, loaded = load_model(tmp_path)
    assert loaded == info
    assert isinstance(again, SimilarityModel)
    assert fingerprint_of(again) == info.fingerprint
    assert (again.encode(x) == model.encode(x)).all()
    model.compile("sgd", "mse")
    assert fingerprint_of(model) == info.fingerprint
    (tmp_path / info.model_file).write_bytes(b"altered")
    with pytest.raises(ContractError, match=info.model_file):
        load_model(tmp_path)


def test_metric_embedding() -> None:
    layer = MetricEmbedding(4, kernel_initializer="ones")
    np.testing.assert_allclose(layer(np.float32([[4, 4, 4, 4]])), [[0.5] * 4], atol=1e-6)
    x = tf.zeros((2, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = MetricEmbedding(4)(x)
    assert (np.asarray(y) == 0).all()
    assert np.isfinite(tape.gradient(y, x)).all()
    half = MetricEmbedding(4, dtype="mixed_float16")
    large = half(np.full((1, 3), 1e4, np.float32))  # half precision holds the products, whatever the weights, not their squares
    assert large.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(large), 1, atol=1e-5)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()


# --- augmentation ------------------------------------------------------------------------------------------------

ALL = AugmentConfig(rotate=20, scale=0.2, shear=10, translate=0.1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_affine_follows_from_seed_and_step(dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3)).astype(dtype)
    one = random_affine(x, ALL, seed=1, step=7)
    assert one.dtype == dtype
    assert one.shape == x.shape
    assert (one == random_affine(x, ALL, seed=1, step=tf.constant(7, tf.int64))).numpy().all()
    for other in (random_affine(x, ALL, seed=1, step=8), random_affine(x, ALL, seed=2, step=7)):
        assert (one != other).numpy().any()
    same = random_affine(np.repeat(x[:1], 5, axis=0), ALL, seed=1, step=7)
    assert (same[0] != same[1]).numpy().any()


def test_affine_of_nothing_changes_nothing() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1)).astype(np.uint8)
    assert is_identity(AugmentConfig())
    assert not is_identity(AugmentConfig(shear=1))
    assert (random_affine(x, AugmentConfig(), seed=0, step=0) == x).numpy().all()


def blob() -> np.ndarray:
    """A disc off the centre, 64 times."""
    rows, columns = np.mgrid[:41, :41]
    return np.repeat(np.float32((rows - 20) ** 2 + (columns - 30) ** 2 <= 9)[None, :, :, None], 64, axis=0)


def moments(images: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass and centre (x, y) about the middle of each image."""
    images = np.asarray(images)[..., 0]
    rows, columns = np.mgrid[:41, :41] - 20.0
    mass = images.sum((1, 2))
    return mass, (images * columns).sum((1, 2)) / mass, (images * rows).sum((1, 2)) / mass


def test_affine_kinds() -> None:
    _, x, y = moments(random_affine(blob(), AugmentConfig(rotate=30), seed=0, step=0))
    np.testing.assert_allclose(np.hypot(x, y), 10, atol=0.1)  # about the middle
    angle = np.degrees(np.arctan2(y, x))
    assert 20 < np.abs(angle).max() <= 30.5
    assert angle.min() < -15 < 15 < angle.max()
    mass, x, y = moments(random_affine(blob(), AugmentConfig(scale=0.3), seed=0, step=0))
    np.testing.assert_allclose(y, 0, atol=0.1)
    assert 0.69 <= x.min() / 10 < 0.8
    assert 1.2 < x.max() / 10 <= 1.31
    assert mass.max() > 1.2 * 29
    mass, x, y = moments(random_affine(blob(), AugmentConfig(translate=0.1), seed=0, step=0))
    np.testing.assert_allclose(mass, 29, atol=0.5)
    assert 3 < np.abs(x - 10).max() <= 4.15
    assert 3 < np.abs(y).max() <= 4.15
    _, x, y = moments(random_affine(blob().transpose(0, 2, 1, 3), AugmentConfig(shear=20), seed=0, step=0))
    np.testing.assert_allclose(y, 10, atol=0.1)
    assert 2.5 < np.abs(x).max() <= 10 * np.tan(np.radians(20)) + 0.1
