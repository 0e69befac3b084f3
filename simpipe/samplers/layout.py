"""How the examples of a data set lie in blocks that are read as a whole: pure functions, NumPy only.

A *run* is what a shard holds of one class, in consecutive records. A *segment* is a run or a part of one. A *block* is a
range of consecutive records of one shard, made of whole segments; it is the unit that the sampler reads and keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpipe.data.examples import InputSpec

_BLOCK_BYTES = 4 << 20
_BLOCK_EXAMPLES = 1024


@dataclass(frozen=True)
class Layout:
    """Segments in the order of shards and records, and the blocks that they make up.

    Attributes:
      segment_class, segment_count: int64[s]; class index (-1 without a label), number of records.
      block_begin: int64[b + 1]; block i consists of segments `block_begin[i]` to `block_begin[i + 1]`.
      block_shard, block_first, block_count: int64[b]; shard, number of the first record in it, number of records.
    """

    segment_class: np.ndarray
    segment_count: np.ndarray
    block_begin: np.ndarray
    block_shard: np.ndarray
    block_first: np.ndarray
    block_count: np.ndarray

    @property
    def num_blocks(self) -> int:
        return len(self.block_shard)

    def segments_of(self, blocks: np.ndarray) -> np.ndarray:
        """int64: the segments of several blocks, block after block."""
        begins, counts = self.block_begin[blocks], np.diff(self.block_begin)[blocks]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(begins, counts) + within


def block_size(spec: InputSpec, *, wanted: int | None, examples_per_class: int) -> int:
    """Examples of a block: `wanted`, or as many as 4 MiB hold and 1024 at most; a multiple of K, K at least."""
    if wanted is None:
        each = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        wanted = min(_BLOCK_EXAMPLES, _BLOCK_BYTES // each)
    return max(wanted // examples_per_class, 1) * examples_per_class


def make_layout(runs: Sequence[np.ndarray], block_examples: int) -> Layout:
    """Cuts every shard into blocks of at most `block_examples` records.

    Runs longer than a block are cut every `block_examples` records, a multiple of K, so that cutting costs a class no
    draw; shorter ones stay whole, so that a rare class is never divided between blocks.

    Args:
      runs: for each shard int64[r, 2], class index and number of records of each run, in the order of the file.
      block_examples: records of a block at most.
    """
    classes, counts, begins, shards, firsts, sizes = [], [], [0], [], [], []
    done = 0
    for shard, run in enumerate(runs):
        run = run[run[:, 1] > 0]
        parts = -(-run[:, 1] // block_examples)
        within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        count = np.minimum(np.repeat(run[:, 1], parts) - within * block_examples, block_examples)
        classes.append(np.repeat(run[:, 0], parts))
        counts.append(count)
        ends, begin = np.cumsum(count), 0
        while begin < len(count):
            before = int(ends[begin - 1]) if begin else 0
            stop = int(np.searchsorted(ends, before + block_examples, side="right"))
            shards.append(shard)
            firsts.append(before)
            sizes.append(int(ends[stop - 1]) - before)
            begins.append(done + stop)
            begin = stop
        done += len(count)
    none = [np.empty(0, np.int64)]
    return Layout(
        np.concatenate(classes or none),
        np.concatenate(counts or none),
        np.array(begins, np.int64),
        np.array(shards, np.int64),
        np.array(firsts, np.int64),
        np.array(sizes, np.int64),
    )
