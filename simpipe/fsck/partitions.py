"""A partition's rows, hidden rows and vectors against the manifest."""

from __future__ import annotations

import numpy as np

from simpipe import files
from simpipe.fsck.findings import Findings
from simpipe.fsck.listed import Release
from simpipe.ids import hash_ids
from simpipe.index.hidden import hidden_file, read_hidden
from simpipe.index.partitions import BACKEND_JSON, partition_folder, vectors_in
from simpipe.index.rows import ROWS_FILE, Rows
from simpipe.index.stored import VECTORS_FILE
from simpipe.manifest import ManifestPartition


def check_partition(release: Release, part: ManifestPartition, found: Findings, *, hashed: set[str]) -> np.ndarray | None:
    """Checks one partition.

    Args:
      part: what the manifest says of it. hashed: SHA-256 of files of rows whose hashes were compared before; grows.

    Returns:
      uint64[n], ascending: hashes of the ids of the rows that answer. None where the rows cannot be read.
    """
    folder = partition_folder(part.partition)
    rows = f"{folder}/{ROWS_FILE}"
    if not part.rows and rows not in release.places:
        return np.empty(0, np.uint64)  # an empty slot
    for path in (rows, f"{folder}/{BACKEND_JSON}"):
        if path not in release.places:
            found.error("missing", "the manifest lists no such file", release=release.name, path=path)
    if rows not in release.whole:
        return None
    ties = None
    with found.guard("content", release=release.name, path=rows):
        ties = _live(release, part, rows, found, hashed=hashed)
    with found.guard("content", release=release.name, path=folder):
        _check_vectors(release, part, folder, found)
    return ties


def _live(release: Release, part: ManifestPartition, path: str, found: Findings, *, hashed: set[str]) -> np.ndarray | None:
    table = Rows.load(release.whole[path])
    for column in (table.ids, table.labels):
        column.validate(full=True)
    if len(table.ids) != len(table) or len(table.labels) != len(table) or table.ids.null_count:
        raise ValueError("columns of different lengths, or rows without id")
    sha256 = release.manifest.file(path).sha256
    if sha256 not in hashed:
        if not np.array_equal(hash_ids(table.ids), table.tie) or (table.tie[1:] < table.tie[:-1]).any():
            raise ValueError("column tie does not hold the hashes of the ids in ascending order")
        hashed.add(sha256)
    if len(table) != part.rows:
        what = f"{len(table):,} rows, the manifest says {part.rows:,}"
        found.error("count", what, release=release.name, path=path)
    live = _without_hidden(release, part, len(table), found)
    if live is None:
        return None
    again = np.flatnonzero(table.tie[live[1:]] == table.tie[live[:-1]])
    if len(again):
        one, other = table.take_ids(live[again]), table.take_ids(live[again + 1])
        twice = one[one == other]
        if len(twice):
            what = f"{len(twice):,} ids stand in two rows that answer, such as {twice[0]!r}"
            found.error("count", what, release=release.name, path=path)
    return table.tie[live]


def _without_hidden(release: Release, part: ManifestPartition, rows: int, found: Findings) -> np.ndarray | None:
    """int64[n]: rows that answer; None where it is not known which."""
    path = hidden_file(part.partition)
    everything = np.arange(rows)
    if not part.hidden:
        if path in release.places:
            what = "rows are hidden, the manifest says none are"
            found.error("count", what, release=release.name, path=path)
        return everything
    if path not in release.places:
        what = f"{part.hidden:,} rows are hidden, but the manifest lists no such file"
        found.error("missing", what, release=release.name, path=path)
    elif path in release.whole:
        with found.guard("count", release=release.name, path=path):
            hidden = read_hidden(release.whole[path], hidden=part.hidden, rows=rows)
            return np.delete(everything, hidden)
    return None


def _check_vectors(release: Release, part: ManifestPartition, folder: str, found: Findings) -> None:
    path = f"{folder}/{BACKEND_JSON}"
    if path not in release.whole:
        return
    about = files.read_json(release.whole[path])
    if (about["rows"], about["backend"]) != (part.rows, part.backend):
        what = f"{about['rows']} rows of {about['backend']}, the manifest says {part.rows} of {part.backend}"
        found.error("count", what, release=release.name, path=path)
    vectors = f"{folder}/{about.get('vectors', VECTORS_FILE)}"
    if vectors not in release.places:
        found.error("missing", "the manifest lists no such file", release=release.name, path=vectors)
    if vectors in release.whole:
        manifest = release.manifest
        kind: dict[str, object] = {"storage": manifest.storage, "distance": manifest.distance}
        vectors_in(release.whole[path].parent, rows=part.rows, dim=manifest.dim, **kind)  # type: ignore[arg-type]
