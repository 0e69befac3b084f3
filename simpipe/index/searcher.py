"""The searcher opens a release and answers queries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files, releases, staging, store
from simpipe.arrow import pc
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.errors import QueryError, ReleaseError
from simpipe.index.attributes import StoreColumns
from simpipe.index.base_searcher import BaseSearcher
from simpipe.index.cache import PartitionCache, default_bytes
from simpipe.index.hidden import hidden_file, read_hidden
from simpipe.index.partitions import Partition, partition_folder, vectors_in
from simpipe.index.profile import PROFILE_JSON, Profile
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.index.rows import ROWS_FILE, Rows
from simpipe.index.selection import Selections
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.stored import Vectors
from simpipe.leases import Lease, take_lease
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile
from simpipe.types import Neighbors


def open_release(
    uri: str | Path,
    release: str | None = None,
    *,
    verify: bool = False,
    cache_bytes: int | None = None,
    cache_dir: str | Path | None = None,
) -> Searcher:
    """Opens a release for queries, in a time that does not grow with the number of items.

    Args:
      uri: a root (its live release answers, or the one named by `release`) or a release's own folder, local or `gs://`.
      release: a release id under the root, a tag, `live` or `previous`.
      verify: check all files now. Otherwise each file is checked just before it is first read.
      cache_bytes: of partitions that stay loaded; None: 4 GiB, or half of the memory.
      cache_dir: where this process keeps copies of files from `gs://`; None: under the user's cache folder.

    Raises:
      ReleaseError: nothing is published, the release is unfinished, or a file was altered.
      SimpipeError: storage cannot be reached.
    """
    path = files.located(uri)
    if cache_dir is not None:
        staging.keep_in(str(path), files.local(cache_dir))
    if release == "live" or (release is None and not (path / MANIFEST_JSON).exists()):
        folder, manifest, lease = releases.lease_live(path)
    else:
        folder = path if release is None else releases.find(path, release)[0]
        lease = take_lease(folder)
        manifest = Manifest.load(folder)  # with the lease: what is still here now stays
    searcher = Searcher(folder, manifest, cache_bytes=cache_bytes, lease=lease)
    if verify:
        searcher.verify()
    return searcher


class Searcher(BaseSearcher):
    """Answers queries from one release. Partitions are verified and loaded when first asked; threads may share it.

    A context manager: `close` gives the lease back, and so does the end of the last reference. After that `prune` may remove
    files that were not read yet.

    Args:
      folder: of the release. manifest: of it.
      fetch: the local path of a listed file, after it was verified; see `releases.verify_file`.
      cache_bytes: see `open_release`.
      lease: that keeps the release from being pruned; None: the caller sees to it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        fetch: Callable[[Path, ManifestFile], Path] = releases.verify_file,
        cache_bytes: int | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.folder = folder
        self._lease = lease
        self.manifest = manifest
        self.title = f"release {manifest.release}"
        self.dim, self.distance, self.encoder = manifest.dim, manifest.distance, manifest.encoder.fingerprint
        self.partition_rows = tuple(part.live for part in manifest.partitions)
        self._fetch = fetch
        self._verified: dict[str, Path] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._rows: dict[int, Rows] = {}
        self._hidden: dict[int, np.ndarray] = {}
        self.router = Router.load(self.file(ROUTER_FILE), len(manifest.partitions))
        under: dict[str, list[ManifestFile]] = {}
        for entry in manifest.files:
            under.setdefault("/".join(entry.path.split("/")[:2]), []).append(entry)
        self._files = [under.get(partition_folder(number), []) for number in range(len(manifest.partitions))]
        limit = default_bytes() if cache_bytes is None else cache_bytes
        self._partitions = PartitionCache(self._load, self._bytes_of, limit)

    def _bytes_of(self, number: int) -> int:
        return sum(entry.size for entry in self._files[number])

    def close(self) -> None:
        """Lets `prune` remove the release. Partitions that are loaded go on answering."""
        if self._lease is not None:
            self._lease.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def items(self) -> int:
        return self.manifest.items

    @cached_property
    def profile(self) -> Profile | None:  # type: ignore[override]  # cached
        return Profile.load(self.file(PROFILE_JSON)) if self.manifest.has(PROFILE_JSON) else None

    @cached_property
    def default_setting(self) -> SearchSetting:  # type: ignore[override]  # cached
        return self.setting_of(self.manifest.search)

    def setting_of(self, search: Mapping[str, Any]) -> SearchSetting:
        """How a configuration's `search` asks this release: `probes`; or the profile's setting for `target_recall`, its best
        one where none reaches that; or all partitions."""
        probes, target = search.get("probes"), search.get("target_recall")
        if probes is not None:
            return SearchSetting(probes=probes)
        if target is None or self.profile is None:
            return ALL
        try:
            return self.profile.setting_for(target)
        except QueryError:
            return self.profile.best.setting

    def calibration(self) -> dict[str, Any]:
        if self.calibrated is not None:
            return self.calibrated
        if not self.manifest.has(CUTPOINTS_JSON):
            raise ReleaseError(f"release {self.manifest.release} is not calibrated", "run `simpipe calibrate`")
        return self._stored_calibration

    @cached_property
    def _stored_calibration(self) -> dict[str, Any]:
        return files.read_json(self.file(CUTPOINTS_JSON))

    def group_cutpoints(self) -> pa.Table | None:
        """Cutpoints of groups: value, cutpoint, distance and metrics; read once, after it was verified."""
        return None if self.calibration().get("by") is None else self._group_cutpoints

    @cached_property
    def _group_cutpoints(self) -> pa.Table:
        return pq.read_table(self.file(self._stored_calibration["by"]["file"]))

    def file(self, path: str) -> Path:
        """The local path of a listed file, verified once.

        Raises:
          ReleaseError: it is not listed, missing, or was altered.
        """
        with self._lock:
            if path in self._verified:
                return self._verified[path]
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:
            if path not in self._verified:
                self._verified[path] = self._fetch(self.folder, self.manifest.file(path))
            return self._verified[path]

    def verify(self) -> None:
        """Checks all files now.

        Raises:
          ReleaseError: one is missing or was altered.
        """
        for entry in self.manifest.files:
            self.file(entry.path)
        releases.check_counts(self.manifest)

    def load(self) -> None:
        """Loads partitions now, in order, as many as `cache_bytes` holds; one in any case."""
        for number, held in enumerate(np.cumsum([self._bytes_of(number) for number in range(len(self._files))])):
            if number and held > self._partitions.limit:
                break
            self.partition(number)

    @property
    def cached_bytes(self) -> int:
        """Of the files of the partitions that are loaded."""
        return self._partitions.bytes

    def partition(self, number: int) -> Partition:
        """A partition, verified and loaded; kept within `cache_bytes`."""
        return self._partitions.get(number)

    def is_loaded(self, number: int) -> bool:
        return number in self._partitions

    def _load(self, number: int) -> Partition:
        """Every file is verified before a library sees one: damaged ones can crash it."""
        about = self.manifest.partitions[number]
        return Partition.load(
            self._verified_folder(number),
            about.backend,
            distance=self.manifest.distance,
            dim=self.manifest.dim,
            params=self.manifest.backend,
            storage=self.manifest.storage,  # type: ignore[arg-type]  # the loader refuses another
            number=number,
            hidden=self.hidden(number),
        )

    def _verified_folder(self, number: int) -> Path:
        paths = [self.file(entry.path) for entry in self._files[number]]
        return self._rows_path(number, paths).parent

    def _rows_path(self, number: int, paths: Sequence[Path]) -> Path:
        rows = next((path for path in paths if path.name == ROWS_FILE), None)
        if rows is None:
            raise ReleaseError(f"{self.title}: no {ROWS_FILE} of {partition_folder(number)}", "build the release again")
        return rows

    def rows(self, number: int) -> Rows:
        """The rows of a partition, verified and mapped, without its index; they stay mapped."""
        if number not in self._rows:
            listed = [entry.path for entry in self._files[number] if entry.path.endswith("/" + ROWS_FILE)]
            self._rows[number] = Rows.load(self._rows_path(number, [self.file(path) for path in listed]))
        return self._rows[number]

    def hidden(self, number: int) -> np.ndarray | None:
        """The rows of a partition that do not answer, int64[h] ascending, verified; None where all of them do."""
        about = self.manifest.partitions[number]
        if not about.hidden:
            return None
        if number not in self._hidden:
            self._hidden[number] = read_hidden(self.file(hidden_file(number)), hidden=about.hidden, rows=about.rows)
        return self._hidden[number]

    @cached_property
    def selections(self) -> Selections:  # type: ignore[override]  # cached
        manifest = self.manifest
        columns = StoreColumns(
            self.title,
            manifest.metadata,
            partitions=len(manifest.partitions),
            store_files=manifest.store_files,
            copies=sum(self.partition_rows) > self.items,
            file=self.file,
            rows=self.rows,
            hidden=self.hidden,
        )
        rows = tuple(part.rows for part in manifest.partitions)
        return Selections(self.title, columns, rows=rows, hidden=self.hidden)

    def rows_and_vectors(self, number: int) -> tuple[Rows, Vectors]:
        """Without loading the partition's index."""
        return self.rows(number), self.stored_vectors(number)

    def stored_vectors(self, number: int) -> Vectors:
        """The vectors of a partition, verified and mapped, without its index."""
        manifest, folder = self.manifest, self._verified_folder(number)
        return vectors_in(
            folder,
            rows=len(self.rows(number)),
            dim=manifest.dim,
            storage=manifest.storage,  # type: ignore[arg-type]  # the loader refuses another
            distance=manifest.distance,
        )

    def items_of(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`.

        Args:
          ids: items. columns: that are read, beside the id; None: all.

        Raises:
          QueryError: an id is not in the release.
        """
        count = self.manifest.store_files
        names = pa.array(list(ids), pa.string())
        table = store.fetch(names, lambda i: self.file(store.store_file(i, count)), count, columns=columns)
        if table is None:
            raise QueryError("no ids are given", "see the data set's ids")
        places = pc.index_in(names, value_set=table.column("id").combine_chunks())
        if places.null_count:
            missing = ids[int(np.argmax(places.is_null().to_numpy(zero_copy_only=False)))]
            raise QueryError(f"id {missing!r} is not in release {self.manifest.release}", "see the data set's ids")
        return table.take(places)

    def metadata(self, neighbors: Neighbors, columns: Sequence[str] | None = None) -> pa.Table:
        """Metadata of neighbors, read from the store for these only.

        Args:
          neighbors: of a lookup. columns: metadata columns; None: all.

        Returns:
          One row a neighbor, in the order of `neighbors_table`.

        Raises:
          QueryError: no such column.
        """
        names = list(self.manifest.metadata if columns is None else columns)
        unknown = [name for name in names if name not in self.manifest.metadata]
        if unknown:
            known = ", ".join(self.manifest.metadata) or "none"
            raise QueryError(f"{self.title} has no metadata column {unknown[0]!r}", f"there are: {known}")
        ids = pa.array(neighbors.ids[neighbors.valid], pa.string()).dictionary_encode()
        if not names or not len(ids):
            return pa.table({name: pa.nulls(len(ids)) for name in names})
        return self.items_of(ids.dictionary.to_pylist(), names).select(names).take(ids.indices)


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
