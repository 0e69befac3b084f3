"""Some examples of some classes, read by their offsets: for class centroids and held-out metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simpipe.data.examples import DatasetInfo
from simpipe.samplers.block_reader import BlockReader
from simpipe.samplers.contract import SPLIT
from simpipe.storage import Folder, open_folder


def read_classes(
    folder: str | Path | Folder, info: DatasetInfo, classes: Sequence[int], *, at_most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `at_most` examples of each class of the train split.

    Of a class that lies in several shards, each gives its share of consecutive records, beginning at a drawn place: few
    reads, and the same examples for the same seed.

    Args:
      folder: an examples data set. info: its `dataset.json`.
      classes: class indexes.
      at_most: examples of a class.
      seed: of the draw.

    Returns:
      inputs of the input's dtype [n, *shape], class indexes int64[n], in the order of shards and records.

    Raises:
      ContractError, SourceError: as `BlockReader.labels_and_inputs`.
    """
    where = open_folder(folder)
    shards = info.splits[SPLIT].shards
    runs = [np.array(shard.class_blocks, np.int64).reshape(-1, 2) for shard in shards]
    shard_of = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    run = np.concatenate(runs)
    first = np.concatenate([np.cumsum(each[:, 1]) - each[:, 1] for each in runs])
    wanted = np.flatnonzero(np.isin(run[:, 0], np.asarray(classes, np.int64)) & (run[:, 1] > 0))
    # A class's quota is dealt to its runs in proportion to their sizes, by the places that it reaches on their joint line.
    order = wanted[np.argsort(run[wanted, 0], kind="stable")]
    owner, sizes = run[order, 0], run[order, 1]
    _, inverse = np.unique(owner, return_inverse=True)
    totals = np.bincount(inverse, sizes).astype(np.int64)[inverse]
    ends = np.cumsum(sizes)
    base = np.concatenate([[0], ends])[np.searchsorted(owner, owner, side="left")]
    quota = np.minimum(totals, at_most)
    take = (ends - base) * quota // totals - (ends - sizes - base) * quota // totals
    rng = np.random.default_rng([seed, len(order)])
    begin = first[order] + (rng.random(len(order)) * (sizes - take + 1)).astype(np.int64)
    back = np.lexsort((begin, shard_of[order]))
    order, take, begin, owner = order[back], take[back], begin[back], owner[back]
    total = int(take.sum())
    inputs, labels = np.empty((total, *info.input.shape), info.input.dtype), np.repeat(owner, take)
    reader, done = BlockReader(where, info), 0
    for place, count, record in zip(shard_of[order].tolist(), take.tolist(), begin.tolist(), strict=True):
        if count:
            reader.labels_and_inputs(shards[place], record, labels[done : done + count], inputs[done : done + count])
        done += count
    return inputs, labels
