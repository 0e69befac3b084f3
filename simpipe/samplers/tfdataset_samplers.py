"""A memory sampler over a data set of the TensorFlow Datasets catalogue."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.errors import ConfigError, SourceError
from simpipe.samplers.arguments import SamplerError
from simpipe.samplers.memory_samplers import MultiShotMemorySampler
from simpipe.samplers.read_columns import read_columns
from simpipe.samplers.sampler import Augmenter

_LOG = logging.getLogger(__name__)


class TFDatasetMultiShotMemorySampler(MultiShotMemorySampler):
    """`MultiShotMemorySampler` over a catalogue data set, read into memory whole (wanted classes only).

    Needs the extra `simpipe[tfds]`. A data set that is not prepared yet is downloaded and prepared by
    TensorFlow Datasets, which asks for a network.

    Args:
      dataset_name: as in `tfds.load`, such as "mnist" or "name/config:1.0.0".
      classes_per_batch: P.
      x_key: feature that becomes x.
      y_key: feature that holds the label.
      splits: one or several, such as "train", ["train", "test"] or "train[:10%]".
      examples_per_class_per_batch, steps_per_epoch, class_list, total_examples_per_class: see `MultiShotMemorySampler`.
      preprocess_fn: `(x, y) -> (x, y)` of one example, such as a resize; applied once, when the data are read.
      augmenter, warmup, seed, **kwargs: see `MultiShotMemorySampler`.
      data_dir: where prepared data sets lie; None for the environment's `TFDS_DATA_DIR`, or the library's own default.
      download: whether a data set that is not prepared may be downloaded.

    Raises:
      ConfigError: tensorflow-datasets is not installed.
      SourceError: the data set is unknown, or is not prepared and cannot be downloaded.
      SamplerError: a key or split does not exist, examples differ in shape, or as for `MultiShotMemorySampler`.
    """

    def __init__(
        self,
        dataset_name: str,
        classes_per_batch: int,
        x_key: str = "image",
        y_key: str = "label",
        splits: str | Sequence[str] = ("train", "test"),
        examples_per_class_per_batch: int = 2,
        steps_per_epoch: int = 1000,
        class_list: Sequence[Any] | None = None,
        total_examples_per_class: int | None = None,
        preprocess_fn: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        augmenter: Augmenter | None = None,
        warmup: int = -1,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        download: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        builder = _prepared(dataset_name, data_dir or os.environ.get("TFDS_DATA_DIR"), download)
        dataset = _read(builder, [splits] if isinstance(splits, str) else list(splits), x_key, y_key)
        if preprocess_fn is not None:
            dataset = _preprocessed(dataset, preprocess_fn)
        (x, _), y = read_columns(dataset, label_of=lambda pair: pair[1], class_list=class_list)
        super().__init__(
            x,
            y,
            classes_per_batch=classes_per_batch,
            examples_per_class_per_batch=examples_per_class_per_batch,
            steps_per_epoch=steps_per_epoch,
            class_list=class_list,
            total_examples_per_class=total_examples_per_class,
            augmenter=augmenter,
            warmup=warmup,
            seed=seed,
            **kwargs,
        )


def _prepared(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Any:
    """The builder of a data set that lies prepared on disk."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ConfigError(f"tensorflow-datasets cannot be imported: {error}", "install the extra: simpipe[tfds]") from None
    place = os.fspath(data_dir) if data_dir is not None else None
    try:
        builder: Any = tfds.builder(name, data_dir=place)
        if builder.is_prepared():
            return builder
        if download:
            _LOG.warning("data set %s is not prepared under %s: downloading it", name, builder.data_dir)
            builder.download_and_prepare()
            return builder
    except Exception as error:  # whatever of network, disk or catalogue failed, the cure is the same
        raise SourceError(
            f"data set {name!r} cannot be read or prepared: {type(error).__name__}: {str(error).strip().splitlines()[0][:300]}",
            f"check the name; without a network, prepare it elsewhere with tfds.load({name!r}) and copy its folder to "
            f"{place or 'the data_dir'}, or name another data_dir (or TFDS_DATA_DIR)",
        ) from error
    raise SourceError(
        f"data set {name!r} is not prepared under {builder.data_dir}",
        "name the data_dir (or TFDS_DATA_DIR) that holds it, or allow download=True",
    )


def _read(builder: Any, splits: list[str], x_key: str, y_key: str) -> tf.data.Dataset:
    """(x, y) of all splits, one after the other."""
    features = sorted(builder.info.features)
    for argument, key in (("x_key", x_key), ("y_key", y_key)):
        if key not in features:
            raise SamplerError(f"{argument} {key!r} is no feature of {builder.name}", f"use one of {features}")
    try:
        parts = builder.as_dataset(split=splits, shuffle_files=False)
    except ValueError as error:
        raise SamplerError(
            f"splits {splits} of {builder.name}: {str(error).splitlines()[0]}", f"use one of {sorted(builder.info.splits)}"
        ) from None
    dataset = parts[0]
    for part in parts[1:]:
        dataset = dataset.concatenate(part)
    return dataset.map(lambda example: (example[x_key], example[y_key]), num_parallel_calls=tf.data.AUTOTUNE)


def _preprocessed(dataset: tf.data.Dataset, function: Callable[[Any, Any], tuple[Any, Any]]) -> tf.data.Dataset:
    try:
        return dataset.map(lambda x, y: tuple(function(x, y)), num_parallel_calls=tf.data.AUTOTUNE)
    except Exception as error:  # not traceable: it calls NumPy, PIL or the like
        _LOG.info("preprocess_fn runs eagerly, as TensorFlow cannot trace it: %s", error)
    first = tuple(function(*next(iter(dataset))))
    types = [tf.as_dtype(np.asarray(value).dtype) for value in first]
    return dataset.map(lambda x, y: tuple(tf.py_function(function, [x, y], types)), num_parallel_calls=tf.data.AUTOTUNE)
