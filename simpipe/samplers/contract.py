"""Checks of an examples data set before anything of it is sampled: from `dataset.json` and the names of files alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import CURE, DATASET_JSON, DatasetInfo, ShardInfo, surplus_files
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.storage import Folder

SPLIT = "train"


def open_split(folder: Folder, *, missing_allowed: bool = False) -> tuple[DatasetInfo, tuple[ShardInfo, ...]]:
    """`dataset.json` and the shards of the train split.

    Args:
      folder: the data set.
      missing_allowed: a missing shard is left to the reader, which counts its records as damaged.

    Raises:
      ContractError: a shard or sidecar is missing or surplus, or counts do not add up; names the file.
    """
    info = DatasetInfo.load(folder)
    if SPLIT not in info.splits:
        raise ContractError(f"{folder.full(DATASET_JSON)}: no split {SPLIT!r}; there are {sorted(info.splits)}", CURE)
    split = info.splits[SPLIT]
    there = set(folder.names())
    lengths = [shard.num_examples for shard in split.shards]
    if sum(lengths) != split.num_examples or list(split.shard_lengths) != lengths or len(lengths) != info.num_shards:
        raise ContractError(f"{folder.full(DATASET_JSON)}: counts of split {SPLIT!r} do not add up", CURE)
    for shard in split.shards:
        path = folder.full(shard.path)
        if sum(count for _, count in shard.class_blocks) != shard.num_examples:
            raise ContractError(f"{path}: class blocks hold another number of examples than the shard", CURE)
        for name in (shard.path, shard.offsets.path):
            if name not in there and not missing_allowed:
                raise ContractError(f"{folder.full(name)}: listed in {DATASET_JSON} but missing", CURE)
    listed = {name for part in info.splits.values() for shard in part.shards for name in (shard.path, shard.offsets.path)}
    for name in surplus_files(there, listed):
        raise ContractError(f"{folder.full(name)}: not listed in {DATASET_JSON}", "remove the file, or " + CURE)
    return info, split.shards


def check_classes(
    folder: Folder, info: DatasetInfo, runs: Sequence[np.ndarray], config: SamplerConfig, *, held_out: Collection[str]
) -> np.ndarray:
    """Which classes may be drawn: bool[number of class names + 1], the last place for examples without a label.

    Raises:
      ContractError: class counts contradict each other, or a class is there that is not trained on.
      ConfigError: fewer than P classes; `held_out` names none of the train classes.
      SourceError: classes with fewer than K examples, where `small_classes` is `error`; names them.
    """
    names = info.class_names
    index = {name: place for place, name in enumerate(names)}
    trained = np.zeros(len(names), bool)
    trained[[index[name] for name in info.train_classes]] = True
    counts = np.zeros(len(names) + 1, np.int64)
    for shard, run in zip(info.splits[SPLIT].shards, runs, strict=True):
        known = (run[:, 0] >= -1) & (run[:, 0] < len(names))
        if not known.all() or not trained[run[run[:, 0] >= 0, 0]].all():
            raise ContractError(f"{folder.full(shard.path)}: {DATASET_JSON} lists a class there that is not trained on", CURE)
        np.add.at(counts, run[:, 0], run[:, 1])
    declared = np.zeros(len(names), np.int64)
    for name, count in info.class_counts.get(SPLIT, {}).items():
        declared[index[name]] = count
    if (declared != counts[:-1]).any():
        name = names[int(np.argmax(declared != counts[:-1]))]
        raise ContractError(f"{folder.full(DATASET_JSON)}: class_counts and class_blocks differ for class {name!r}", CURE)
    drawable = np.append(trained, config.ignore_labels)
    for name in held_out:
        if name not in index or not trained[index[name]]:
            raise ConfigError(
                f"held-out class {name!r} is not a train class", "name classes of classes.train, or give a share of them"
            )
        drawable[index[name]] = False
    if config.ignore_labels:
        _check_unlabelled(int(counts[drawable].sum()), config)
        return drawable
    _check_sizes(names, counts[:-1], drawable[:-1], config)
    return drawable


def _check_unlabelled(examples: int, config: SamplerConfig) -> None:
    if config.classes_per_batch != 1:
        raise ConfigError(
            f"train.sampler.classes_per_batch: {config.classes_per_batch}, but with ignore_labels all examples are one class",
            "set classes_per_batch: 1, and examples_per_class to the size of a batch",
        )
    if examples < config.examples_per_class:
        raise SourceError(
            f"the train split has {examples} examples, fewer than a batch of {config.examples_per_class}",
            "lower train.sampler.examples_per_class, or add examples; classes.train_unlabelled adds those without a label",
        )


def _check_sizes(names: Sequence[str], counts: np.ndarray, drawable: np.ndarray, config: SamplerConfig) -> None:
    p, k = config.classes_per_batch, config.examples_per_class
    few = np.flatnonzero(drawable & (counts < k))
    if len(few) and config.small_classes == "error":
        listed = ", ".join(f"{names[place]} ({counts[place]})" for place in few[:10]) + (", …" if len(few) > 10 else "")
        raise SourceError(
            f"{len(few)} train classes have fewer than train.sampler.examples_per_class = {k} examples: {listed}",
            "set train.sampler.small_classes to skip or repeat, lower train.sampler.examples_per_class, add examples, or take "
            "these classes out of classes.train",
        )
    usable = int((drawable & (counts >= (1 if config.small_classes == "repeat" else k))).sum())
    if usable < p:
        raise ConfigError(
            f"train.sampler.classes_per_batch: {p} classes a batch, but the train split has {usable}",
            "lower train.sampler.classes_per_batch, or name more classes in classes.train",
        )
