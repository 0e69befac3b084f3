"""What the image architectures share: checked arguments, pooling, and the embedding on top."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.layers import GeneralizedMeanPooling2D, MetricEmbedding

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
_POOLINGS = ("gem", "avg", "max", None)


def check_choice(name: str, value: Any, choices: Collection[Any], *, of: str) -> None:
    """Raises ConfigError where `value` is none of `choices`; `of` is the architecture's name."""
    if value not in choices:
        raise ConfigError(f"{of}: {name} {value!r} is unknown", f"use one of {', '.join(map(repr, choices))}")


def check_input_shape(input_shape: Sequence[int | None], *, least: int, channels: int | None, of: str) -> None:
    """Raises ConfigError where the shape is not [height, width, channels] with sides of at least `least`.

    Args:
      input_shape: the caller's; None stands for any side.
      least: the smallest side.
      channels: the number that is needed, or None for any.
      of: the architecture's name.
    """
    if len(input_shape) != 3 or not input_shape[2] or (channels and input_shape[2] != channels):
        raise ConfigError(
            f"{of}: input_shape is {tuple(input_shape)}",
            f"give (height, width, {channels or 'channels'})" + ("; repeat a grey channel three times" if channels else ""),
        )
    if any(side is not None and side < least for side in input_shape[:2]):
        raise ConfigError(
            f"{of}: input_shape is {tuple(input_shape)}, and the sides must be at least {least}", "resize the images before"
        )


def check_head(*, include_top: bool, pooling: str | None, of: str) -> None:
    """Raises ConfigError where the pooling is unknown, or is missing under a top."""
    check_choice("pooling", pooling, _POOLINGS, of=of)
    if include_top and pooling is None:
        raise ConfigError(f"{of}: include_top needs a pooling, pooling is None", "set pooling='gem' or include_top=False")


def pool_and_embed(
    x: Any, *, embedding_size: int, l2_norm: bool, include_top: bool, pooling: str | None, gem_p: float
) -> keras.KerasTensor:
    """The head over the last feature map.

    Args:
      x: [batch, height, width, channels].
      embedding_size: units of the top.
      l2_norm: whether the top is a `MetricEmbedding` (rows of length one) or a dense layer.
      include_top: whether there is a top at all.
      pooling: "gem", "avg", "max", or None for the feature map itself.
      gem_p: power of the generalized mean.

    Returns:
      [batch, embedding_size]; without a top [batch, channels], or `x` where nothing is pooled.
    """
    if pooling == "gem":
        x = GeneralizedMeanPooling2D(p=gem_p, name="gem_pool")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    if not include_top:
        return x
    if l2_norm:
        return MetricEmbedding(embedding_size, name="embedding")(x)
    # Float32 also under mixed precision, as MetricEmbedding's output is.
    return layers.Activation("linear", dtype="float32", name="float32")(layers.Dense(embedding_size, name="embedding")(x))
