"""EfficientNet encoders."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from simpipe.architectures.heads import check_choice, check_head, check_input_shape, pool_and_embed
from simpipe.architectures.pretrained import Weights, pretrained_backbone
from simpipe.models import SimilarityModel

VARIANTS = tuple(f"B{i}" for i in range(8))
_STD = np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet's channels in [0, 1]


def EfficientNetSim(
    input_shape: tuple[int | None, int | None, int],
    embedding_size: int = 128,
    variant: str = "B0",
    weights: Weights = "imagenet",
    trainable: str = "frozen",
    l2_norm: bool = True,
    include_top: bool = True,
    pooling: str | None = "gem",
    gem_p: float = 3.0,
) -> SimilarityModel:
    """An encoder on EfficientNet (Tan and Le 2019, "EfficientNet: Rethinking Model Scaling").

    Input: RGB images [batch, height, width, 3] with values 0 to 255 (float or uint8); the network scales them itself.
    The published weights were trained at sides of 224, 240, 260, 300, 380, 456, 528 and 600 (B0 to B7).
    Output: float32[batch, embedding_size]; see `include_top` and `pooling`.

    Args:
      input_shape: (height, width, 3), sides of at least 32; None for any side.
      embedding_size: length of the embedding.
      variant: "B0" to "B7".
      weights: "imagenet" (downloaded by Keras, or from its cache), the path of a weights file without the classifier,
        or None for random values.
      trainable: "frozen" (only the embedding learns), "partial" (also blocks 5 to 7 and the top convolution) or "full".
        Batch norms stay frozen where weights are loaded.
      l2_norm: embeddings of length one, for cosine distance.
      include_top: False leaves the embedding layer out: the output is the pooled features.
      pooling: "gem", "avg", "max", or without a top None: the output is the last feature map.
      gem_p: power of the generalized mean.

    Raises:
      ConfigError: an argument is unknown, or the weights file is missing or does not fit.
      SourceError: the ImageNet weights can be neither downloaded nor found in the cache.
    """
    of = "EfficientNetSim"
    check_choice("variant", variant.upper(), VARIANTS, of=of)
    check_input_shape(input_shape, least=32, channels=3, of=of)
    check_head(include_top=include_top, pooling=pooling, of=of)
    build = getattr(keras.applications, f"EfficientNet{variant.upper()}")
    backbone = pretrained_backbone(build, input_shape, weights=weights, trainable=trainable, partial="block[5-7]|top", of=of)
    if weights is not None and weights != "imagenet":
        _divide_by_the_deviation(backbone)
    inputs = keras.Input(input_shape, name="input")
    outputs = pool_and_embed(
        backbone(inputs),
        embedding_size=embedding_size,
        l2_norm=l2_norm,
        include_top=include_top,
        pooling=pooling,
        gem_p=gem_p,
    )
    return SimilarityModel(inputs, outputs, name=f"efficientnet_{variant.lower()}_sim")


def _divide_by_the_deviation(backbone: Any) -> None:
    """Mends the input's scale of published weights that were read from a file.

    Their normalization holds the deviation where the layer expects its square. `weights="imagenet"` makes Keras add a
    layer that makes up for it; a path does not.
    """
    norm: Any = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Normalization))
    if np.allclose(np.asarray(norm.adapt_variance), _STD, atol=1e-3):
        norm.adapt_variance.assign(np.square(_STD))
        norm.finalize_state()
