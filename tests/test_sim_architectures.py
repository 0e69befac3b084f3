"""EfficientNetSim, ResNet50Sim, ResNet18Sim: weights from files, preprocessing, trainable parts, heads, saving, errors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from simpipe.architectures import EfficientNetSim, ResNet18Sim, ResNet50Sim
from simpipe.architectures.pretrained import pretrained_backbone
from simpipe.errors import ConfigError, SourceError
from simpipe.models import SimilarityModel

SHAPE = (32, 32, 3)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.float32)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("simpipe")]


def norms_of(backbone: Any) -> list[Any]:
    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as Keras publishes them: the normalization holds the deviation in place of the variance."""
    backbone = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=SHAPE)
    norm = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Normalization))
    norm.adapt_mean.assign(MEAN)
    norm.adapt_variance.assign(STD)
    path = tmp_path_factory.mktemp("efficientnet") / "b0.weights.h5"
    backbone.save_weights(path)
    return path


def test_efficientnet_from_a_file_equals_the_download(
    efficientnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = EfficientNetSim(SHAPE, 5, weights=efficientnet, trainable="partial")
    monkeypatch.setattr("keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(efficientnet))
    frozen = EfficientNetSim(SHAPE, weights="imagenet", include_top=False, pooling=None)
    inner = partial.layers[1]
    np.testing.assert_allclose(inner(IMAGES), frozen(IMAGES), rtol=1e-3, atol=1e-5)
    # What the network sees of a picture of one colour: (x / 255 - mean) / deviation.
    see = keras.Model(inner.inputs[0], inner.get_layer(index=2).output)
    np.testing.assert_allclose(see(IMAGES), (IMAGES / 255 - MEAN) / STD, rtol=1e-4, atol=1e-4)

    assert not frozen.trainable_weights
    names = {layer.name for layer in inner.layers if layer.trainable and layer.weights}
    assert {"block5a_expand_conv", "block7a_project_conv", "top_conv"} <= names
    assert not [name for name in names if name.startswith(("stem", "block1", "block2", "block3", "block4"))]
    assert all(norm.synchronized and not norm.trainable for norm in norms_of(inner))

    before = [np.asarray(norm.moving_mean) for norm in norms_of(inner)]
    partial(IMAGES, training=True)
    for old, norm in zip(before, norms_of(inner), strict=True):
        np.testing.assert_array_equal(old, norm.moving_mean)

    partial.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, SimilarityModel)
    np.testing.assert_allclose(again(IMAGES), partial(IMAGES), atol=1e-6)
    assert len(again.trainable_weights) == len(partial.trainable_weights)
    assert all(norm.synchronized for norm in norms_of(again.layers[1]))


def test_random_weights_train_whole(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = EfficientNetSim(SHAPE, 5, "b0", weights=None, trainable="full")
    assert not warnings_of(caplog)
    assert isinstance(model, SimilarityModel)
    assert model.output_shape == (None, 5)
    # Random weights fade a picture out unless the norms work with the batch's own statistics.
    np.testing.assert_allclose(np.linalg.norm(model(IMAGES, training=True), axis=1), 1, atol=1e-5)
    assert all(norm.synchronized and norm.trainable for norm in norms_of(model.layers[1]))
    assert all(weight.trainable for weight in model.layers[1].trainable_weights)
    assert model.layers[1].trainable


def test_resnet50_centres_its_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_shape=SHAPE)
    backbone.save_weights(tmp_path / "r.weights.h5")
    with caplog.at_level(logging.WARNING):
        model = ResNet50Sim(SHAPE, 6, weights=str(tmp_path / "r.weights.h5"), trainable="partial", l2_norm=False, pooling="max")
    assert not warnings_of(caplog)
    expected = np.asarray(backbone(keras.applications.resnet.preprocess_input(IMAGES.copy()))).max(axis=(1, 2))
    head = model.get_layer("embedding")
    np.testing.assert_allclose(model(IMAGES), expected @ head.kernel + head.bias, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model(IMAGES.astype(np.uint8)), model(IMAGES), atol=1e-5)
    inner = model.get_layer("resnet50")
    names = {layer.name for layer in inner.layers if layer.trainable and layer.weights}
    assert names
    assert all(name.startswith("conv5") and not name.endswith("_bn") for name in names)
    assert all(norm.synchronized for norm in norms_of(inner))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    assert len(again.trainable_weights) == len(model.trainable_weights)


def test_weights_that_cannot_be_had(efficientnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: Any) -> None:
        raise Exception("URL fetch failure on https://nowhere")

    with monkeypatch.context() as patch:
        patch.setattr(keras.applications, "EfficientNetB3", fails)
        with pytest.raises(SourceError, match=r"(?s)EfficientNetSim.*URL fetch failure.*cure: .*weights=None"):
            EfficientNetSim(SHAPE, variant="B3")
    with pytest.raises(ConfigError, match=r"ResNet50Sim: weights 'nowhere.h5' is neither 'imagenet' nor a file"):
        ResNet50Sim(SHAPE, weights="nowhere.h5")
    with pytest.raises(
        ConfigError, match=r"(?s)ResNet50Sim: the weights of .*b0.weights.h5 do not fit.*cure: .*include_top=False"
    ):
        ResNet50Sim(SHAPE, weights=efficientnet)
    small = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(2, 3)])
    monkeypatch.setattr(small, "load_weights", lambda _: None)
    with pytest.raises(ConfigError, match=r"here: .* lacks 2 weights"):
        pretrained_backbone(lambda **_: small, SHAPE, weights=efficientnet, trainable="full", partial="conv", of="here")


def test_a_frozen_random_backbone_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = ResNet50Sim((None, None, 3), weights=None, include_top=False, pooling="avg")
    assert [message.split("cure: ")[1] for message in warnings_of(caplog)] == ["trainable='full'"]
    assert model.output_shape == (None, 2048)
    assert not model.trainable_weights


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EfficientNetSim(SHAPE, variant="B8"), "variant 'B8' is unknown"),
        (lambda: EfficientNetSim(SHAPE, weights=None, trainable="half"), "trainable 'half' is unknown"),
        (lambda: EfficientNetSim((31, 32, 3)), "sides must be at least 32"),
        (lambda: EfficientNetSim((32, 32, 1)), "repeat a grey channel"),
        (lambda: ResNet50Sim((32, 16, 3)), "sides must be at least 32"),
        (lambda: ResNet50Sim(SHAPE, pooling="mean"), "pooling 'mean' is unknown"),
        (lambda: ResNet18Sim((7, 7, 1)), "sides must be at least 8"),
        (lambda: ResNet18Sim((32, 32)), r"\(height, width, channels\)"),
        (lambda: ResNet18Sim(SHAPE, pooling=None), "include_top needs a pooling"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_resnet18(tmp_path: Path) -> None:
    model = ResNet18Sim((None, None, 3), 4)
    backbone = model.get_layer("resnet18")
    # The count of the usual ResNet-18 for CIFAR-10 (11,173,962) less its classifier.
    assert sum(weight.shape.num_elements() for weight in backbone.trainable_weights) == 11_168_832
    assert all(norm.synchronized for norm in norms_of(backbone))
    assert backbone(IMAGES).shape == (3, 4, 4, 512)
    x = IMAGES / 255
    np.testing.assert_allclose(np.linalg.norm(model(x), axis=1), 1, atol=1e-5)
    before = np.asarray(backbone.get_layer("stem_norm").moving_mean)
    model(x, training=True)
    assert (np.asarray(backbone.get_layer("stem_norm").moving_mean) != before).any()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, SimilarityModel)
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)


def test_heads_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [ResNet18Sim((8, 8, 1), 4, l2_norm=l2_norm, gem_p=2.0) for l2_norm in (False, True)]
    finally:
        keras.config.set_dtype_policy("float32")
    for model in models:
        y = np.asarray(model(IMAGES[:, :8, :8, :1] / 255))
        assert y.dtype == np.float32
        assert y.shape == (3, 4)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-5)  # the last one's
