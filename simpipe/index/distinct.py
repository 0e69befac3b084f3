"""Exact duplicates, kept beside an index that holds each distinct vector once.

Many duplicates tear an HNSW graph apart (with 5,000 rows in 50 groups recall fell to 0.7-0.9 in NMSLIB, hnswlib and FAISS),
and crowd other items out of what ScaNN reorders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simpipe import files
from simpipe.arrays import load_array
from simpipe.errors import ContractError

_FILE = "groups.npy"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Groups:
    """The rows of each distinct vector.

    Attributes:
      start: int32[g + 1]; rows: int32[n], those of group j from `start[j]` to `start[j + 1]`, ascending.
    """

    start: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def first(self) -> np.ndarray:
        """int32[g]: one row of each group, by which its vector is indexed."""
        return self.rows[self.start[:-1]]

    def expand(self, found: np.ndarray, k: int) -> np.ndarray:
        """Rows of groups, nearest group first, cut at k rows.

        Args:
          found: int64[n, w] groups, -1 padded.

        Returns:
          int64[n, k], -1 padded.
        """
        there = found >= 0
        safe = np.where(there, found, 0)
        size = np.where(there, self.start[safe + 1] - self.start[safe], 0).astype(np.int64)
        before = np.cumsum(size, axis=1) - size
        take = np.clip(k - before, 0, size)
        out = np.full((len(found), k), -1, np.int64)
        reps = take.ravel()
        within = np.arange(reps.sum()) - np.repeat(np.cumsum(reps) - reps, reps)
        query = np.repeat(np.arange(len(found)), take.sum(axis=1))
        out[query, np.repeat(before.ravel(), reps) + within] = self.rows[np.repeat(self.start[safe].ravel(), reps) + within]
        return out

    def save(self, folder: Path) -> None:
        with files.replacing(folder / _FILE) as temporary, open(temporary, "wb") as handle:
            np.save(handle, np.concatenate([self.start, self.rows]), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, n: int) -> Groups | None:
        """The groups of a partition of n rows; None where no two are equal.

        Raises:
          ContractError: the file holds something else.
        """
        path = folder / _FILE
        if not path.exists():
            return None
        try:
            both = load_array(path)
        except (ValueError, OSError, EOFError) as error:
            raise ContractError(f"{path}: cannot be read ({error})", "build the release again") from None
        start, rows = both[: len(both) - n], both[len(both) - n :]
        if both.dtype != np.int32 or both.ndim != 1 or len(start) < 2 or start[-1] != n or (np.diff(start) < 1).any():
            raise ContractError(f"{path}: does not hold the groups of {n} rows", "build the release again")
        return cls(start, rows)


def group_equal(vectors: np.ndarray) -> Groups | None:
    """Groups of equal rows of float32[n, dim]; None where all differ."""
    keys = _hashes(vectors)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    new = np.empty(len(vectors), bool)
    new[:1] = True
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    if new.all():
        return None
    # Equal hashes of different vectors are told apart here: such rows open groups of their own.
    same = np.flatnonzero(~new)
    head = np.flatnonzero(new)[np.cumsum(new)[same] - 1]
    for first in range(0, len(same), _BLOCK):
        part = slice(first, first + _BLOCK)
        new[same[part]] = (vectors[order[same[part]]] != vectors[order[head[part]]]).any(axis=1)
    if new[same].any():
        alone = same[new[same]]
        rest = np.setdiff1d(np.arange(len(order)), alone)
        order = np.concatenate([order[rest], order[alone]])
        new = np.concatenate([new[rest], np.ones(len(alone), bool)])
    start = np.append(np.flatnonzero(new), len(vectors)).astype(np.int32)
    return Groups(start, order)


def _hashes(vectors: np.ndarray) -> np.ndarray:
    factors = np.random.default_rng(0).integers(1, 1 << 63, size=vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    out = np.empty(len(vectors), np.uint64)
    for first in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[first : first + _BLOCK]) + np.float32(0)  # -0.0 becomes 0.0
        bits = block.view(np.uint32).astype(np.uint64)
        out[first : first + _BLOCK] = ((bits ^ (bits >> np.uint64(15))) * factors).sum(axis=1, dtype=np.uint64)
    return out
