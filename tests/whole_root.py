"""A small root with two releases, the second a re-index of the first, written without the line: oracle of fsck and diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files, releases
from simpipe.config.index import ExactBackend
from simpipe.digests import digest_rows, digests_file, write_digests
from simpipe.embeddings import vectors_column
from simpipe.fsck import check_root
from simpipe.ids import bucket_of
from simpipe.index.hidden import hidden_file, write_hidden
from simpipe.index.partitions import build_partition, partition_folder
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.index.rows import ROWS_FILE, Rows
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestEncoder, ManifestFile, ManifestPartition
from simpipe.store import store_file, write_store_file

FIRST, SECOND = "20250101T000000Z-aaaaaa", "20250102T000000Z-bbbbbb"
PARTITIONS, STORE_FILES, DIM = 3, 2, 4
EXACT = ExactBackend(kind="exact")


def items_of(numbers: list[int], version: int = 1) -> pa.Table:
    """Items `i<number>` of a version: id, label, embedding, partition (number modulo 3)."""
    ids = pa.array([f"i{number}" for number in numbers], pa.string())
    vectors = np.random.default_rng([version, *numbers[:1]]).normal(size=(len(numbers), DIM)).astype(np.float32)
    labels = pa.array([f"l{number % 2}" for number in numbers], pa.string())
    partition = pa.array(np.array(numbers, np.int32) % PARTITIONS)
    return pa.table({"id": ids, "label": labels, "embedding": vectors_column(vectors), "partition": partition})


def write_release(
    root: Path,
    name: str,
    items: pa.Table,
    *,
    base: str | None = None,
    rebuilt: tuple[int, ...] = tuple(range(PARTITIONS)),
    hidden: dict[int, list[str]] | None = None,
    store_files: int = STORE_FILES,
    metrics: dict[str, float] | None = None,
    **fields: Any,
) -> Manifest:
    """Writes a release.

    Args:
      items: that are live. base: release that partitions other than `rebuilt` are carried over from.
      hidden: ids hidden in carried-over partitions. fields: of the manifest, in the place of defaults.
    """
    folder = releases.releases_folder(root) / name
    folder.mkdir(parents=True)
    before = Manifest.load(folder.parent / base) if base else None
    parts, entries, written = [], [], [ROUTER_FILE, "cutpoints.json", "metrics.json"]
    for number in range(PARTITIONS):
        if number in rebuilt:
            mine = items.filter(pa.array(items.column("partition").to_numpy() == number))
            record = build_partition(mine, folder / partition_folder(number), EXACT, distance="euclidean")
            entries += record["files"]
            parts.append(ManifestPartition(**{f: record[f] for f in ("partition", "rows", "backend")}))
            continue
        assert before is not None
        carried = [entry.model_dump() | {"release": entry.release or base} for entry in before.under(partition_folder(number))]
        entries += carried
        gone = (hidden or {}).get(number, [])
        if gone:
            rows = Rows.load(folder.parent / str(base) / partition_folder(number) / ROWS_FILE).rows_of(gone)
            write_hidden(np.sort(rows), folder / hidden_file(number))
            written.append(hidden_file(number))
        parts.append(before.partitions[number].model_copy(update={"hidden": len(gone)}))
    Router(PARTITIONS).save(folder / ROUTER_FILE)
    n, buckets = len(items), bucket_of(items.column("id"), store_files)
    extra = {"file": pa.array(np.zeros(n, np.int32)), "row": pa.array(np.arange(n))}
    digests = digest_rows({column: items.column(column) for column in ("label", "embedding")})
    for index in range(store_files):
        mine = np.flatnonzero(buckets == index)
        stored = items.select(["id", "label", "partition"])
        for column, values in extra.items():
            stored = stored.append_column(column, values)
        write_store_file(stored.take(mine), folder / store_file(index, store_files), sources=["test"])
        write_digests(
            pa.table({"id": items.column("id"), "digest": digests}).take(mine), folder / digests_file(index, store_files)
        )
        written += [store_file(index, store_files), digests_file(index, store_files)]
    files.write_json(folder / "cutpoints.json", {"cutpoints": {"optimal": {"distance": 0.5, "precision": 0.9, "recall": 0.8}}})
    files.write_json(folder / "metrics.json", {"metrics": metrics or {"label_precision_at_1": 0.9, "ann_recall_at_10": 1.0}})
    entries += [files.entry_of(folder / path, folder).to_json() for path in written]
    manifest = Manifest(
        **{
            "release": name,
            "created_at": f"2025-01-0{name[7]}T00:00:00Z",
            "simpipe_version": "0",
            "dim": DIM,
            "distance": "euclidean",
            "encoder": ManifestEncoder(fingerprint="none"),
            "items": n,
            "partitions": tuple(parts),
            "store_files": store_files,
            "backend": EXACT.model_dump(mode="json"),
            "router": {"kind": "hash", "partitions": PARTITIONS},
            "search": {"target_recall": None, "probes": None},
            "config": {"seed": 0, "build": {"store_files": store_files}},
            "provenance": {"embeddings": "0123456789abcdef"},
            "steps": {"build": "key", "calibrate": "key", "evaluate": "key"},
            "parents": (base,) if base else (),
            "files": tuple(sorted((ManifestFile(**entry) for entry in entries), key=lambda entry: entry.path)),
            **fields,
        }
    )
    manifest.save(folder)
    return manifest


def make_root(root: Path) -> Path:
    """Two releases, both published: of 60 items; then 2 of them deleted, 1 changed, 3 added, only partition 2 rebuilt."""
    write_release(root, FIRST, items_of(list(range(60))))
    releases.publish(root, FIRST)
    write_release(root, SECOND, *second_items(), base=FIRST, rebuilt=(2,), hidden={1: ["i1", "i4"]})
    releases.publish(root, SECOND)
    return root


def second_items() -> tuple[pa.Table]:
    """Without i1 and i4 (partition 1); i2 changed, i62, i65 and i68 added (partition 2)."""
    kept = items_of(list(range(60)))
    kept = kept.filter(pa.array([name not in ("i1", "i2", "i4") for name in kept.column("id").to_pylist()]))
    return (pa.concat_tables([kept, items_of([2, 62, 65, 68], version=2)]),)


def alter_manifest(root: Path, name: str, change: Any, *, publish: bool = True) -> None:
    """Changes a manifest as JSON: `change(data)`; the pointer's checksum goes with it."""
    path = releases.releases_folder(root) / name / MANIFEST_JSON
    data = files.read_json(path)
    change(data)
    path.write_text(json.dumps(data))
    pointer = root / "live.json"
    live = files.read_json(pointer)
    if publish and live["release"] == name:
        files.write_json(pointer, {**live, "manifest_sha256": files.sha256_file(path)})


def relist(root: Path, name: str, path: str) -> None:
    """Lists a file of a release with the size and checksum that it has now."""
    folder = releases.releases_folder(root) / name
    now = files.entry_of(folder / path, folder).to_json()

    def change(data: dict[str, Any]) -> None:
        data["files"] = [entry for entry in data["files"] if entry["path"] != path] + [now]

    alter_manifest(root, name, change)


def found(root: Path, **how: Any) -> set[tuple[str, str, str | None, str | None]]:
    report = check_root(root, **how)
    json.dumps(report.to_json(), allow_nan=False)
    assert all(finding.what and finding.cure for finding in report.findings)
    return {(each.severity, each.code, each.release, each.path) for each in report.findings}


def at(root: Path, release: str, path: str) -> Path:
    return root / "releases" / release / path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
