"""Backbones of `keras.applications`: weights or a clear error, trainable parts, synchronised batch norm."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from simpipe.architectures.heads import check_choice
from simpipe.errors import ConfigError, SourceError

_LOG = logging.getLogger(__name__)
TRAINABLE = ("frozen", "partial", "full")
Weights = str | os.PathLike[str] | None


def pretrained_backbone(
    build: Callable[..., Any],
    input_shape: tuple[int | None, int | None, int],
    *,
    weights: Weights,
    trainable: str,
    partial: str,
    of: str,
) -> Any:
    """A backbone without its classifier.

    Args:
      build: a function of `keras.applications`.
      input_shape: [height, width, 3].
      weights: None (random), "imagenet" (downloaded by Keras, or from its cache), or the path of a weights file.
      trainable: "frozen", "partial" or "full". Batch norms stay frozen wherever weights are loaded: their statistics
        belong to the weights.
      partial: pattern of the names of layers that "partial" trains.
      of: the architecture's name, for errors.

    Returns:
      A functional Keras model from images to the last feature map, its batch norms synchronised across replicas.

    Raises:
      ConfigError: `trainable` is unknown, or the weights file is missing or does not fit.
      SourceError: the ImageNet weights can be neither downloaded nor found in the cache.
    """
    check_choice("trainable", trainable, TRAINABLE, of=of)
    if weights == "imagenet":
        backbone = _downloaded(build, input_shape, of=of)
    else:
        backbone = build(include_top=False, weights=None, input_shape=tuple(input_shape))
        if weights is not None:
            _load(backbone, weights, of=of)
    if weights is None and trainable != "full":
        _LOG.warning(
            "%s: weights=None with trainable=%r leaves layers at their random values; cure: trainable='full'", of, trainable
        )
    backbone.trainable = trainable != "frozen"
    for layer in backbone.layers:
        if trainable == "partial" and not re.match(partial, layer.name):
            layer.trainable = False
        if isinstance(layer, keras.layers.BatchNormalization):
            # Over all replicas, so that N replicas of B/N examples train as one of B. Read at call time, and saved.
            layer.synchronized = True
            if weights is not None:
                layer.trainable = False
    return backbone


def _downloaded(build: Callable[..., Any], input_shape: tuple[int | None, int | None, int], *, of: str) -> Any:
    try:
        return build(include_top=False, weights="imagenet", input_shape=tuple(input_shape))
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise SourceError(
            f"{of}: the ImageNet weights can be neither downloaded nor found in Keras' cache ({error})",
            "give the path of a weights file (weights='FILE', the 'notop' one), or weights=None and trainable='full' "
            "to train from random values",
        ) from error


def _load(backbone: Any, weights: str | os.PathLike[str], *, of: str) -> None:
    path = Path(weights)
    if not path.is_file():
        raise ConfigError(
            f"{of}: weights {str(weights)!r} is neither 'imagenet' nor a file", "give the path of a weights file, or None"
        )
    cure = "give a file written for this architecture without its classifier (include_top=False, the 'notop' file)"
    floats = [weight for weight in backbone.weights if weight.dtype.startswith("float")]
    for weight in floats:
        weight.assign(np.full(weight.shape, np.nan))  # Keras passes over what the file lacks: this shows it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds
        raise ConfigError(f"{of}: the weights of {path} do not fit ({error})", cure) from error
    lacking = [weight.path for weight in floats if np.isnan(weight).any()]
    if lacking:
        raise ConfigError(f"{of}: {path} lacks {len(lacking)} weights, the first is {lacking[0]}", cure)
