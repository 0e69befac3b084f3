"""One partition of a release: its rows, vectors and ANN index; built, verified, loaded and searched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.config.index import Backend as BackendConfig
from simpipe.embeddings import vectors_of
from simpipe.errors import ContractError
from simpipe.ids import hash_ids
from simpipe.index.backend import Backend, build_backend, load_backend
from simpipe.index.distance import between
from simpipe.index.exact import ExactIndex
from simpipe.index.merge import TopK, merge_topk

ROWS_FILE = "rows.parquet"
VECTORS_FILE = "vectors.npy"
BACKEND_JSON = "backend.json"
_GATHER_FLOATS = 16 << 20


def partition_folder(partition: int) -> str:
    """`partitions/00003`, relative to the release."""
    return f"partitions/{partition:05d}"


def build_partition(table: pa.Table, folder: Path, config: BackendConfig, *, distance: str) -> dict[str, Any]:
    """Builds one partition; the folder appears complete or not at all.

    Args:
      table: columns id, label, embedding (prepared vectors, see `distance.prepare`); any order.
      folder: `partitions/NNNNN` of the release.
      config: the backend.

    Returns:
      The partition's record: path, rows, backend, bytes, and its files with size and SHA-256.
    """
    table = table.sort_by("id")
    vectors = vectors_of(table)
    backend = build_backend(vectors, config, distance=distance)
    return _write(folder, table.select(["id", "label"]), vectors, backend)


def write_partition(partition: Partition, folder: Path) -> dict[str, Any]:
    """Writes a partition in memory with the very index that answered; see `build_partition`."""
    rows = pa.table({"id": pa.array(partition.ids, pa.string()), "label": pa.array(partition.labels, pa.string())})
    return _write(folder, rows, partition.vectors, partition.backend)


def _write(folder: Path, rows: pa.Table, vectors: np.ndarray, backend: Backend) -> dict[str, Any]:
    with files.replacing_folder(folder) as temporary:
        pq.write_table(rows, temporary / ROWS_FILE, compression="zstd")
        np.save(temporary / VECTORS_FILE, vectors, allow_pickle=False)
        backend.save(temporary)
        files.write_json(temporary / BACKEND_JSON, {"backend": backend.kind, "rows": len(rows)})
    return partition_record(folder)


def partition_record(folder: Path) -> dict[str, Any]:
    """The record of a partition on disk, which is complete if its folder is there."""
    about = files.read_json(folder / BACKEND_JSON)
    listed = [files.entry_of(path, folder.parent.parent).to_json() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "path": f"partitions/{folder.name}",
        "partition": int(folder.name),
        "rows": about["rows"],
        "backend": about["backend"],
        "bytes": sum(entry["size"] for entry in listed),
        "files": listed,
    }


def stack_rows(rows: np.ndarray, places: np.ndarray, better: np.ndarray) -> np.ndarray:
    """`rows` int64[n, k] with those at `places` taken from `better`, padded with -1 to the wider of both."""
    out = np.full((len(rows), max(rows.shape[1], better.shape[1])), -1, np.int64)
    out[:, : rows.shape[1]] = rows
    out[places] = -1
    out[places, : better.shape[1]] = better
    return out


@dataclass(frozen=True)
class Partition:
    """A loaded partition.

    Attributes:
      ids: object[n]; labels: object[n]; tie: uint64[n] (hash of the id).
      vectors: float32[n, dim], memory-mapped.
    """

    ids: np.ndarray
    labels: np.ndarray
    tie: np.ndarray
    vectors: np.ndarray
    backend: Backend
    distance: str

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(self.vectors, self.distance)

    @classmethod
    def load(cls, folder: Path, kind: str, *, distance: str, dim: int, params: dict[str, Any]) -> Partition:
        """Loads a partition whose files were verified.

        Raises:
          ContractError: rows and vectors disagree.
        """
        rows = pq.read_table(folder / ROWS_FILE)
        vectors = np.load(folder / VECTORS_FILE, mmap_mode="r" if rows.num_rows else None, allow_pickle=False)
        if vectors.shape != (rows.num_rows, dim):
            raise ContractError(f"{folder}: {rows.num_rows} rows but vectors of shape {vectors.shape}", "build the release again")
        ids = rows.column("id")
        return cls(
            ids.to_numpy(zero_copy_only=False),
            rows.column("label").to_numpy(zero_copy_only=False),
            hash_ids(ids),
            vectors,
            load_backend(folder, kind, vectors, distance=distance, params=params),
            distance,
        )

    def search(self, queries: np.ndarray, k: int, *, exact: bool = False) -> TopK:
        """The nearest rows of this partition.

        Args:
          queries: float32[n, dim], prepared.
          k: how many; fewer come back where the partition is smaller.
          exact: scan every row whatever the backend.
        """
        if len(self.ids) == 0 or len(queries) == 0:
            return TopK.empty(len(queries), 0)
        backend = self._exact if exact and not self.backend.is_exact else self.backend
        # A few more than asked for, so that rounding inside the backend does not decide at the edge.
        rows = backend.search(queries, min(k + 4, len(self.ids)))
        short = (rows >= 0).sum(axis=1) < min(k, len(self.ids))
        if short.any() and not backend.is_exact:  # an ANN index may run out before k, yet k items exist
            rows = stack_rows(rows, np.flatnonzero(short), self._exact.search(queries[short], k))
        found = rows >= 0
        safe = np.where(found, rows, 0)
        distances = np.full(rows.shape, np.inf, np.float32)
        step = max(1, _GATHER_FLOATS // max(rows.shape[1] * queries.shape[1], 1))  # bounds what is copied at once
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            distances[part] = between(queries[part], self.vectors[safe[part]], self.distance)
        distances[~found] = np.inf
        return merge_topk([TopK(distances, self.tie[safe], self.ids[safe], self.labels[safe])], k)

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        """The rows of ids, object[n], by binary search (rows are sorted by id): int64[n], -1 for one that is not here."""
        if not len(self.ids):
            return np.full(len(items), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.ids, items), len(self.ids) - 1)
        return np.where(self.ids[rows] == items, rows, -1)
