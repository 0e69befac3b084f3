"""The searcher opens a release and answers queries: fan out to partitions, merge, match."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files, releases, store
from simpipe.errors import IncompatibleError, QueryError, ReleaseError
from simpipe.index.distance import bad_rows, between, prepare
from simpipe.index.merge import TopK, merge_topk, without_self
from simpipe.index.partitions import Partition, partition_folder
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.matchers import match_labels
from simpipe.types import Matches, Neighbors, keep_where


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


class Searcher:
    """Answers queries from one release. Partitions are verified and loaded when first asked; threads may share it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.router = Router.load(releases.verify_file(folder, manifest.file(ROUTER_FILE)), len(manifest.partitions))
        self._partitions: dict[int, Partition] = {}
        self._verified: dict[str, Path] = {}
        self._lock = threading.Lock()

    @property
    def items(self) -> int:
        """How many items the release holds."""
        return self.manifest.items

    @property
    def cutpoints(self) -> dict[str, dict[str, Any]]:
        """Cutpoints by name, from calibration.

        Raises:
          ReleaseError: the release is not calibrated.
        """
        return self._calibration()["cutpoints"]

    def _calibration(self) -> dict[str, Any]:
        if not self.manifest.has("cutpoints.json"):
            raise ReleaseError(f"release {self.manifest.release} is not calibrated", "run `simpipe calibrate`")
        return files.read_json(self._file("cutpoints.json"))

    def _file(self, path: str) -> Path:
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

    def check_encoder(self, fingerprint: str) -> None:
        """Refuses queries of another encoder.

        Raises:
          IncompatibleError: names both fingerprints.
        """
        own = self.manifest.encoder.fingerprint
        if fingerprint != own:
            raise IncompatibleError(
                f"the query's encoder {fingerprint[:12]} is not encoder {own[:12]} of release {self.manifest.release}",
                "embed the query with the release's encoder, or build a release with the new encoder",
            )

    def check_queries(self, vectors: np.ndarray) -> np.ndarray:
        """Queries as the indexes want them: float32[n, dim], prepared for the distance.

        Raises:
          IncompatibleError: another dim.
          QueryError: no 2-d numeric array; NaN, inf, or zero norm under cosine; names the row.
        """
        array = np.asarray(vectors)
        if array.ndim == 1:
            array = array[None, :]
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise QueryError(f"queries have shape {array.shape} and dtype {array.dtype}", "give float32[n, dim]")
        if array.shape[1] != self.manifest.dim:
            raise IncompatibleError(
                f"queries have dim {array.shape[1]}, release {self.manifest.release} has dim {self.manifest.dim}",
                "embed the queries with the release's encoder",
            )
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = array.astype(np.float32, copy=False)
        not_finite, zero = bad_rows(array, self.manifest.distance)
        for rows, what in ((not_finite, "holds NaN or infinite values"), (zero, "has zero norm, no direction for cosine")):
            if rows.any():
                raise QueryError(f"query row {int(np.argmax(rows))} {what}", "leave such queries out")
        return prepare(array, self.manifest.distance)

    def search(self, vectors: np.ndarray, k: int, *, probes: int | None = None, exact: bool = False) -> TopK:
        """Merged candidates of a block of queries, with `k` columns (or fewer: all items); see `lookup`."""
        queries = self.check_queries(vectors)
        probes = probes if probes is not None else self.manifest.search.get("probes")
        asked = self.router.probes(queries, None if exact else probes)
        parts = [TopK.empty(len(queries), 0)]
        for about in self.manifest.partitions:
            rows = np.flatnonzero(asked[:, about.partition])
            if about.rows and len(rows):
                top = self.partition(about.partition).search(queries[rows], k, exact=exact)
                parts.append(top if len(rows) == len(queries) else top.scatter(rows, len(queries)))
        return merge_topk(parts, k)

    def lookup(
        self,
        vectors: np.ndarray,
        k: int = 5,
        *,
        query_ids: Sequence[str] | None = None,
        probes: int | None = None,
        exact: bool = False,
    ) -> Neighbors:
        """The k nearest items of each query.

        Args:
          vectors: float32[n, dim] (or [dim]).
          k: neighbors a query; a smaller index answers with what exists.
          query_ids: ids of the queries; where given, an item of the same id is left out.
          probes: partitions asked; the release's own setting if None.
          exact: scan everything instead of using the ANN indexes.

        Returns:
          Neighbors, nearest first, min(k, items) columns.

        Raises:
          IncompatibleError, QueryError: see `check_queries`.
          ReleaseError: a file of the release was altered.
        """
        _check_k(k)
        top = self.search(vectors, k + (query_ids is not None), probes=probes, exact=exact)
        if query_ids is not None:
            top = without_self(top, np.asarray(query_ids, object), k)
        return Neighbors(top.ids, top.labels, top.distances)

    def lookup_items(self, ids: Sequence[str], k: int = 5) -> Neighbors:
        """The nearest items of indexed items: each item itself first, by id, also where it has exact twins.

        Args:
          ids: items of the release.
          k: neighbors an item, itself included.

        Raises:
          QueryError: an id is not in the release, or k is below 1.
        """
        _check_k(k)
        vectors = self.vectors_of(ids)
        own = between(vectors, vectors[:, None], self.manifest.distance)
        labels = np.asarray(self.items_of(ids).column("label").to_pylist(), object)[:, None]
        mine = Neighbors(np.asarray(list(ids), object)[:, None], labels, own)
        others = self.lookup(vectors, k, query_ids=ids)
        return Neighbors(
            *(
                np.concatenate([getattr(mine, name), getattr(others, name)[:, : k - 1]], axis=1)
                for name in ("ids", "labels", "distances")
            )
        )

    def match(self, vectors: np.ndarray, cutpoint: str = "optimal", *, query_ids: Sequence[str] | None = None) -> Matches:
        """One label and distance a query: the matcher's answer where it lies within a cutpoint, else None.

        Args:
          vectors: float32[n, dim] (or [dim]).
          cutpoint: a name in `cutpoints`.
          query_ids: see `lookup`.

        Raises:
          QueryError: no such cutpoint. ReleaseError: not calibrated.
        """
        calibration = self._calibration()
        if cutpoint not in calibration["cutpoints"]:
            raise QueryError(f"no cutpoint {cutpoint!r}", f"there are: {', '.join(calibration['cutpoints'])}")
        neighbors = self.lookup(vectors, calibration["k"], query_ids=query_ids)
        labels, distances = match_labels(neighbors, calibration["matcher"])
        # The same comparison as in calibration: float32 against float32, the threshold itself is near.
        near = distances <= np.float32(calibration["cutpoints"][cutpoint]["distance"])
        return Matches(keep_where(labels, near), distances, neighbors)

    def items_of(self, ids: Sequence[str]) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`.

        Raises:
          QueryError: an id is not in the release.
        """
        count = self.manifest.store_files
        table = store.fetch(ids, lambda i: self._file(store.store_file(i, count)), count)
        found = {name: row for row, name in enumerate(table.column("id").to_pylist())} if table is not None else {}
        missing = [name for name in ids if name not in found]
        if missing or table is None:
            raise QueryError(f"id {missing[0]!r} is not in release {self.manifest.release}", "see the data set's ids")
        return table.take([found[name] for name in ids])

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """The indexed vectors of items: float32[len(ids), dim].

        Raises:
          QueryError: an id is not in the release.
        """
        partitions = self.items_of(ids).column("partition").to_pylist()
        out = np.empty((len(ids), self.manifest.dim), np.float32)
        for place, (name, number) in enumerate(zip(ids, partitions, strict=True)):
            part = self.partition(number)
            row = part.row_of(name)
            if row is None:
                raise ReleaseError(
                    f"release {self.manifest.release}: id {name!r} is in the store but not in its partition", "build again"
                )
            out[place] = part.vectors[row]
        return out


def _check_k(k: int) -> None:
    if k < 1:
        raise QueryError(f"k is {k}", "ask for at least one neighbor")


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
