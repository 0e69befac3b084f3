"""An independent writer of conforming examples data sets, for tests: arrays to a folder of shards and `dataset.json`.

TensorFlow frames the records; offsets, entries and statistics are found here, without the code of `simpipe.data`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from simpipe.data.examples import (
    DatasetInfo,
    InputSpec,
    ShardInfo,
    ShardStatistics,
    SidecarInfo,
    SplitInfo,
    shard_name,
    sort_classes,
)
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
    unlabelled: np.ndarray | None = None,
    entry_bytes: int = 4096,
) -> DatasetInfo:
    """Writes `x` [n, ...] (uint8 raw, or float32 as a float list) with labels `y` [n]; everything is `train` by default.

    Args:
      split: int[n] into `simpipe.types.SPLITS`.
      shard_of: int[n], the shard of each example; round robin within each class by default.
      unlabelled: bool[n], rows without a label, whatever `y` says; they stand first in a shard.
      entry_bytes: how far apart, in decompressed bytes, the entries into gzip shards are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = y.astype(str)
    unlabelled = np.zeros(len(x), bool) if unlabelled is None else unlabelled
    names = sort_classes(set(labels[~unlabelled].tolist()))
    index_of = {name: place for place, name in enumerate(names)}
    classes = np.array([-1 if none else index_of[label] for label, none in zip(labels, unlabelled, strict=True)], np.int64)
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
            records = [_example(str(ids[row]), int(classes[row]), x[row], spec) for row in rows]
            entries = _write_records(path, records, classes[rows], compression, entry_bytes)
            present, numbers = np.unique(classes[rows], return_counts=True)
            blocks = tuple(zip(present.tolist(), numbers.tolist(), strict=True))
            shards.append(_describe(path, records, blocks, entries))
        lengths = tuple(shard.num_examples for shard in shards)
        splits[name] = SplitInfo(
            num_examples=sum(lengths), shard_lengths=lengths, num_bytes=sum(s.size for s in shards), shards=tuple(shards)
        )
        present, numbers = np.unique(classes[split == number], return_counts=True)
        counts[name] = {names[place]: int(many) for place, many in zip(present, numbers, strict=True) if place >= 0}
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


def _write_records(
    path: Path, records: list[bytes], classes: np.ndarray, compression: str, entry_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Writes a shard; the entries into it."""
    plain = path.with_name("plain.tmp") if compression else path
    with tf.io.TFRecordWriter(str(plain)) as writer:
        for record in records:
            writer.write(record)
    if not compression:
        return ()
    framed, packer = plain.read_bytes(), zlib.compressobj(wbits=31)
    plain.unlink()
    packed, entries, begin, entry = bytearray(), [(0, 10)], 0, 0
    for number, record in enumerate(records):
        other_class = number > 0 and classes[number] != classes[number - 1]
        if begin - entry >= (entry_bytes / 2 if other_class else entry_bytes):
            packed += packer.flush(zlib.Z_FULL_FLUSH)
            entries.append((number, len(packed)))
            entry = begin
        end = begin + 12 + len(record) + 4
        packed += packer.compress(framed[begin:end])
        begin = end
    assert begin == len(framed)
    path.write_bytes(packed + packer.flush())
    return tuple(entries)


def _describe(
    path: Path, records: list[bytes], blocks: tuple[tuple[int, int], ...], entries: tuple[tuple[int, int], ...]
) -> ShardInfo:
    offsets = [0]
    for record in records:
        offsets.append(offsets[-1] + 12 + len(record) + 4)
    sidecar = path.with_name(path.name + ".offsets.npy")
    np.save(sidecar, np.array(offsets, "<u8"))
    sizes, numbers = [len(record) for record in records] or [0], [many for place, many in blocks if place >= 0]
    return ShardInfo(
        path=path.name,
        size=path.stat().st_size,
        sha256=sha256_file(path),
        num_examples=len(records),
        class_blocks=blocks,
        offsets=SidecarInfo(path=sidecar.name, size=sidecar.stat().st_size, sha256=sha256_file(sidecar)),
        entries=entries,
        statistics=ShardStatistics(
            num_classes=len(numbers),
            smallest_class=min(numbers, default=0),
            largest_class=max(numbers, default=0),
            shortest_record=min(sizes),
            longest_record=max(sizes),
            record_bytes=sum(sizes),
        ),
    )


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
