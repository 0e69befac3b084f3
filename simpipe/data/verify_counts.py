"""Whether a `dataset.json` agrees with itself: names, runs of classes, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from simpipe.data.examples import DatasetInfo, ShardInfo, shard_name


def contradictions(info: DatasetInfo) -> Iterator[str]:
    """What does not add up, one sentence each."""
    if len(set(info.class_names)) != len(info.class_names):
        yield "class_names: a name occurs twice"
    if info.train_classes != info.class_names[: len(info.train_classes)]:
        yield "train_classes are not the first of class_names"
    suffix = ".tfrecord" + (".gz" if info.compression else "")
    for name, split in info.splits.items():
        for number, shard in enumerate(split.shards):
            if shard.path != shard_name(name, number, len(split.shards), suffix):
                yield f"splits.{name}: shard {number} is named {shard.path}"
            yield from _of_shard(shard, len(info.class_names))
        if split.shard_lengths != tuple(shard.num_examples for shard in split.shards):
            yield f"splits.{name}: shard_lengths differ from the shards' num_examples"
        if split.num_examples != sum(split.shard_lengths) or len(split.shards) != info.num_shards:
            yield f"splits.{name}: num_examples or num_shards does not add up"
        if split.num_bytes != sum(shard.size for shard in split.shards):
            yield f"splits.{name}: num_bytes differs from the sum of the shards' sizes"
        yield from _of_classes(info, name)
    total = sum(split.num_examples for split in info.splits.values())
    if info.counts.get("written", total) != total:
        yield f"counts.written is {info.counts['written']}, the splits hold {total} examples"


def _of_shard(shard: ShardInfo, classes: int) -> Iterator[str]:
    runs = [index for index, _ in shard.class_blocks]
    if len(set(runs)) != len(runs):
        yield f"{shard.path}: a class has several runs in class_blocks"
    if runs and not -1 <= min(runs) <= max(runs) < classes:
        yield f"{shard.path}: class_blocks name classes {min(runs)} to {max(runs)}; there are 0 to {classes - 1}, and -1 for none"
    if sum(count for _, count in shard.class_blocks) != shard.num_examples:
        yield f"{shard.path}: class_blocks do not add up to {shard.num_examples} examples"


def _of_classes(info: DatasetInfo, split: str) -> Iterator[str]:
    counted: Counter[str] = Counter()
    for shard in info.splits[split].shards:
        for index, count in shard.class_blocks:
            if 0 <= index < len(info.class_names):
                counted[info.class_names[index]] += count
    said = info.class_counts.get(split, {})
    for name in sorted(counted.keys() | said.keys()):
        if counted[name] != said.get(name, 0):
            yield f"class_counts.{split}: class {name!r} has {said.get(name, 0)}, class_blocks hold {counted[name]}"
