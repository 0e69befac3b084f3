"""Pairwise distances of embeddings as Keras operations; smaller is nearer, always."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from simpipe.errors import ConfigError

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any
PairwiseDistance = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-18  # below it a squared distance counts as zero, which keeps the root's gradient finite


def cosine(query: Tensor, key: Tensor) -> Tensor:
    """`max(1 - q·k, 0)` for unit vectors; does not normalise.

    Args:
      query: float[n, dim].
      key: float[m, dim].

    Returns:
      float[n, m]; float32 where the inputs are float32.
    """
    return ops.maximum(1.0 - ops.matmul(query, ops.transpose(key)), 0.0)


def squared_euclidean(query: Tensor, key: Tensor) -> Tensor:
    """`max(|q|² - 2 q·k + |k|², 0)`: float[n, dim], float[m, dim] -> float[n, m]."""
    q2 = ops.sum(ops.square(query), axis=1, keepdims=True)
    k2 = ops.sum(ops.square(key), axis=1)
    return ops.maximum(q2 - 2.0 * ops.matmul(query, ops.transpose(key)) + k2, 0.0)


def euclidean(query: Tensor, key: Tensor) -> Tensor:
    """The root of `squared_euclidean`, with a gradient of zero where the distance is zero: float[n, m]."""
    squared = squared_euclidean(query, key)
    root = ops.sqrt(ops.maximum(squared, _TINY))
    return ops.where(squared <= _TINY, ops.zeros_like(root), root)


def manhattan(query: Tensor, key: Tensor) -> Tensor:
    """`Σ |q_i - k_i|`: float[n, m]. Holds [n, m, dim] in memory: for batches only."""
    return ops.sum(ops.abs(query[:, None, :] - key[None, :, :]), axis=-1)


_REGISTRY: dict[str, PairwiseDistance] = {
    "cosine": cosine,
    "euclidean": euclidean,
    "squared_euclidean": squared_euclidean,
    "manhattan": manhattan,
}


def get(name: str) -> PairwiseDistance:
    """The distance called `name`.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"distance {name!r} is unknown", f"use one of {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]
