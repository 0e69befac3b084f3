"""The work and the weights of an encoder, from its configuration alone: no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simpipe.config.models import EncoderConfig

_LARGE = 48  # see `architectures.resnet8`
_STAGES = 3
_BLOCKS = 4
_WIDTH = 4  # see `architectures.mlp`


def multiply_adds(config: EncoderConfig, shape: tuple[int, ...]) -> float:
    """Multiply-adds of one example, forward.

    Args:
      shape: of the example: (height, width, channels), or (features,).
    """
    return float(sum(positions * weights for positions, weights in _layers(config, shape)))


def weights_of(config: EncoderConfig, shape: tuple[int, ...]) -> int:
    """How many weights the encoder has, but for biases and norms."""
    return sum(weights for _, weights in _layers(config, shape))


def _layers(config: EncoderConfig, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Of each layer: at how many positions it is applied, and its weights."""
    if config.architecture == "mlp" or len(shape) == 1:
        wide = _WIDTH * config.filters
        features = math.prod(shape)
        yield from ((1, features * wide), (1, wide * wide), (1, wide * config.dim))
        return
    layers = _conv4(config, shape) if config.architecture == "conv4" else _resnet8(config, shape)
    yield from layers


def _conv4(config: EncoderConfig, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    high, wide, channels = shape
    for _ in range(_BLOCKS):
        yield high * wide, 9 * channels * config.filters
        channels = config.filters
        if min(high, wide) >= 4:
            high, wide = math.ceil(high / 2), math.ceil(wide / 2)
    yield 1, high * wide * channels * config.dim


def _resnet8(config: EncoderConfig, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    high, wide, channels = shape
    large = min(high, wide) >= _LARGE
    if large:
        high, wide = math.ceil(high / 2), math.ceil(wide / 2)
    yield high * wide, (25 if large else 9) * channels * config.filters
    channels = config.filters
    for stage in range(_STAGES):
        filters = config.filters << stage
        if stage:
            high, wide = math.ceil(high / 2), math.ceil(wide / 2)
            yield high * wide, channels * filters
        yield high * wide, 9 * channels * filters
        yield high * wide, 9 * filters * filters
        channels = filters
    yield 1, high * wide * channels * config.dim
