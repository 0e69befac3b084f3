"""The parts that self-supervised training puts on a backbone."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.layers import ActivationStdLoggingLayer

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
_EPSILON = 1.001e-5  # of the batch norms


def get_projector(input_dim: int, dim: int = 512, activation: Any = "relu", num_layers: int = 3) -> keras.Model:
    """The projector of Chen and He 2021, "Exploring Simple Siamese Representation Learning", section 3.

    `num_layers - 1` times dense, batch norm and activation, then dense and a batch norm without scale and centre. The
    batch norms are synchronised across replicas. The spread of the outputs is logged as `proj_std`.

    Args:
      input_dim: length of the backbone's output.
      dim: units of every layer, and length of the output.
      activation: between the layers.
      num_layers: dense layers, at least 1.

    Returns:
      A model from float[batch, input_dim] to float[batch, dim].

    Raises:
      ConfigError: there is no layer.
    """
    if num_layers < 1:
        raise ConfigError(f"get_projector: num_layers is {num_layers}", "give at least 1")
    inputs = x = keras.Input((input_dim,), name="projector_input")
    for i in range(num_layers - 1):
        x = _dense(dim, use_bias=False, name=f"projector_layer_{i}")(x)
        x = layers.BatchNormalization(epsilon=_EPSILON, synchronized=True, name=f"projector_norm_{i}")(x)
        x = layers.Activation(activation, name=f"projector_activation_{i}")(x)
    x = _dense(dim, use_bias=False, name="projector_output")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, center=False, scale=False, synchronized=True, name="projector_norm_output")(x)
    return keras.Model(inputs, ActivationStdLoggingLayer("proj_std")(x), name="projector")


def get_predictor(input_dim: int, hidden_dim: int = 512, activation: Any = "relu") -> keras.Model:
    """SimSiam's predictor: dense, batch norm, activation, dense; the spread of the outputs is logged as `pred_std`.

    Args:
      input_dim: length of the projector's output, and of this one's.
      hidden_dim: units of the first layer.
      activation: between the layers.

    Returns:
      A model from float[batch, input_dim] to float[batch, input_dim].
    """
    inputs = keras.Input((input_dim,), name="predictor_input")
    x = _dense(hidden_dim, use_bias=False, name="predictor_layer_0")(inputs)
    x = layers.BatchNormalization(epsilon=_EPSILON, synchronized=True, name="predictor_norm_0")(x)
    x = layers.Activation(activation, name="predictor_activation_0")(x)
    x = _dense(input_dim, use_bias=True, name="predictor_output")(x)
    return keras.Model(inputs, ActivationStdLoggingLayer("pred_std")(x), name="predictor")


def _dense(units: int, *, use_bias: bool, name: str) -> Any:
    return layers.Dense(units, use_bias=use_bias, kernel_initializer="lecun_uniform", name=name)
