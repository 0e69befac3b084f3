"""Four convolution blocks, the usual small encoder of few-shot image work (Vinyals et al. 2016, Snell et al. 2017)."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.config.models import EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.layers import MetricEmbedding
from simpipe.models import SimilarityModel

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
BLOCKS = 4


def conv4(spec: InputSpec, config: EncoderConfig, *, seed: int) -> SimilarityModel:
    """Images of any side: 3x3 convolution, batch norm, ReLU, and a 2x2 maximum while both sides are at least 4.

    The last maps so keep a side of 2 or more (28 and 8 pixels both end at 2), which tells unseen classes apart better
    than 1 does.

    Args:
      spec: uint8 (scaled to [0, 1] inside) or float32 (taken as it is) images [height, width, channels].
      config: `filters` of each block, `dim` of the embedding.
      seed: of the initial weights.
    """
    inputs = keras.Input(spec.shape, dtype=spec.dtype, name="input")
    x = layers.Rescaling(1 / 255 if spec.dtype == "uint8" else 1.0, name="rescale")(inputs)
    for block in range(BLOCKS):
        kernel = keras.initializers.HeNormal(seed=seed + block)
        # The norm follows: a bias would be subtracted again.
        x = layers.Conv2D(config.filters, 3, padding="same", use_bias=False, kernel_initializer=kernel, name=f"conv{block}")(x)
        # Over all replicas, so that N replicas of B/N examples train as one of B.
        x = layers.BatchNormalization(synchronized=True, name=f"norm{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
        if min(x.shape[1:3]) >= 4:
            x = layers.MaxPooling2D(2, padding="same", name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    kernel = keras.initializers.GlorotUniform(seed=seed + BLOCKS)
    return SimilarityModel(inputs, MetricEmbedding(config.dim, kernel_initializer=kernel, name="embedding")(x), name="encoder")
