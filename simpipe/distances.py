"""Distances between embeddings as Keras operations: objects with a name, found by name, alias or configuration.

Smaller is nearer, except where `larger_is_nearer` says so (`InnerProductSimilarity`). All are computed in float32,
whatever the dtype of the embeddings: half precision can hold neither squares nor small differences.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from simpipe.errors import ConfigError

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any

_TINY = 1e-18  # below it a squared distance counts as zero, which keeps the root's gradient finite
_NO_SIGNAL = 1e-12  # the least variance (times dim) that SNR divides by


class Distance(abc.ABC):
    """Base class. A subclass defines `call(query, key)` and, where it can, `aligned(a, b)`.

    Attributes:
      name: the canonical name.
      aliases: further names that `get` knows, for the distances of this module.
      larger_is_nearer: the value is a similarity.

    Args:
      name: overrides the class's name.
      aliases: overrides the class's aliases.
    """

    name: str = ""
    aliases: tuple[str, ...] = ()
    larger_is_nearer: bool = False

    def __init__(self, name: str | None = None, aliases: Sequence[str] | None = None) -> None:
        self.name = name or type(self).name or type(self).__name__
        self.aliases = type(self).aliases if aliases is None else tuple(aliases)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Every query against every key.

        Args:
          query: float[nq, dim] of any precision.
          key: float[nk, dim].

        Returns:
          float32[nq, nk].
        """
        return self.call(ops.cast(query, "float32"), ops.cast(key, "float32"))

    def rows(self, a: Tensor, b: Tensor) -> Tensor:
        """Row i of `a` against row i of `b`: float[n, dim], float[n, dim] -> float32[n]."""
        return self.aligned(ops.cast(a, "float32"), ops.cast(b, "float32"))

    @abc.abstractmethod
    def call(self, query: Tensor, key: Tensor) -> Tensor:
        """float32[nq, dim], float32[nk, dim] -> float32[nq, nk]."""

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        """float32[n, dim], float32[n, dim] -> float32[n]. Unless overridden: the diagonal of all n x n."""
        return ops.diagonal(self.call(a, b))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor; none for the distances of this module."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distance:
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@keras.saving.register_keras_serializable(package="simpipe")
class InnerProductSimilarity(Distance):
    """`q·k`: a similarity, larger is nearer."""

    name = "inner_product"
    aliases = ("ip",)
    larger_is_nearer = True

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.matmul(query, ops.transpose(key))

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        return ops.sum(a * b, axis=1)


@keras.saving.register_keras_serializable(package="simpipe")
class CosineDistance(Distance):
    """`max(1 - q·k, 0)` for unit vectors; does not normalise."""

    name = "cosine"

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.maximum(1.0 - ops.matmul(query, ops.transpose(key)), 0.0)

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        return ops.maximum(1.0 - ops.sum(a * b, axis=1), 0.0)


@keras.saving.register_keras_serializable(package="simpipe")
class SquaredEuclideanDistance(Distance):
    """`max(|q|² - 2 q·k + |k|², 0)`."""

    name = "squared_euclidean"
    aliases = ("sql2", "sqeuclidean")

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        return _squared_euclidean(query, key)

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        return ops.sum(ops.square(a - b), axis=1)


@keras.saving.register_keras_serializable(package="simpipe")
class EuclideanDistance(Distance):
    """The root of the squared Euclidean distance, with a gradient of zero where the distance is zero."""

    name = "euclidean"
    aliases = ("l2", "pythagorean")

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        return _root(_squared_euclidean(query, key))

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        return _root(ops.sum(ops.square(a - b), axis=1))


@keras.saving.register_keras_serializable(package="simpipe")
class ManhattanDistance(Distance):
    """`Σ |q_i - k_i|`. Holds [nq, nk, dim] in memory, 4 bytes each: for batches and small memories only."""

    name = "manhattan"
    aliases = ("l1", "taxicab")

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.sum(ops.abs(query[:, None, :] - key[None, :, :]), axis=-1)

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        return ops.sum(ops.abs(a - b), axis=1)


@keras.saving.register_keras_serializable(package="simpipe")
class SNRDistance(Distance):
    """`var(q - k) / var(q)` over the coordinates (Yuan et al. 2019, "Signal-to-noise ratio", eq. 4); not symmetric.

    A variance is a squared distance of vectors less their own mean, so that nothing of size [nq, nk, dim] is held.
    A query whose coordinates are all alike has no signal: its variance counts as 1e-12 / dim.
    """

    name = "snr"
    aliases = ("signal-to-noise-ratio",)

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        query, key = _centred(query), _centred(key)
        return _squared_euclidean(query, key) / _signal(query)[:, None]

    def aligned(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = _centred(a), _centred(b)
        return ops.sum(ops.square(a - b), axis=1) / _signal(a)


_CLASSES: tuple[type[Distance], ...] = (
    InnerProductSimilarity,
    CosineDistance,
    EuclideanDistance,
    SquaredEuclideanDistance,
    ManhattanDistance,
    SNRDistance,
)
_REGISTRY: dict[str, type[Distance]] = {name: cls for cls in _CLASSES for name in (cls.name, *cls.aliases)}


def get(identifier: str | Mapping[str, Any] | Distance) -> Distance:
    """A distance from its name or alias (in any case), its configuration, or itself.

    Raises:
      ConfigError: there is none of that name, or the argument is none of the three.
    """
    if isinstance(identifier, Distance):
        return identifier
    if isinstance(identifier, str):
        if identifier.lower() not in _REGISTRY:
            raise ConfigError(f"distance {identifier!r} is unknown", f"use one of {', '.join(sorted(_REGISTRY))}")
        return _REGISTRY[identifier.lower()]()
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    raise ConfigError(
        f"distance is a {type(identifier).__name__}", "give a name, a configuration of distances.serialize, or a Distance"
    )


def serialize(distance: Distance) -> dict[str, Any]:
    """The configuration of a distance, as Keras writes it."""
    config: Any = keras.saving.serialize_keras_object(distance)
    return config


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Distance:
    """The distance that `serialize` wrote.

    Args:
      config: of `serialize`.
      custom_objects: classes of your own by name, where they are not registered with Keras.

    Raises:
      ConfigError: the configuration names no distance.
    """
    try:
        distance = keras.saving.deserialize_keras_object(dict(config), custom_objects=dict(custom_objects or {}))
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"distance: no class for {dict(config)!r}",
            "import the module that defines it before loading, registered with keras.saving.register_keras_serializable",
        ) from error
    if not isinstance(distance, Distance):
        raise ConfigError(f"distance: {dict(config)!r} is no distance", "use a configuration of distances.serialize")
    return distance


def _squared_euclidean(query: Tensor, key: Tensor) -> Tensor:
    q2 = ops.sum(ops.square(query), axis=1, keepdims=True)
    k2 = ops.sum(ops.square(key), axis=1)
    return ops.maximum(q2 - 2.0 * ops.matmul(query, ops.transpose(key)) + k2, 0.0)


def _root(squared: Tensor) -> Tensor:
    root = ops.sqrt(ops.maximum(squared, _TINY))
    return ops.where(squared <= _TINY, ops.zeros_like(root), root)


def _centred(x: Tensor) -> Tensor:
    return x - ops.mean(x, axis=1, keepdims=True)


def _signal(centred: Tensor) -> Tensor:
    return ops.maximum(ops.sum(ops.square(centred), axis=1), _NO_SIGNAL)
