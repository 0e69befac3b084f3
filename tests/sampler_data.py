"""Data sets for the sampler's tests: images whose pixels name their row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from make_examples import make_examples

from simpipe.config.models import SamplerConfig
from simpipe.samplers.shard_sampler import ShardSampler


def pixels(count: int) -> np.ndarray:
    """Images whose pixels name their row, so that a batch tells which examples it holds."""
    x = np.zeros((count, 4, 4, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    return x


def dataset(folder: Path, *, classes: int = 12, each: int = 22, num_shards: int = 11, compression: str = "gzip") -> np.ndarray:
    """Classes in two runs, as the writer lays them; shards are unequal."""
    y = np.repeat(np.arange(classes), each)
    shard_of = (2 * y + np.arange(len(y)) % each * 2 // each) * 5 % num_shards
    make_examples(folder, pixels(len(y)), y, num_shards=num_shards, compression=compression, shard_of=shard_of)
    return y


def row_of(inputs: np.ndarray) -> np.ndarray:
    values = inputs.astype(np.int64)
    return values[:, 0, 0, 0] + 256 * values[:, 0, 1, 0]


def rows_of(sampler: ShardSampler, steps: int, start: int = 0) -> np.ndarray:
    """int64[steps, P * K]: the examples of each batch."""
    return np.stack([row_of(inputs) for inputs, _ in sampler.batches(start, steps=steps)])


CONFIG = SamplerConfig(classes_per_batch=3, examples_per_class=4, open_blocks=12, block_examples=12)
WHOLE = CONFIG.model_copy(update={"open_blocks": 10_000})
