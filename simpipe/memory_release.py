"""Writes an index in memory as a release of one partition, and reads any release back into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import __version__, files, releases
from simpipe.config.index import Backend
from simpipe.cutpoints import CUTPOINTS_JSON, write_calibration
from simpipe.errors import ReleaseError
from simpipe.index.memory import MemoryIndex
from simpipe.index.partitions import partition_folder, write_partition
from simpipe.index.payload import DATA_COLUMN, decode_column, encode_payload
from simpipe.index.router import ROUTER_FILE
from simpipe.index.searcher import Searcher
from simpipe.leases import take_exclusive
from simpipe.manifest import Manifest, ManifestEncoder, ManifestFile, ManifestPartition
from simpipe.store import store_file, write_store_file
from simpipe.survey import release_lock

MADE_BY = "model"
_STORE_ROWS = 1 << 20


@dataclass(frozen=True)
class About:
    """What a release says of itself beyond its items.

    Attributes:
      encoder: fingerprint of the model, or `none`. encoder_folder: where it lies, relative to the root.
      labels: kind of the user's labels, `int` or `string`.
      thresholds: of the calibration, if there is one.
    """

    encoder: str
    encoder_folder: str | None = None
    labels: str | None = None
    thresholds: Mapping[str, np.ndarray] = field(default_factory=dict)


def save_release(index: MemoryIndex, root: Path, about: About) -> Path:
    """Writes a release under `root` and makes it live, in one move; earlier ones of a model are removed but for the last.

    Returns:
      The release's folder.

    Raises:
      QueryError: data that can't be stored. PublishConflictError: somebody else published meanwhile.
    """
    payload = encode_payload(index.data) if any(value is not None for value in index.data) else None
    key = _key(index, about, payload)
    with files.locked(release_lock(root, key)):  # or `prune` takes it for what a kill left
        return _save(index, root, about, payload, key)


def _save(index: MemoryIndex, root: Path, about: About, payload: pa.Array | None, key: str) -> Path:
    expected = releases.read_pointer(root)
    folder = releases.start_release(root, key)
    records = [_partition(index, folder), *_store(index, folder, payload)]
    index.router.save(folder / ROUTER_FILE)
    written, steps = [ROUTER_FILE], {"build": key}
    if index.calibrated is not None:
        written += write_calibration(folder, index.calibrated, about.thresholds)
        steps["calibrate"] = key
    entries = [*(files.entry_of(folder / name, folder).to_json() for name in written), *(e for r in records for e in r["files"])]
    manifest = Manifest(
        release=folder.name,
        created_at=releases.now(),
        simpipe_version=__version__,
        dim=index.dim,
        distance=index.distance,
        encoder=ManifestEncoder(fingerprint=about.encoder, folder=about.encoder_folder),
        items=index.items,
        metadata=(DATA_COLUMN,) if payload is not None else (),
        partitions=(ManifestPartition(**{name: records[0][name] for name in ManifestPartition.model_fields}),),
        store_files=len(records) - 1,
        backend=index.backend.model_dump(mode="json"),
        router={"kind": "hash", "partitions": 1},
        search={"probes": None},
        config={},
        provenance={"made_by": MADE_BY, "labels": about.labels, "payload": payload is not None},
        steps=steps,
        files=tuple(ManifestFile(**entry) for entry in sorted(entries, key=lambda entry: entry["path"])),
    )
    manifest.save(folder)
    (folder / releases.BUILD_JSON).unlink(missing_ok=True)
    releases.publish(root, folder.name, expected=expected.release if expected else None, needed_steps=())
    _remove_older(root)
    return folder


def _key(index: MemoryIndex, about: About, payload: pa.Array | None) -> str:
    """What the release is made from; an unfinished save of the same content is continued."""
    ids, labels, vectors = index.columns()
    hasher = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
    for column in (pa.array(ids, pa.string()), pa.array(labels, pa.string()), payload):
        for buffer in column.buffers() if column is not None else ():
            hasher.update(buffer if buffer is not None else b"-")
    facts = {"distance": index.distance, "backend": index.backend.model_dump(mode="json"), "encoder": about.encoder}
    hasher.update(files.digest({**facts, "calibration": index.calibrated, "labels": about.labels}).encode())
    return hasher.hexdigest()


def _partition(index: MemoryIndex, folder: Path) -> dict[str, Any]:
    target = folder / partition_folder(0)
    # An HNSW graph differs from build to build, and the one in memory was calibrated: neither built anew nor taken from
    # a save that was killed.
    files.remove_folder(target)
    return write_partition(index.partition(0), target)


def _store(index: MemoryIndex, folder: Path, payload: pa.Array | None) -> list[dict[str, Any]]:
    from simpipe.ids import bucket_of

    ids, labels, _ = index.columns()
    rows = np.arange(len(ids))
    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "label": pa.array(labels, pa.string()),
        "partition": pa.array(np.zeros(len(ids), np.int32)),
        "file": pa.array(np.zeros(len(ids), np.int32)),
        "row": pa.array(rows),
    }
    if payload is not None:
        columns[DATA_COLUMN] = payload
    table = pa.table(columns)
    count = max(1, -(-len(ids) // _STORE_ROWS))
    buckets = bucket_of(table.column("id"), count)
    records = []
    for bucket in range(count):
        path = folder / store_file(bucket, count)
        write_store_file(table.take(rows[buckets == bucket]), path, sources=["the index in memory"])
        records.append({"files": [files.entry_of(path, folder).to_json()]})
    return records


def _remove_older(root: Path) -> None:
    """Removes releases that models wrote under `root`, but for the live one, the one before, and any that others refer to
    or read."""
    found = releases.finished(root)
    pointer = releases.read_pointer(root)
    kept = {entry.release for _, manifest in found for entry in manifest.files}
    kept |= {pointer.release, pointer.previous} if pointer else set()
    for folder, manifest in found:
        if manifest.provenance.get("made_by") == MADE_BY and folder.name not in kept:
            lease = take_exclusive(root, folder.name)
            if lease is not None:
                with lease:
                    gone = folder.with_name(f"{files.TMP_PREFIX}{folder.name}")
                    folder.rename(gone)  # first: nobody opens half a release
                    files.remove_folder(gone)
                    lease.remove_file()


def read_into_memory(searcher: Searcher, backend: Backend) -> MemoryIndex:
    """All items of a release in one partition in memory, so that more can be added; numbered ids in their order.

    Raises:
      ReleaseError: store and partitions disagree, or a file was altered.
    """
    index = MemoryIndex(searcher.dim, distance=searcher.distance, backend=backend)
    parts = [searcher.partition(number) for number, rows in enumerate(searcher.partition_rows) if rows]
    if not parts:
        return index
    ids = np.concatenate([part.ids[part.live] for part in parts])
    _, first = np.unique(ids.astype(str), return_index=True)  # a spilled item lies in several partitions
    order = first[_natural_order(ids[first])]
    labels = np.concatenate([part.labels[part.live] for part in parts])[order]
    vectors = np.concatenate([part.vectors[part.live] for part in parts])[order]
    if len(order) != searcher.manifest.items:
        raise ReleaseError(f"{searcher.title}: {len(order)} items, the manifest says {searcher.manifest.items}", "build again")
    numbered = bool((ids[order] == np.arange(len(order)).astype(str)).all())
    data = data_of(searcher, ids[order].tolist())
    index.add(vectors, labels, ids=None if numbered else ids[order].tolist(), data=data)
    if searcher.calibrated is not None or searcher.manifest.has(CUTPOINTS_JSON):
        index.calibrated = searcher.calibration()
    return index


def _natural_order(ids: np.ndarray) -> np.ndarray:
    """Running numbers by value, other ids by text."""
    text = ids.astype(str)
    if np.char.isdigit(text).all():
        return np.lexsort((text, np.char.str_len(text)))
    return np.argsort(ids, kind="stable")


def data_of(searcher: Searcher, ids: list[str]) -> list[Any]:
    """What the store holds beside items: the data a model indexed, or a dict of metadata columns; None without any."""
    columns = list(searcher.manifest.metadata)
    if not columns:
        return [None] * len(ids)
    table = searcher.items_of(ids).select(columns)
    if searcher.manifest.provenance.get("payload"):
        return decode_column(table.column(DATA_COLUMN))
    return table.to_pylist()
