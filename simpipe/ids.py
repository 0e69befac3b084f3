"""Stable hashes of string ids: which shard, split or bucket an id belongs to.

An item's place follows from its id alone, so it never moves when other items come or go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def _splitmix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_ids(ids: pa.Array | pa.ChunkedArray | Sequence[str], seed: int = 0) -> np.ndarray:
    """FNV-1a over the UTF-8 bytes, finished with SplitMix64: uint64[n].

    Vectorised over ids, one step per byte position. The values are part of the on-disk contract.
    """
    given: Any = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(ids, pa.string())
    array = pa.concat_arrays(given.chunks or [pa.array([], pa.string())]) if isinstance(given, pa.ChunkedArray) else given
    array = array.cast(pa.large_string())
    buffers = array.buffers()
    offsets = np.frombuffer(buffers[1], np.int64, len(array) + 1, array.offset * 8) if len(array) else np.zeros(1, np.int64)
    data = np.frombuffer(buffers[2] or b"", np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    value = np.full(len(array), _FNV_OFFSET, np.uint64)
    with np.errstate(over="ignore"):
        for position in range(int(lengths.max(initial=0))):
            live = np.flatnonzero(lengths > position)
            value[live] = (value[live] ^ data[starts[live] + position].astype(np.uint64)) * _FNV_PRIME
        return _splitmix(value + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))


def bucket_of(ids: pa.Array | pa.ChunkedArray | Sequence[str], buckets: int) -> np.ndarray:
    """The bucket (shard, store file) of each id: int64[n] in [0, buckets)."""
    return (hash_ids(ids) % np.uint64(buckets)).astype(np.int64)


def holdout(ids: pa.Array | pa.ChunkedArray | Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which ids are held out as queries: bool[n], about `fraction` of them, decided id by id."""
    return hash_ids(ids, seed=seed + 1).astype(np.float64) < fraction * 2.0**64
