"""The searcher opens a release and answers queries."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files, releases, store
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.errors import QueryError, ReleaseError
from simpipe.index.base_searcher import BaseSearcher
from simpipe.index.partitions import Partition, partition_folder
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.types import Neighbors


def open_release(uri: str | Path, release: str | None = None, *, verify: bool = False) -> Searcher:
    """Opens a release for queries.

    Args:
      uri: a root (its live release answers, or the one named by `release`) or a release's own folder.
      release: a release id under the root.
      verify: check all files now. Otherwise each file is checked just before it is first read.

    Raises:
      ReleaseError: nothing is published, the release is unfinished, or a file was altered.
    """
    path = files.local(uri)
    if release is None and (path / MANIFEST_JSON).exists():
        folder, manifest = path, Manifest.load(path)
    elif release is None:
        folder, manifest = releases.open_live(path)
    else:
        folder, manifest = releases.find(path, release)
    if verify:
        releases.verify_release(folder, manifest)
    return Searcher(folder, manifest)


class Searcher(BaseSearcher):
    """Answers queries from one release. Partitions are verified and loaded when first asked; threads may share it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.title = f"release {manifest.release}"
        self.dim, self.distance, self.encoder = manifest.dim, manifest.distance, manifest.encoder.fingerprint
        self.partition_rows = tuple(part.rows for part in manifest.partitions)
        self.probes = manifest.search.get("probes")
        self.router = Router.load(releases.verify_file(folder, manifest.file(ROUTER_FILE)), len(manifest.partitions))
        self._partitions: dict[int, Partition] = {}
        self._verified: dict[str, Path] = {}
        self._lock = threading.Lock()

    def calibration(self) -> dict[str, Any]:
        if self.calibrated is not None:
            return self.calibrated
        if not self.manifest.has(CUTPOINTS_JSON):
            raise ReleaseError(f"release {self.manifest.release} is not calibrated", "run `simpipe calibrate`")
        return files.read_json(self.file(CUTPOINTS_JSON))

    def file(self, path: str) -> Path:
        """The path of a listed file, verified once.

        Raises:
          ReleaseError: it is not listed, missing, or was altered.
        """
        if path not in self._verified:
            self._verified[path] = releases.verify_file(self.folder, self.manifest.file(path))
        return self._verified[path]

    def partition(self, number: int) -> Partition:
        """A partition, verified and loaded once."""
        with self._lock:
            if number not in self._partitions:
                about = self.manifest.partitions[number]
                prefix = partition_folder(number)
                paths = [releases.verify_file(self.folder, entry) for entry in self.manifest.under(prefix)]
                if not paths:
                    raise ReleaseError(f"release {self.manifest.release}: no files of {prefix}", "build the release again")
                base = next(path for path in paths if path.name == "rows.parquet").parent
                self._partitions[number] = Partition.load(
                    base,
                    about.backend,
                    distance=self.manifest.distance,
                    dim=self.manifest.dim,
                    params=self.manifest.backend,
                )
            return self._partitions[number]

    def items_of(self, ids: Sequence[str]) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`.

        Raises:
          QueryError: an id is not in the release.
        """
        count = self.manifest.store_files
        table = store.fetch(ids, lambda i: self.file(store.store_file(i, count)), count)
        found = {name: row for row, name in enumerate(table.column("id").to_pylist())} if table is not None else {}
        missing = [name for name in ids if name not in found]
        if missing or table is None:
            raise QueryError(f"id {missing[0]!r} is not in release {self.manifest.release}", "see the data set's ids")
        return table.take([found[name] for name in ids])


def neighbors_table(neighbors: Neighbors, query_ids: Sequence[str] | None = None) -> pa.Table:
    """Neighbors as Arrow: one row a neighbor with query, rank (from 1), id, label, distance."""
    valid = neighbors.valid
    n, k = valid.shape
    names = np.asarray(query_ids if query_ids is not None else [str(i) for i in range(n)], object)
    return pa.table(
        {
            "query": pa.array(np.repeat(names, k)[valid.ravel()], pa.string()),
            "rank": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), n)[valid.ravel()]),
            "id": pa.array(neighbors.ids[valid], pa.string()),
            "label": pa.array(neighbors.labels[valid], pa.string()),
            "distance": pa.array(neighbors.distances[valid], pa.float32()),
        }
    )
