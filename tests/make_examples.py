"""An independent writer of conforming examples data sets, for tests: arrays to a folder of shards and `dataset.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from simpipe.data.examples import DatasetInfo, InputSpec, ShardInfo, SplitInfo, shard_name, sort_classes
from simpipe.files import sha256_file
from simpipe.types import SPLITS


def make_examples(
    folder: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    split: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    num_shards: int = 2,
    compression: str = "gzip",
    train_classes: Sequence[str] | None = None,
    shard_of: np.ndarray | None = None,
) -> DatasetInfo:
    """Writes `x` [n, ...] (uint8 raw, or float32 as a float list) with labels `y` [n]; everything is `train` by default.

    Args:
      split: int[n] into `simpipe.types.SPLITS`.
      shard_of: int[n], the shard of each example; round robin within each class by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = y.astype(str)
    names = sort_classes(set(labels.tolist()))
    index_of = {name: place for place, name in enumerate(names)}
    classes = np.array([index_of[label] for label in labels], np.int64)
    ids = [f"id-{row:06d}" for row in range(len(x))] if ids is None else ids
    split = np.zeros(len(x), np.int64) if split is None else split
    spec = InputSpec(name="image", shape=x.shape[1:], dtype=x.dtype.name, encoding="raw" if x.dtype == np.uint8 else "float")  # type: ignore[arg-type]
    if shard_of is None:
        shard_of = np.zeros(len(x), np.int64)
        order = np.lexsort((classes, split))
        shard_of[order] = np.arange(len(x)) % num_shards
    suffix = ".tfrecord" + (".gz" if compression else "")
    splits, counts = {}, {}
    for number, name in enumerate(SPLITS):
        shards = []
        for shard in range(num_shards):
            rows = np.flatnonzero((split == number) & (shard_of == shard))
            rows = rows[np.argsort(classes[rows], kind="stable")]
            path = folder / shard_name(name, shard, num_shards, suffix)
            with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression.upper())) as writer:
                for row in rows:
                    writer.write(_example(ids[row], classes[row], x[row], spec))
            present, numbers = np.unique(classes[rows], return_counts=True)
            blocks = tuple(zip(present.tolist(), numbers.tolist(), strict=True))
            size = path.stat().st_size
            shards.append(
                ShardInfo(path=path.name, size=size, sha256=sha256_file(path), num_examples=len(rows), class_blocks=blocks)
            )
        lengths = tuple(shard.num_examples for shard in shards)
        splits[name] = SplitInfo(
            num_examples=sum(lengths), shard_lengths=lengths, num_bytes=sum(s.size for s in shards), shards=tuple(shards)
        )
        present, numbers = np.unique(classes[split == number], return_counts=True)
        counts[name] = {names[place]: int(many) for place, many in zip(present, numbers, strict=True)}
    info = DatasetInfo(
        name="test",
        key="examples-key",
        input=spec,
        class_names=tuple(names),
        train_classes=tuple(names if train_classes is None else train_classes),
        splits=splits,
        class_counts=counts,
        num_shards=num_shards,
        compression=compression,  # type: ignore[arg-type]
        seed=0,
        counts={"read": len(x), "written": len(x), "rejected": 0},
        provenance={},
    )
    info.save(folder)
    return info


def _example(name: str, label: int, value: np.ndarray, spec: InputSpec) -> bytes:
    if spec.encoding == "raw":
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.tobytes()]))
    else:
        feature = tf.train.Feature(float_list=tf.train.FloatList(value=value.ravel()))
    features = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
        spec.name: feature,
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
