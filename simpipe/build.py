"""Building a release from an embeddings data set: the plan, and one partition or store file at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simpipe.config.models import Backend, HashRouter, KMeansRouter
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
      files: Parquet files of embeddings, in the order of their manifest. folder: the release. work: scratch.
      sample_share: share of rows that the router's sample takes.
    """

    files: tuple[str, ...]
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

    def grouped(self, kind: str) -> list[Path]:
        return [Path(self.work) / f"{kind}-{number:05d}.arrow" for number in range(len(self.files))]


def build_one_partition(plan: BuildPlan, number: int) -> dict[str, Any]:
    """Builds partition `number` from the routed files; a finished one is kept (resume).

    Returns:
      The partition's record, with its bytes on disk.
    """
    folder = Path(plan.folder) / partition_folder(number)
    if folder.is_dir():
        record = partition_record(folder)
    else:
        partitions = _groups(plan)
        table = read_group(plan.grouped("route"), number, partitions)
        if table is None:
            table = _no_rows(plan.route.dim)
        record = build_partition(table, folder, plan.backend, distance=plan.route.distance, seed=plan.seed)
    return {**record, "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())}


def _groups(plan: BuildPlan) -> int:
    """How many partitions the routed files were grouped into: the router may have found fewer than configured."""
    from simpipe.index.router import ROUTER_FILE, Router

    router = Router.load(Path(plan.folder) / ROUTER_FILE, plan.router.partitions)
    return plan.router.partitions if router.centroids is None else len(router.centroids)


def _no_rows(dim: int) -> Any:
    import numpy as np
    import pyarrow as pa

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
    rows, duplicates = write_store_file(table, Path(plan.folder) / name, [Path(file).name for file in plan.files])
    return {"path": name, "rows": rows}, duplicates


def _empty_store() -> Any:
    import pyarrow as pa

    kinds = {"id": pa.string(), "label": pa.string(), "partition": pa.int32(), "file": pa.int32(), "row": pa.int64()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
