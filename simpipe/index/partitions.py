"""One partition of a release: its rows, vectors and ANN index; built, verified, loaded and searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.index import Backend as BackendConfig
from simpipe.config.index import Storage
from simpipe.embeddings import vectors_of
from simpipe.index.backend import Backend, build_backend, load_backend
from simpipe.index.exact import ExactIndex
from simpipe.index.merge import TopK, nearest_rows
from simpipe.index.rows import ROWS_FILE, Rows, place_of
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.stored import SCALE_FILE, VECTORS_FILE, Vectors, decoded, encode, map_vectors, measure

BACKEND_JSON = "backend.json"
_BLOCK = 1 << 14
_MARGIN = 4
_SPARE = 8


def partition_folder(partition: int) -> str:
    """`partitions/00003`, relative to the release."""
    return f"partitions/{partition:05d}"


def build_partition(
    table: pa.Table, folder: Path, config: BackendConfig, *, distance: str, storage: Storage = "float32"
) -> dict[str, Any]:
    """Builds one partition; the folder appears complete or not at all.

    Args:
      table: columns id, label, embedding (prepared vectors, see `distance.prepare`); any order.
      folder: `partitions/NNNNN` of the release.
      config: the backend. storage: of the vectors, see `stored.encode`.

    Returns:
      The partition's record: path, rows, backend, bytes, and its files with size and SHA-256.
    """
    rows, order = Rows.sort(table.column("id"), table.column("label"))
    vectors = vectors_of(table)[order]
    backend = build_backend(vectors, config, distance=distance, storage=storage)
    return _write(folder, rows, encode(vectors, storage), backend)


def build_stored(
    rows: Rows,
    stored: tuple[np.ndarray, np.ndarray | None],
    folder: Path,
    config: BackendConfig,
    *,
    distance: str,
    storage: Storage,
) -> dict[str, Any]:
    """Builds one partition of vectors that are stored already (see `stored.join_stored`), in the order of `rows`; see
    `build_partition`. The index is that of the stored values."""
    vectors = np.asarray(decoded(*stored, distance)[:], np.float32)
    return _write(folder, rows, stored, build_backend(vectors, config, distance=distance, storage=storage))


def write_partition(partition: Partition, folder: Path) -> dict[str, Any]:
    """Writes a partition in memory (float32) with the very index that answered; see `build_partition`."""
    return _write(folder, partition.rows, (np.asarray(partition.vectors, np.float32), None), partition.backend)


def _write(folder: Path, rows: Rows, vectors: tuple[np.ndarray, np.ndarray | None], backend: Backend) -> dict[str, Any]:
    stored, scale = vectors
    with files.replacing_folder(folder, last=BACKEND_JSON) as temporary:
        rows.save(temporary / ROWS_FILE)
        np.save(temporary / VECTORS_FILE, stored, allow_pickle=False)
        if scale is not None:
            np.save(temporary / SCALE_FILE, scale, allow_pickle=False)
        backend.save(temporary)
        about = {"backend": backend.kind, "rows": len(rows), "vectors": _only_copy(temporary)}
        files.write_json(temporary / BACKEND_JSON, about)
    return partition_record(folder)


def _only_copy(folder: Path) -> str:
    """Where the vectors lie: ScaNN writes a file of its own for reordering; if it holds the same bytes, ours goes."""
    for path in sorted(folder.glob("*/*.npy")):
        if path.stat().st_size != (folder / VECTORS_FILE).stat().st_size:  # before mapping: an empty file cannot be
            continue
        theirs, ours = (np.load(each, mmap_mode="r", allow_pickle=False) for each in (path, folder / VECTORS_FILE))
        if theirs.dtype == ours.dtype and theirs.shape == ours.shape and _same(theirs, ours):
            (folder / VECTORS_FILE).unlink()
            return path.relative_to(folder).as_posix()
    return VECTORS_FILE


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    blocks = (slice(first, first + _BLOCK) for first in range(0, len(one), _BLOCK))
    return all(np.ascontiguousarray(one[block]).tobytes() == other[block].tobytes() for block in blocks)


def partition_record(folder: Path) -> dict[str, Any]:
    """The record of a partition on disk, which is complete if its folder is there."""
    about = files.read_json(folder / BACKEND_JSON)
    listed = [files.entry_of(path, folder.parent.parent).to_json() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "path": f"partitions/{folder.name}",
        "partition": int(folder.name),
        "rows": about["rows"],
        "hidden": 0,
        "backend": about["backend"],
        "bytes": sum(entry["size"] for entry in listed),
        "files": listed,
    }


def vectors_in(folder: Path, *, rows: int, dim: int, storage: Storage, distance: str) -> Vectors:
    """Maps the vectors of a partition whose files were verified; see `stored.map_vectors`."""
    where = files.read_json(folder / BACKEND_JSON).get("vectors", VECTORS_FILE)
    return map_vectors(files.inside(folder, where), folder / SCALE_FILE, rows=rows, dim=dim, storage=storage, distance=distance)


def stack_rows(rows: np.ndarray, places: np.ndarray, better: np.ndarray) -> np.ndarray:
    """`rows` int64[n, k] with those at `places` taken from `better`, padded with -1 to the wider of both."""
    out = np.full((len(rows), max(rows.shape[1], better.shape[1])), -1, np.int64)
    out[:, : rows.shape[1]] = rows
    out[places] = -1
    out[places, : better.shape[1]] = better
    return out


@dataclass(frozen=True)
class Partition:
    """A loaded partition. Threads may share it.

    Attributes:
      rows: ids, labels and hashes of its rows.
      vectors: float32[n, dim], memory-mapped, or decoded to that when read.
      number: which partition it is; part of the places of its candidates.
      hidden: int64[h], ascending: rows that never answer (deleted or replaced since); None: none.
    """

    rows: Rows
    vectors: Vectors
    backend: Backend
    distance: str
    number: int = 0
    hidden: np.ndarray | None = None

    @cached_property
    def _is_hidden(self) -> np.ndarray:
        """bool[n]."""
        out = np.zeros(len(self.rows), bool)
        if self.hidden is not None:
            out[self.hidden] = True
        return out

    @property
    def live_rows(self) -> int:
        """How many rows answer."""
        return len(self.rows) - (0 if self.hidden is None else len(self.hidden))

    @property
    def live(self) -> np.ndarray:
        """The rows that answer: int64[live_rows]."""
        return np.flatnonzero(~self._is_hidden)

    @cached_property
    def ids(self) -> np.ndarray:
        """All ids, object[n], hidden rows among them: makes every one a Python object."""
        return self.rows.take_ids(np.arange(len(self.rows)))

    @cached_property
    def labels(self) -> np.ndarray:
        """All labels, object[n]."""
        return self.rows.take_labels(np.arange(len(self.rows)))

    @property
    def tie(self) -> np.ndarray:
        """uint64[n], hashes of the ids."""
        return self.rows.tie

    @property
    def takes_several(self) -> bool:
        """Whether threads search side by side; else they wait for each other, and the backend takes threads of its own."""
        return self.backend.kind != "nmslib"

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(self.vectors, self.distance)  # type: ignore[arg-type]  # decodes slices

    @classmethod
    def load(
        cls,
        folder: Path,
        kind: str,
        *,
        distance: str,
        dim: int,
        params: Mapping[str, Any],
        storage: Storage = "float32",
        number: int = 0,
        hidden: np.ndarray | None = None,
    ) -> Partition:
        """Loads a partition whose files were verified.

        Raises:
          ContractError: rows and vectors disagree, or a file is not what it should be.
        """
        rows = Rows.load(folder / ROWS_FILE)
        vectors = vectors_in(folder, rows=len(rows), dim=dim, storage=storage, distance=distance)
        backend = load_backend(folder, kind, vectors, distance=distance, params=params, storage=storage)  # type: ignore[arg-type]
        return cls(rows, vectors, backend, distance, number, hidden)

    def candidates(
        self, queries: np.ndarray, k: int, *, exact: bool = False, setting: SearchSetting = ALL, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows of this partition and a few more, with exact distances, in no order.

        Args:
          queries: float32[n, dim], prepared.
          k: how many.
          exact: scan every row whatever the backend.
          setting: its `backend` settings; what it says of partitions is not for here.
          threads: that the backend may use.

        Returns:
          distances float32[n, w] and rows int64[n, w], w at least min(k, live rows), of which each query has as many; row -1
          where the backend found fewer, or a hidden one.
        """
        k = min(k, self.live_rows)
        if k < 1 or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        rows = self._nearest(queries, k, exact=exact, setting=setting, threads=threads)
        safe = rows if rows.min(initial=0) >= 0 else np.maximum(rows, 0)
        distances = measure(queries, self.vectors, safe, self.distance)
        # An exact scan gives all that tie.
        return nearest_rows(distances, rows, k) if rows.shape[1] > 2 * k + _MARGIN else (distances, rows)

    def _nearest(self, queries: np.ndarray, k: int, *, exact: bool, setting: SearchSetting, threads: int) -> np.ndarray:
        """At least k rows a query that are not hidden: int64[n, w], -1 padded."""
        if self.hidden is None:
            return self._found(queries, k, exact=exact, setting=setting, threads=threads)
        # So many hidden ones seldom lie near a query; where they do, all of them are asked for.
        spare = min(len(self.hidden), k // 2 + _SPARE)
        rows = self._without_hidden(self._found(queries, k + spare, exact=exact, setting=setting, threads=threads))
        short = (rows >= 0).sum(axis=1) < k
        if not short.any():
            return rows
        scanned = self._exact.search(queries[short], k + len(self.hidden), threads=threads)
        return stack_rows(rows, np.flatnonzero(short), self._without_hidden(scanned))

    def _without_hidden(self, rows: np.ndarray) -> np.ndarray:
        return np.where(self._is_hidden[rows] | (rows < 0), -1, rows)

    def _found(self, queries: np.ndarray, k: int, *, exact: bool, setting: SearchSetting, threads: int) -> np.ndarray:
        """At least k rows a query, hidden ones among them: int64[n, w], -1 padded."""
        if exact or self.backend.is_exact:
            index = self.backend if self.backend.is_exact else self._exact
            return index.search(queries, k, threads=threads)
        # Its order is right up to rounding; among coarser vectors a few more than asked for are measured.
        margin = 0 if isinstance(self.vectors, np.ndarray) else _MARGIN
        rows = self.backend.search(queries, min(k + margin, len(self.rows)), settings=setting.backend, threads=threads)
        if rows.shape[1] < k or rows[:, :k].min() < 0:  # an ANN index may run out before k, yet k items exist
            short = (rows >= 0).sum(axis=1) < k
            if short.any():
                return stack_rows(rows, np.flatnonzero(short), self._exact.search(queries[short], k, threads=threads))
        return rows

    def search(self, queries: np.ndarray, k: int, *, exact: bool = False, setting: SearchSetting = ALL) -> TopK:
        """The k nearest, equal distances by the hash of the id, to be merged with those of other partitions.

        See `candidates`; k columns, fewer where the partition is smaller.
        """
        distances, rows = nearest_rows(*self.candidates(queries, k, exact=exact, setting=setting), min(k, self.live_rows))
        return TopK(distances, self.tie_of(rows), place_of(self.number, rows))

    def tie_of(self, rows: np.ndarray) -> np.ndarray:
        """Hashes of rows int64[...]; 0 where there is none."""
        if not len(self.rows):
            return np.zeros(rows.shape, np.uint64)
        return np.where(rows < 0, np.uint64(0), self.rows.tie[np.maximum(rows, 0)])

    def rows_of(self, items: Sequence[str] | np.ndarray) -> np.ndarray:
        """The rows of ids: int64[n], -1 for one that is not here, or hidden."""
        rows = self.rows.rows_of(items)
        return rows if self.hidden is None else self._without_hidden(rows)


def in_memory(rows: Rows, vectors: np.ndarray, config: BackendConfig, *, distance: str) -> Partition:
    """A partition over float32[n, dim] in the order of `rows`, with a new index."""
    backend = build_backend(vectors, config, distance=distance)
    return Partition(rows, decoded(vectors, None, distance), backend, distance)
