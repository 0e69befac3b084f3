"""Whether store, digests and partitions of a release hold the same items.

Memory is bounded by a file of the store, a partition, and `_MOST_ROWS` hashes: of larger releases the store is read again for
each group of partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe.arrow import pc
from simpipe.digests import digests_file
from simpipe.fsck.findings import Findings
from simpipe.fsck.listed import Release
from simpipe.fsck.partitions import check_partition
from simpipe.ids import hash_ids
from simpipe.manifest import ManifestPartition
from simpipe.store import store_file

_MOST_ROWS = 1 << 23  # of partitions at a time, about 40 bytes each
_DIGEST = pa.binary(16)


@dataclass(frozen=True)
class _Stored:
    """One file of the store: `ties` uint64[n], hashes of its ids; `partition` int64[n]; `ids` string[n]."""

    ids: pa.Array
    ties: np.ndarray
    partition: np.ndarray


def check_members(
    release: Release,
    found: Findings,
    *,
    hashed: set[str],
    update: Callable[[int], None] = lambda done: None,
    most_rows: int = _MOST_ROWS,
) -> None:
    """Compares partitions, store and digests.

    Args:
      hashed: see `check_partition`. update: is told how many partitions are done. most_rows: of partitions in memory.
    """
    manifest, count = release.manifest, release.manifest.store_files
    if [part.partition for part in manifest.partitions] != list(range(len(manifest.partitions))):
        found.error("count", "partitions are not numbered from 0 on", release=release.name)
        return
    listed = len(manifest.under("store"))
    if count < 1 or count != listed:
        what = f"{count:,} files of the store, the manifest lists {listed:,}"
        found.error("count", what, release=release.name)
    whole = 1 <= count <= listed
    for turn, group in enumerate(_groups(manifest.partitions, most_rows)):
        live = {}
        for part in group:
            live[part.partition] = check_partition(release, part, found, hashed=hashed)
            update(part.partition + 1)
        if whole:
            _check_group(release, live, found, first=turn == 0)
    if sum(part.live for part in manifest.partitions) < manifest.items:
        rows = sum(part.live for part in manifest.partitions)
        what = f"{rows:,} rows that answer in partitions, fewer than {manifest.items:,} items"
        found.error("count", what, release=release.name)


def _groups(parts: tuple[ManifestPartition, ...], most: int) -> Iterator[list[ManifestPartition]]:
    """Partitions in turn, of about `most` rows together; one empty group where there are none."""
    group, rows = [], 0
    for part in parts:
        if group and rows + part.rows > most:
            yield group
            group, rows = [], 0
        group.append(part)
        rows += part.rows
    yield group


def _check_group(release: Release, live: Mapping[int, np.ndarray | None], found: Findings, *, first: bool) -> None:
    """Compares every file of the store with these partitions; with the first ones also with the digests."""
    count, total, complete = release.manifest.store_files, 0, True
    known = {number: ties for number, ties in live.items() if ties is not None}
    numbers = np.repeat(np.array(list(known), np.int32), [len(ties) for ties in known.values()])
    ties = np.concatenate([np.empty(0, np.uint64), *known.values()])
    buckets = (ties % np.uint64(count)).astype(np.int32)
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(count + 1))
    for index in range(count):
        path = store_file(index, count)
        stored = None
        if path not in release.places and first:
            found.error("missing", "the manifest lists no such file", release=release.name, path=path)
        if path in release.whole:
            # A second reading would find the same again.
            with (found if first else Findings()).guard("content", release=release.name, path=path):
                stored = _read(release, index, found if first else Findings())
        if stored is None:
            complete = False
            continue
        total += len(stored.ids)
        if first:
            _check_digests(release, index, stored, found)
        mine = order[bounds[index] : bounds[index + 1]]
        _check_places(release, path, stored, known, found)
        _check_rows(release, stored, numbers[mine], ties[mine], found)
    if first and complete and total != release.manifest.items:
        what = f"{total:,} rows, the manifest says {release.manifest.items:,} items"
        found.error("count", what, release=release.name, path="store")


def _read(release: Release, index: int, found: Findings) -> _Stored | None:
    """One file of the store, after what can be said of it alone; None where it is not usable."""
    manifest, path = release.manifest, store_file(index, release.manifest.store_files)
    with pq.ParquetFile(release.whole[path]) as file:
        lacking = {"id", "label", "partition", *manifest.metadata} - set(file.schema_arrow.names)
        if lacking:
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        table = file.read(columns=["id", "partition"])
    ids = _strings(table.column("id"))
    partition = table.column("partition").cast(pa.int64()).to_numpy()
    ties = hash_ids(ids)
    _check_ids(release, path, ids, found)
    elsewhere = np.flatnonzero(ties % np.uint64(manifest.store_files) != index)
    if len(elsewhere):
        what = f"{len(elsewhere):,} ids belong in another file of the store, such as {ids[int(elsewhere[0])].as_py()!r}"
        found.error("count", what, release=release.name, path=path)
    wrong = np.flatnonzero((partition < 0) | (partition >= len(manifest.partitions)))
    if len(wrong):
        what = f"{len(wrong):,} items in partitions that there are not, such as {partition[wrong[0]]}"
        found.error("count", what, release=release.name, path=path)
    return _Stored(ids, ties, partition)


def _strings(column: pa.ChunkedArray) -> pa.Array:
    """A column of ids as one array: large_string[n].

    Raises:
      ValueError: no strings, or some are null.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise ValueError(f"ids are {column.type}, {column.null_count:,} of them null")
    array = column.cast(pa.large_string()).combine_chunks()
    array.validate(full=True)
    return array


def _check_ids(release: Release, path: str, ids: pa.Array, found: Findings) -> None:
    """Ids must ascend, so that none comes twice and a join needs no sorting."""
    after, before = ids.slice(1), ids.slice(0, max(0, len(ids) - 1))
    again = np.flatnonzero(pc.less_equal(after, before).to_numpy(zero_copy_only=False))
    if len(again):
        what = f"ids do not ascend or come twice: {ids[int(again[0])].as_py()!r}, then {ids[int(again[0]) + 1].as_py()!r}"
        found.error("count", what, release=release.name, path=path)


def _check_digests(release: Release, index: int, stored: _Stored, found: Findings) -> None:
    """Digests are of the items in the store, in the same order. Releases of earlier versions have none."""
    count = release.manifest.store_files
    path = digests_file(index, count)
    if path not in release.places:
        if release.manifest.under("digests"):
            found.error("missing", "the manifest lists no such file", release=release.name, path=path)
        return
    if path not in release.whole:
        return
    with found.guard("content", release=release.name, path=path), pq.ParquetFile(release.whole[path]) as file:
        table = file.read(columns=["id", "digest"])
        if table.column("digest").type != _DIGEST or table.column("digest").null_count:
            raise ValueError("column digest holds no digests of 16 bytes")
        ids = _strings(table.column("id"))
        if not ids.equals(stored.ids):
            missing = pc.index_in(stored.ids, value_set=ids).null_count
            extra = pc.index_in(ids, value_set=stored.ids).null_count
            what = f"{len(ids):,} digests of {len(stored.ids):,} items: {missing:,} items have none, {extra:,} are of no item"
            found.error("count", what if missing or extra else "ids stand in another order than in the store",
                        release=release.name, path=path)  # fmt: skip


def _check_places(release: Release, path: str, stored: _Stored, known: Mapping[int, np.ndarray], found: Findings) -> None:
    """Every item answers from the partition that the store names."""
    lost = np.zeros(len(stored.ids), bool)
    order = np.argsort(stored.partition, kind="stable")
    numbers, first = np.unique(stored.partition[order], return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(order, first[1:]), strict=True) if len(order) else ():
        if number in known:
            lost[rows] = ~_holds(known[number], stored.ties[rows])
    if lost.any():
        row = int(np.argmax(lost))
        what = f"{int(lost.sum()):,} items do not answer from the partition that the store names, such as "
        what += f"{stored.ids[row].as_py()!r} of partition {stored.partition[row]}"
        found.error("count", what, release=release.name, path=path)


def _check_rows(release: Release, stored: _Stored, numbers: np.ndarray, ties: np.ndarray, found: Findings) -> None:
    """Every row that answers is of an item: one that was deleted may not."""
    stray = ~_holds(np.sort(stored.ties), ties)
    for number in np.unique(numbers[stray]).tolist():
        what = f"{int((numbers[stray] == number).sum()):,} rows answer that are of no item in the store"
        found.error("count", what, release=release.name, path=f"partitions/{number:05d}")


def _holds(ascending: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """bool[n]: which hashes uint64[n] are among ascending ones."""
    if not len(ascending):
        return np.zeros(len(ties), bool)
    return ascending[np.minimum(np.searchsorted(ascending, ties), len(ascending) - 1)] == ties
