"""Class-balanced batches from TFRecord shards of any writer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.errors import SourceError
from simpipe.samplers.arguments import SamplerError, draw_seed
from simpipe.samplers.record_batches import RecordBatches
from simpipe.samplers.record_groups import first_records
from simpipe.samplers.record_parser import RecordParser
from simpipe.samplers.tfdata_sampler import label_of

_LOG = logging.getLogger(__name__)
_SAMPLE = 4
_OPEN_BYTES = 2 << 30  # of files read together where the caller names no number of shards


def TFRecordDatasetSampler(
    shard_path: str | os.PathLike[str],
    deserialization_fn: Callable[[Any], Any],
    example_per_class: int = 2,
    batch_size: int = 32,
    shards_per_cycle: int | None = None,
    compression: str | None = None,
    parallelism: int = tf.data.AUTOTUNE,
    async_cycle: bool = False,
    prefetch_size: int | None = None,
    shard_suffix: str = "*.tfrec",
    num_repeat: int = -1,
    *,
    label_output: int | str | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Batches of exactly `batch_size // example_per_class` classes with `example_per_class` distinct examples each.

    Shards are read in groups, whole and still serialized; batches are drawn from one group for as many steps as its
    records fill batches, then the next group is read. Classes are drawn uniformly; a class deals its examples in
    shuffled order and shuffles anew when all were dealt. Groups are drawn anew in every pass. Within a shard records may
    lie in any order and number, but a class must have K examples in a group to be drawn from it.

    Args:
      shard_path: folder of the shards, local or a URI.
      deserialization_fn: makes an example `(x, y, ...)` of one serialized record (string[]); y is the label. Where
        TensorFlow can vectorise it, it runs on whole batches.
      example_per_class: K.
      batch_size: P * K; where it is no multiple of K, batches hold the next smaller multiple.
      shards_per_cycle: shards of a group, which are in memory together; a group with fewer than P classes is read together
        with the next one. None for all shards, or for as many as 2 GiB of files hold.
      compression: None, "GZIP" or "ZLIB".
      parallelism: parallel calls when parsing.
      async_cycle: whether the next group is read in the background, which takes its memory beside the first's.
      prefetch_size: batches made ahead; None for 10.
      shard_suffix: pattern of the shards' names.
      num_repeat: passes over the shards; -1 for no end. A pass is as many batches as the records fill, rounded.
      label_output: position or key of the label where y is a tuple or a dictionary; None where y is the label.
      seed: the same seed gives the same batches; each new iteration of the data set goes on with other ones. None draws anew.

    Returns:
      batches in the structure of an example, K after K.

    Raises:
      SourceError: there are no shards or records, a shard cannot be read, or (with all shards in one group) a class has
        fewer than K examples. The first group is read before the function returns; in a later one the data set raises a
        TensorFlow error with this text.
      SamplerError: numbers below 1, no label, or fewer than P classes.
    """
    if example_per_class < 1 or batch_size < example_per_class or (shards_per_cycle is not None and shards_per_cycle < 1):
        raise SamplerError(
            f"batch_size={batch_size}, example_per_class={example_per_class}, shards_per_cycle={shards_per_cycle}",
            "give 1 or more each, and a batch_size of at least example_per_class",
        )
    pattern = os.path.join(os.fspath(shard_path), shard_suffix)
    paths = sorted(tf.io.gfile.glob(pattern))
    if not paths:
        raise SourceError(f"no shards match {pattern}", "correct shard_path or shard_suffix")
    classes = batch_size // example_per_class
    batch = classes * example_per_class
    if batch != batch_size:
        _LOG.warning("batch_size %d is no multiple of %d: batches hold %d examples", batch_size, example_per_class, batch)
    parser = RecordParser(
        deserialization_fn,
        label_of=lambda example: label_of(example, label_output),
        sample=first_records(paths, compression, _SAMPLE),
        parallelism=parallelism,
    )
    groups = RecordBatches(
        paths=paths,
        compression=compression,
        parser=parser,
        classes_per_batch=classes,
        examples_per_class=example_per_class,
        shards_per_group=shards_per_cycle or _shards_that_fit(paths, classes),
        passes=num_repeat,
        seed=draw_seed(seed),
        read_ahead=async_cycle,
    )
    serialized = tf.data.Dataset.from_generator(groups.batches, output_signature=tf.TensorSpec((batch,), tf.string))
    return parser.batches(serialized, batch).prefetch(prefetch_size or 10)


def _shards_that_fit(paths: Sequence[str], least: int) -> int:
    """How many shards are read together: all, or as many as fit, but `least` (a shard may hold a single class)."""
    sizes = np.array([tf.io.gfile.stat(path).length for path in paths])
    if sizes.sum() <= _OPEN_BYTES:
        return len(paths)
    together = min(len(paths), max(least, int(_OPEN_BYTES / sizes.mean())))
    if together < len(paths):
        _LOG.warning("%d of %d shards are read together, to bound memory; shards_per_cycle sets it", together, len(paths))
    return together
