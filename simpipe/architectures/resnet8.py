"""A small residual encoder for drawings and other small images (He et al. 2016, with seven convolutions)."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.config.models import EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.layers import MetricEmbedding
from simpipe.models import SimilarityModel

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
STAGES = 3
_LARGE = 48  # from this side on the stem halves the image


def resnet8(spec: InputSpec, config: EncoderConfig, *, seed: int) -> SimilarityModel:
    """Images of any side: a stem, three stages of one residual block each with a 2x2 maximum between, all of the last map.

    The stem is a 5x5 convolution of stride 2 where both sides are 48 or more, else 3x3 of stride 1. The stages have
    `filters`, twice and four times as many maps. The embedding sees where on the image things are, not only that they are:
    for things that stand upright in the middle.

    Args:
      spec: uint8 (scaled to [0, 1] inside) or float32 (taken as it is) images [height, width, channels].
      config: `filters` of the first stage, `dim` of the embedding.
      seed: of the initial weights.
    """
    kernels = iter(range(seed, seed + 100))

    def convolve(x: Any, filters: int, kernel: int, *, stride: int = 1, name: str) -> Any:
        initial = keras.initializers.HeNormal(seed=next(kernels))
        x = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, kernel_initializer=initial, name=f"{name}_conv"
        )(x)
        # Over all replicas, so that N replicas of B/N examples train as one of B.
        return layers.BatchNormalization(synchronized=True, name=f"{name}_norm")(x)

    inputs = keras.Input(spec.shape, dtype=spec.dtype, name="input")
    x = layers.Rescaling(1 / 255 if spec.dtype == "uint8" else 1.0, name="rescale")(inputs)
    large = min(spec.shape[:2]) >= _LARGE
    x = layers.ReLU(name="stem_relu")(convolve(x, config.filters, 5 if large else 3, stride=2 if large else 1, name="stem"))
    for stage in range(STAGES):
        filters, name = config.filters << stage, f"stage{stage}"
        if stage:
            x = layers.MaxPooling2D(2, padding="same", name=f"{name}_pool")(x)
        same = x
        if stage:
            initial = keras.initializers.HeNormal(seed=next(kernels))
            same = layers.Conv2D(filters, 1, use_bias=False, kernel_initializer=initial, name=f"{name}_widen")(x)
        x = layers.ReLU(name=f"{name}_relu1")(convolve(x, filters, 3, name=f"{name}_1"))
        x = convolve(x, filters, 3, name=f"{name}_2")
        x = layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([same, x]))
    x = layers.Flatten(name="flatten")(x)
    kernel = keras.initializers.GlorotUniform(seed=next(kernels))
    return SimilarityModel(inputs, MetricEmbedding(config.dim, kernel_initializer=kernel, name="embedding")(x), name="encoder")
