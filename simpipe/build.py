"""Building a release from an embeddings data set: the plan, and one partition or store file at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.index import Backend, ProfileConfig, Router, Storage
from simpipe.digests import digests_file, write_digests
from simpipe.embeddings import vectors_column, vectors_of
from simpipe.errors import ConfigError
from simpipe.grouped import read_group
from simpipe.groups import GroupsInfo, Members
from simpipe.ids import hash_ids
from simpipe.index.measure import PROBE_FILE, Probe, measure_file, measure_partition
from simpipe.index.partitions import BACKEND_JSON, Partition, build_partition, partition_folder, partition_record
from simpipe.index.planner import bytes_a_row
from simpipe.index.route import RouteSpec
from simpipe.store import store_file, write_store_file
from simpipe.types import Reject


@dataclass(frozen=True)
class BuildPlan:
    """Everything a worker needs to build its part; small, travels with each work item.

    Attributes:
      files: Parquet files of embeddings, in the order of their manifest; query_files: those of held-out queries.
      checksums: size and SHA-256 of each file, files first. folder: the release. work: scratch.
      sample_share: share of rows that the router's sample takes. probe_share: share of held-out queries that the search
        profile is measured with; 0: items take their place, or there is no profile.
      memory_mib: what building a partition may take.
      items: to be indexed, at most. groups: a folder of groups of near duplicates whose representatives alone are indexed.
    """

    files: tuple[str, ...]
    query_files: tuple[str, ...]
    checksums: tuple[tuple[int, str], ...]
    folder: str
    work: str
    route: RouteSpec
    router: Router
    backend: Backend
    storage: Storage
    profile: ProfileConfig
    items: int
    memory_mib: int
    workers: int
    sample_share: float
    probe_share: float
    seed: int
    groups: str | None = None

    def members(self) -> Members | None:
        """The members of groups, where representatives alone are indexed.

        Raises:
          ContractError: their data set is missing or altered.
        """
        if self.groups is None:
            return None
        folder = files.located(self.groups)
        return Members.load(folder, GroupsInfo.load(folder))

    def route_into(self, partitions: int) -> RouteSpec:
        """The routing spec for the number of partitions that the fitted router has."""
        return replace(self.route, partitions=partitions)

    def source(self, number: int) -> Path:
        """File `number`, queries after the others.

        Raises:
          ContractError: it was altered since it was written.
        """
        path = files.located((*self.files, *self.query_files)[number])
        size, sha256 = self.checksums[number]
        files.verify(path, files.FileEntry(path.name, size, sha256))
        return path

    def grouped(self, kind: str) -> list[Path]:
        """The grouped files of one kind: `route`, `store`, or `query`."""
        first, count = (len(self.files), len(self.query_files)) if kind == "query" else (0, len(self.files))
        return [files.located(self.work) / f"{kind}-{number:05d}.arrow" for number in range(first, first + count)]


def build_one_partition(plan: BuildPlan, number: int, *, partitions: int) -> dict[str, Any]:
    """Builds partition `number` of `partitions` from the routed files, and measures it for the search profile.

    What is finished is kept (resume).

    Returns:
      The partition's record; see `build_partition`.

    Raises:
      ConfigError: the partition takes more memory than a worker may use.
    """
    folder = files.located(plan.folder) / partition_folder(number)
    measure = files.located(plan.folder) / measure_file(number)
    probe = Probe.load(path) if (path := files.located(plan.folder) / PROBE_FILE).exists() else None
    complete = files.is_complete(folder, last=BACKEND_JSON)
    if complete and (probe is None or measure.exists()):
        return partition_record(folder)
    table = read_group(plan.grouped("route"), number, partitions)
    if table is None:
        table = _no_rows(plan.route.dim)
    _check_memory(plan, number, len(table))
    distance = plan.route.distance
    if complete:
        record = partition_record(folder)
    else:
        record = build_partition(table, folder, plan.backend, distance=distance, storage=plan.storage)
    if probe is not None:
        params = plan.backend.model_dump(mode="json")
        part = Partition.load(
            folder, record["backend"], distance=distance, dim=plan.route.dim, params=params, storage=plan.storage
        )
        tie = hash_ids(table.column("id"))
        measure_partition(part, vectors_of(table), tie, probe, number=number).save(measure)
    return record


def _check_memory(plan: BuildPlan, number: int, rows: int) -> None:
    needed = rows * bytes_a_row(plan.backend, plan.route.dim) >> 20
    if needed > plan.memory_mib:
        raise ConfigError(
            f"partition {number} has {rows:,} rows and takes about {needed:,} MiB to build, "
            f"build.partition_memory_mib is {plan.memory_mib:,}",
            "raise it, or set more partitions (`build.router.partitions`)",
        )


def _no_rows(dim: int) -> pa.Table:
    none = pa.array([], pa.string())
    return pa.table({"id": none, "label": none, "embedding": vectors_column(np.empty((0, dim), np.float32))})


def build_one_store_file(plan: BuildPlan, number: int) -> tuple[dict[str, Any], list[Reject]]:
    """Writes store file `number`, and the digests of its items where there are any, and finds duplicate ids.

    All rows of an id meet in one bucket.

    Returns:
      The file's record, and the duplicates.
    """
    of = plan.route.store_files
    name = store_file(number, of)
    table = read_group(plan.grouped("store"), number, of)
    if table is None:
        table = _empty_store()
    query_ids = read_group(plan.grouped("query"), number, of) if plan.query_files else None
    path = files.located(plan.folder) / name
    sources = [Path(file).name for file in (*plan.files, *plan.query_files)]
    rows, duplicates = write_store_file(table, path, sources=sources, query_ids=query_ids)
    if duplicates:
        return {"path": name, "rows": rows, "files": []}, duplicates
    written = [path]
    if "digest" in table.column_names:
        written.append(files.located(plan.folder) / digests_file(number, of))
        write_digests(table, written[-1])
    return {
        "path": name,
        "rows": rows,
        "files": [files.entry_of(file, files.located(plan.folder)).to_json() for file in written],
    }, []


def _empty_store() -> pa.Table:
    kinds = {"id": pa.string(), "label": pa.string(), "partition": pa.int32(), "file": pa.int32(), "row": pa.int64()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
