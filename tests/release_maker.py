"""Small releases for tests of the searcher, made without the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files, releases
from simpipe.config.index import Backend, ExactBackend
from simpipe.embeddings import vectors_column
from simpipe.index.distance import prepare
from simpipe.index.partitions import build_partition, partition_folder
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.manifest import Manifest, ManifestEncoder, ManifestFile, ManifestPartition
from simpipe.store import store_file, write_store_file

EXACT = ExactBackend(kind="exact")
RELEASE = "20250101T000000Z-aaaaaa"


def make_release(
    root: Path,
    vectors: np.ndarray,
    router: Router,
    *,
    distance: str = "euclidean",
    backend: Backend = EXACT,
    storage: Any = "float32",
    values: list[str] | None = None,
    release: str = RELEASE,
    publish: bool = True,
) -> np.ndarray:
    """Writes (and publishes) a release of items `i0`, `i1`, ... with labels `l0` to `l4` and a column `number`.

    Returns:
      Rows of each partition: object[partitions] of int64.
    """
    n = len(vectors)
    vectors = prepare(vectors, distance)
    ids = pa.array([f"i{row}" for row in range(n)], pa.string())
    labels = pa.array([None if row % 7 == 0 else f"l{row % 5}" for row in range(n)], pa.string())
    first, (copied, second) = router.route(ids, vectors, values)
    folder = releases.releases_folder(root) / release
    folder.mkdir(parents=True)
    records, members = [], np.empty(router.partitions, object)
    for number in range(router.partitions):
        rows = np.concatenate([np.flatnonzero(first == number), copied[second == number]])
        table = pa.table({"id": ids, "label": labels, "embedding": vectors_column(vectors)}).take(rows)
        records.append(build_partition(table, folder / partition_folder(number), backend, distance=distance, storage=storage))
        members[number] = rows
    router.save(folder / ROUTER_FILE)
    numbers = pa.array(np.arange(n))
    columns = {"id": ids, "label": labels, "partition": pa.array(first.astype(np.int32)), "number": numbers}
    stored = pa.table({**columns, "file": pa.array(np.zeros(n, np.int32)), "row": numbers})
    write_store_file(stored, folder / store_file(0, 1), sources=["test"])
    entries = [files.entry_of(folder / name, folder).to_json() for name in (ROUTER_FILE, store_file(0, 1))]
    entries += [entry for record in records for entry in record["files"]]
    Manifest(
        release=release,
        created_at=releases.now(),
        simpipe_version="0",
        dim=vectors.shape[1],
        distance=distance,
        encoder=ManifestEncoder(fingerprint="none"),
        items=n,
        metadata=("number",),
        partitions=tuple(ManifestPartition(**{f: record[f] for f in ManifestPartition.model_fields}) for record in records),
        store_files=1,
        backend=backend.model_dump(mode="json"),
        storage=storage,
        router={"kind": router.kind},
        search={"target_recall": 0.99, "probes": None},
        config={},
        provenance={},
        steps={"build": "key"},
        files=tuple(ManifestFile(**entry) for entry in entries),
    ).save(folder)
    if publish:
        releases.publish(root, needed_steps=())
    return members
