"""The work items of a rebuild, one partition, store file or embeddings file each, through files in a work folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrays import load_array
from simpipe.config.index import Backend, Storage
from simpipe.digests import digests_file, read_digests
from simpipe.errors import ContractError
from simpipe.grouped import read_group
from simpipe.index.hidden import hidden_file, write_hidden
from simpipe.index.route import Routed, RouteSpec, count_values, route_file
from simpipe.index.router import Router
from simpipe.index.rows import Rows
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.reindex.changes import CHANGED, ChangesInfo
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.profile import measure_rebuilt
from simpipe.reindex.rebuild import Rebuilt, find_dropped, hidden_rows, rebuild_partition
from simpipe.reindex.rebuild_store import Moves, rewrite_store_file
from simpipe.store import store_file
from simpipe.types import Reject

WORK_ROUTER = "router.npz"
_DROPPED = "dropped.arrow"
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class RebuildSpec:
    """Everything a worker needs to do its part; small, travels with each work item.

    Attributes:
      base: folder of the live release. delta: of the embeddings of what was added or changed, and of the changes.
      files: Parquet files of new items.
      folder: the new release. work: scratch.
      route: as new items are routed, for the partitions of the router in the work folder.
      measured: whether partitions are measured for the search profile.
    """

    base: str
    delta: str
    files: tuple[files.HashedFile, ...]
    folder: str
    work: str
    route: RouteSpec
    backend: Backend
    storage: Storage
    measured: bool = False

    def open_base(self) -> Searcher:
        return Searcher(files.located(self.base), Manifest.load(files.located(self.base)))

    def router(self) -> Router:
        """That routes new items: the base's, or the one that was planned."""
        return Router.load(files.located(self.work) / WORK_ROUTER, self.route.partitions)

    def grouped(self, kind: str) -> list[Path]:
        """Files of new items grouped by partition (`route`) or by store file (`store`)."""
        return [files.located(self.work) / f"{kind}-{number:05d}.arrow" for number in range(len(self.files))]

    def dropped_path(self, number: int) -> Path:
        return files.located(self.work) / f"dropped-{number:05d}.npy"

    def dropped(self, number: int) -> np.ndarray:
        """The rows of a base partition that go: int64[m], ascending."""
        path = self.dropped_path(number)
        return load_array(path) if path.exists() else _NOTHING

    def moved_path(self, number: int) -> Path:
        return files.located(self.work) / f"moved-{number:05d}.arrow"


def write_dropped_ids(spec: RebuildSpec, changes: ChangesInfo) -> tuple[int, tuple[int, ...]]:
    """Gathers the ids of items that were changed or deleted, sorted so that partitions can be searched for them.

    Returns:
      How many there are, and the store files in which anything changes.
    """
    parts, touched = [], []
    for bucket in range(len(changes.files)):
        table = changes.read(files.located(spec.delta), bucket)
        table = table.filter(pa.array(~table.column("query").to_numpy(zero_copy_only=False)))
        if len(table):
            touched.append(bucket)
        parts.append(_dropped_of(table))
    ids = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    rows, _ = Rows.sort(ids, pa.nulls(len(ids), pa.string()))
    with files.replacing(files.located(spec.work) / _DROPPED) as temporary:
        rows.save(temporary)
    return len(rows), tuple(touched)


def _dropped_of(changes: pa.Table) -> pa.ChunkedArray:
    return changes.filter(pa.array(changes.column("kind").to_numpy() >= CHANGED)).column("id")


def locate_dropped(spec: RebuildSpec, base: Searcher, number: int) -> int:
    """Finds the rows of a base partition that go, and writes them; returns how many."""
    path = spec.dropped_path(number)
    path.unlink(missing_ok=True)
    if not base.partition_rows[number]:
        return 0
    rows = find_dropped(base.rows(number), Rows.load(files.located(spec.work) / _DROPPED), base.hidden(number))
    if len(rows):
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, rows, allow_pickle=False)
    return len(rows)


def route_delta(spec: RebuildSpec, router: Router, number: int) -> Routed | str:
    """Routes one file of new items, see `route_file`; or a value of the routing column that the router does not know."""
    path, column = spec.files[number].verified(), spec.route.column
    if column is not None:
        unknown = sorted(set(count_values(path, column)) - set(router.values))
        if unknown:
            return unknown[0]
    return route_file(path, router, spec.route, work=files.located(spec.work), number=number)


def rebuild_one(spec: RebuildSpec, base: Searcher, router: Router, work: PartitionWork) -> Rebuilt:
    """Builds one partition of the new release, and measures it for the search profile."""
    built = rebuild_partition(
        base,
        work,
        router,
        dropped=spec.dropped,
        fresh=read_group(spec.grouped("route"), work.partition, spec.route.partitions) if spec.files else None,
        folder=files.located(spec.folder),
        backend=spec.backend,
        storage=spec.storage,
        moved=spec.moved_path(work.partition) if work.siblings else None,
    )
    if spec.measured:
        measure_rebuilt(base, files.located(spec.folder), built.record, params=base.manifest.backend)
    return built


def hide_rows(spec: RebuildSpec, base: Searcher, number: int) -> tuple[int, dict[str, Any]]:
    """Writes the hidden rows of a partition whose files stay: how many, and the file's entry."""
    rows = hidden_rows(base, number, spec.dropped(number))
    path = files.located(spec.folder) / hidden_file(number)
    write_hidden(rows, path)
    return len(rows), files.entry_of(path, files.located(spec.folder)).to_json()


def moves_of(spec: RebuildSpec, work: Sequence[PartitionWork]) -> Moves:
    """Items that change their partition, after all partitions were built."""
    whole = [each for each in work if not each.siblings]
    into = {source: each.partition for each in whole for source in each.sources if source != each.partition}
    return Moves.read(into, [spec.moved_path(each.partition) for each in work if each.siblings])


def rewrite_one(spec: RebuildSpec, base: Searcher, changes: ChangesInfo, moves: Moves, number: int) -> dict[str, Any]:
    """Writes one store file and its digests.

    Returns:
      Their record: path, rows, dropped, added, files, and duplicates (then nothing was written).

    Raises:
      ContractError: the base has no digests, or see `rewrite_store_file`.
    """
    of, folder = spec.route.store_files, files.located(spec.folder)
    name, digests = store_file(number, of), digests_file(number, of)
    if not base.manifest.has(digests):
        raise ContractError(f"{base.title} has no digests of its items", "run `simpipe run` once")
    table = changes.read(files.located(spec.delta), number)
    made = rewrite_store_file(
        pq.read_table(base.file(name)),
        read_digests(base.file(digests)),
        dropped=_dropped_of(table.filter(pa.array(~table.column("query").to_numpy(zero_copy_only=False)))),
        fresh=read_group(spec.grouped("store"), number, of) if spec.files else None,
        moves=moves,
        path=folder / name,
        digests_path=folder / digests,
        sources=[*(Path(file.path).name for file in spec.files), base.title],
    )
    written = [] if made.duplicates else [files.entry_of(folder / each, folder).to_json() for each in (name, digests)]
    counts = {"rows": made.rows, "dropped": made.dropped, "added": made.added}
    return {"path": name, **counts, "files": written, "duplicates": [asdict(each) for each in made.duplicates]}


def duplicates_of(records: Sequence[dict[str, Any]]) -> list[Reject]:
    """Ids that would stand in the store twice."""
    return [Reject(**each) for record in records for each in record["duplicates"]]
