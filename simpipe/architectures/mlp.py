"""Two dense layers for numeric columns."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.config.models import EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.layers import MetricEmbedding
from simpipe.models import SimilarityModel

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
WIDTH = 4  # units of a hidden layer, times `filters`


def mlp(spec: InputSpec, config: EncoderConfig, *, seed: int) -> SimilarityModel:
    """Vectors: standardised by a batch norm of their own, then twice dense, batch norm, ReLU.

    Args:
      spec: float32 (or uint8) vectors [features].
      config: `4 * filters` units a layer, `dim` of the embedding.
      seed: of the initial weights.
    """
    inputs = keras.Input(spec.shape, dtype=spec.dtype, name="input")
    # Columns differ in scale: moving mean and variance standardise them, inside the model; before that half precision
    # could not tell the values of a column far from 0 apart.
    x = layers.Rescaling(1 / 255 if spec.dtype == "uint8" else 1.0, dtype="float32", name="rescale")(inputs)
    x = layers.BatchNormalization(center=False, scale=False, synchronized=True, dtype="float32", name="standardize")(x)
    for block in range(2):
        kernel = keras.initializers.HeNormal(seed=seed + block)
        x = layers.Dense(WIDTH * config.filters, use_bias=False, kernel_initializer=kernel, name=f"dense{block}")(x)
        x = layers.BatchNormalization(synchronized=True, name=f"norm{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
    kernel = keras.initializers.GlorotUniform(seed=seed + 2)
    return SimilarityModel(inputs, MetricEmbedding(config.dim, kernel_initializer=kernel, name="embedding")(x), name="encoder")
