"""How a partition keeps its vectors: float32, float16 or int8. Distances are those of what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe.arrays import load_array
from simpipe.config.index import Storage
from simpipe.errors import ConfigError, ContractError
from simpipe.index.distance import between, prepare

VECTORS_FILE = "vectors.npy"
SCALE_FILE = "scale.npy"
_DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
_BLOCK = 1 << 16
_GATHER_FLOATS = 1 << 16


def encode(vectors: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors as they are stored.

    Args:
      vectors: float32[n, dim], prepared.

    Returns:
      float32, float16 or int8 [n, dim], and for int8 the scale float32[dim]: a value is its int8 times the scale.

    Raises:
      ConfigError: values that float16 cannot hold.
    """
    if storage == "float32":
        return np.ascontiguousarray(vectors, np.float32), None
    out = np.empty(vectors.shape, _DTYPES[storage])
    blocks = [slice(first, first + _BLOCK) for first in range(0, len(vectors), _BLOCK)]
    if storage == "float16":
        with np.errstate(over="ignore"):
            for block in blocks:
                out[block] = vectors[block]
        if not all(np.isfinite(out[block]).all() for block in blocks):
            raise ConfigError("build.storage: float16 cannot hold these vectors (beyond 65504)", "use float32 or int8")
        return out, None
    largest = np.zeros(vectors.shape[1], np.float32)
    for block in blocks:
        largest = np.maximum(largest, np.abs(vectors[block]).max(axis=0))
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    for block in blocks:
        out[block] = np.clip(np.rint(vectors[block] / scale), -127, 127)
    return out, scale


class StoredVectors:
    """Rows of float16 or int8 that read as float32; under `cosine` brought back to unit norm, which rounding took.

    Args:
      data: float16 or int8 [n, dim], may be memory-mapped. scale: float32[dim] of int8. distance: of the index.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, data: np.ndarray, scale: np.ndarray | None, distance: str) -> None:
        self.data, self.scale, self._distance = data, scale, distance
        self.shape = data.shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """float32[..., dim] of rows; each is decoded by itself, whatever else is asked for."""
        values = self.data[rows].astype(np.float32)
        if self.scale is not None:
            values *= self.scale
        if self._distance != "cosine":
            return values
        return prepare(values.reshape(-1, values.shape[-1]), "cosine").reshape(values.shape)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self[:]


Vectors = np.ndarray | StoredVectors


def decoded(data: np.ndarray, scale: np.ndarray | None, distance: str) -> Vectors:
    """What `encode` returned, to be read as float32[n, dim]."""
    return data if data.dtype == np.float32 else StoredVectors(data, scale, distance)


def raw(vectors: Vectors) -> tuple[np.ndarray, np.ndarray | None]:
    """What `decoded` was made from: values as they are stored [n, dim], and the scale float32[dim] of int8."""
    return (vectors, None) if isinstance(vectors, np.ndarray) else (vectors.data, vectors.scale)


def join_stored(
    kept: Sequence[tuple[np.ndarray, np.ndarray | None]], fresh: np.ndarray, storage: Storage
) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored rows of some partitions and new vectors, as one partition stores them.

    Kept values stay as they are, bit for bit, however often they pass here. Of int8 they change only in dimensions whose scale
    is too small for another part or for a new row.

    Args:
      kept: stored rows [n, dim] and their scale, see `raw`. fresh: float32[m, dim], prepared.

    Returns:
      Kept rows in their order, then the new ones; see `encode`.

    Raises:
      ConfigError: see `encode`.
    """
    kept = [(data, scale) for data, scale in kept if len(data)]
    if not kept:
        return encode(fresh, storage)
    if storage != "int8":
        return np.concatenate([*(data for data, _ in kept), encode(fresh, storage)[0]]), None
    scale = _common_scale(kept, fresh)
    parts = []
    for data, own in kept:
        other = np.flatnonzero(own != scale)
        if len(other):
            data = data.copy()
            data[:, other] = np.clip(np.rint(data[:, other] * (own / scale)[other]), -127, 127)
        parts.append(data)
    added = np.clip(np.rint(fresh / scale), -127, 127).astype(np.int8)
    return np.concatenate([*parts, added]), scale


def _common_scale(kept: Sequence[tuple[np.ndarray, Any]], fresh: np.ndarray) -> np.ndarray:
    """The smallest scale float32[dim] out of those in use that all rows fit in, or what the new rows need."""
    scale = np.zeros(fresh.shape[1], np.float32)
    for data, own in kept:
        scale = np.maximum(scale, np.where(data.any(axis=0), own, np.float32(0)))  # of zeros any scale is right
    largest = np.abs(fresh).max(axis=0, initial=0)
    scale = np.where(largest > np.float32(127.5) * scale, largest / np.float32(127), scale)
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def map_vectors(path: Path, scale: Path, *, rows: int, dim: int, storage: Storage, distance: str) -> Vectors:
    """Memory-maps a file of stored vectors that was verified.

    Args:
      path: of the vectors. scale: of the file of scales, read for int8.

    Raises:
      ContractError: another shape or dtype than the manifest says.
    """
    try:
        data = load_array(path, mapped=bool(rows))
        factors = load_array(scale) if storage == "int8" else None
    except (OSError, ValueError, EOFError) as error:
        raise ContractError(f"{path}: cannot be read ({error})", "build the release again") from None
    if data.shape != (rows, dim) or data.dtype != _DTYPES[storage] or (factors is not None and factors.shape != (dim,)):
        raise ContractError(
            f"{path}: {rows} rows but vectors of shape {data.shape} and dtype {data.dtype} (stored as {storage})",
            "build the release again",
        )
    return decoded(data.view(np.ndarray), factors, distance)


def measure(queries: np.ndarray, vectors: Vectors, rows: np.ndarray, distance: str) -> np.ndarray:
    """Exact distances (see `distance.between`) of queries to rows, in blocks that stay in the cache.

    Args:
      queries: float32[n, dim], prepared. rows: int64[n, k], not negative.

    Returns:
      float32[n, k].
    """
    n, k = rows.shape
    dim = queries.shape[1]
    out = np.empty((n, k), np.float32)
    step = max(1, _GATHER_FLOATS // max(k * dim, 1))
    plain = vectors if isinstance(vectors, np.ndarray) else None
    space = np.empty((min(step, n) * k, dim), np.float32) if plain is not None else None
    for first in range(0, n, step):
        part = rows[first : first + step]
        if plain is not None and space is not None:
            items = np.take(plain, part.ravel(), axis=0, out=space[: part.size], mode="clip").reshape(*part.shape, dim)
        else:
            items = vectors[part]
        out[first : first + step] = between(queries[first : first + step], items, distance)
    return out
