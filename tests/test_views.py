"""An encoder with views, against its parts put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe.architectures import build_encoder
from simpipe.architectures.views import with_views
from simpipe.config.models import AugmentConfig, EncoderConfig, TrainConfig
from simpipe.data.examples import InputSpec

AUGMENT = AugmentConfig(rotate=15, scale=0.2, shear=15, translate=0.1)


def encoder_of(dtype: Any) -> Any:
    spec = InputSpec(name="image", shape=(12, 16, 1), dtype=dtype, encoding="raw")
    return build_encoder(spec, EncoderConfig(architecture="resnet8", filters=4, dim=6), seed=1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_is_the_mean_over_views(dtype: Any) -> None:
    encoder = encoder_of(dtype)
    x = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 1)).astype(dtype)
    seen = with_views(encoder, AUGMENT, views=3, seed=4)
    matrices = np.array(seen.get_layer("views").matrices, np.float32)
    assert matrices.shape == (3, 8)
    parts = [encoder.encode(x)]
    for matrix in matrices:
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=x.astype(np.float32), transforms=matrix[None], output_shape=[12, 16], fill_value=0.0, interpolation="BILINEAR"
        )
        moved = np.round(moved.numpy()).astype(dtype) if dtype == "uint8" else moved.numpy()
        assert (moved != x).any()
        parts.append(encoder.encode(moved))
    mean = np.mean(parts, axis=0)
    np.testing.assert_allclose(seen.encode(x), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    assert seen.encode(x[:0]).shape == (0, 6)


def test_saved_and_loaded_and_drawn_by_its_seed(tmp_path: Path) -> None:
    encoder = encoder_of("uint8")
    x = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 1)).astype(np.uint8)
    seen = with_views(encoder, AUGMENT, views=2, seed=4)
    seen.save(tmp_path / "encoder.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "encoder.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(loaded.encode(x), seen.encode(x))
    matrices = [with_views(encoder, AUGMENT, views=2, seed=seed).get_layer("views").matrices for seed in (4, 4, 5)]
    assert matrices[0] == matrices[1] != matrices[2]


def test_views_need_bounds() -> None:
    with pytest.raises(ValueError, match=r"`encoder.views` are drawn within `augment`"):
        TrainConfig(encoder=EncoderConfig(views=2), augment=AugmentConfig(elastic=0.01))
