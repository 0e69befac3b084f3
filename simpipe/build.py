"""Building a release from an embeddings data set: the plan, and one partition or store file at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.index import Backend, HashRouter, KMeansRouter
from simpipe.embeddings import vectors_column
from simpipe.grouped import read_group
from simpipe.index.partitions import build_partition, partition_folder, partition_record
from simpipe.index.route import RouteSpec
from simpipe.store import store_file, write_store_file
from simpipe.types import Reject


@dataclass(frozen=True)
class BuildPlan:
    """Everything a worker needs to build its part; small, travels with each work item.

    Attributes:
      files: Parquet files of embeddings, in the order of their manifest; query_files: those of held-out queries.
      checksums: size and SHA-256 of each file, files first. folder: the release. work: scratch.
      sample_share: share of rows that the router's sample takes.
    """

    files: tuple[str, ...]
    query_files: tuple[str, ...]
    checksums: tuple[tuple[int, str], ...]
    folder: str
    work: str
    route: RouteSpec
    router: HashRouter | KMeansRouter
    backend: Backend
    sample_share: float
    seed: int

    def route_into(self, partitions: int) -> RouteSpec:
        """The routing spec for the number of partitions that the fitted router has."""
        return replace(self.route, partitions=partitions)

    def source(self, number: int) -> Path:
        """File `number`, queries after the others.

        Raises:
          ContractError: it was altered since it was written.
        """
        path = Path((*self.files, *self.query_files)[number])
        size, sha256 = self.checksums[number]
        files.verify(path, files.FileEntry(path.name, size, sha256))
        return path

    def grouped(self, kind: str) -> list[Path]:
        """The grouped files of one kind: `route`, `store`, or `query`."""
        first, count = (len(self.files), len(self.query_files)) if kind == "query" else (0, len(self.files))
        return [Path(self.work) / f"{kind}-{number:05d}.arrow" for number in range(first, first + count)]


def build_one_partition(plan: BuildPlan, number: int, *, partitions: int) -> dict[str, Any]:
    """Builds partition `number` of `partitions` from the routed files; a finished one is kept (resume).

    Returns:
      The partition's record; see `build_partition`.
    """
    folder = Path(plan.folder) / partition_folder(number)
    if folder.is_dir():
        return partition_record(folder)
    table = read_group(plan.grouped("route"), number, partitions)
    if table is None:
        table = _no_rows(plan.route.dim)
    return build_partition(table, folder, plan.backend, distance=plan.route.distance)


def _no_rows(dim: int) -> pa.Table:
    none = pa.array([], pa.string())
    return pa.table({"id": none, "label": none, "embedding": vectors_column(np.empty((0, dim), np.float32))})


def build_one_store_file(plan: BuildPlan, number: int) -> tuple[dict[str, Any], list[Reject]]:
    """Writes store file `number` and finds duplicate ids: all rows of an id meet in one bucket.

    Returns:
      The file's record, and the duplicates.
    """
    of = plan.route.store_files
    name = store_file(number, of)
    table = read_group(plan.grouped("store"), number, of)
    if table is None:
        table = _empty_store()
    query_ids = read_group(plan.grouped("query"), number, of) if plan.query_files else None
    path = Path(plan.folder) / name
    sources = [Path(file).name for file in (*plan.files, *plan.query_files)]
    rows, duplicates = write_store_file(table, path, sources=sources, query_ids=query_ids)
    listed = [files.entry_of(path, Path(plan.folder)).to_json()] if not duplicates else []
    return {"path": name, "rows": rows, "files": listed}, duplicates


def _empty_store() -> pa.Table:
    kinds = {"id": pa.string(), "label": pa.string(), "partition": pa.int32(), "file": pa.int32(), "row": pa.int64()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
