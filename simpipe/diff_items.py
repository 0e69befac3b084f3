"""Which items two releases hold, and which of those in both changed, by digests; a bucket at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import releases
from simpipe.arrow import pc
from simpipe.digests import digests_file
from simpipe.ids import bucket_of
from simpipe.manifest import Manifest
from simpipe.store import store_file

Opened = tuple[Path, Manifest]
KINDS = ("added", "changed", "deleted")


@dataclass
class _Tally:
    most: int
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*KINDS, "in_both"), 0))
    ids: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, ids: pa.ChunkedArray | pa.Array) -> None:
        self.counts[kind] += len(ids)
        if kind in self.ids:
            self.ids[kind] += ids.slice(0, max(0, self.most - len(self.ids[kind]))).to_pylist()


def compare_items(before: Opened, after: Opened, *, ids: int) -> dict[str, Any]:
    """Counts of items that were added, changed, deleted, and that are in both; some ids of each.

    Memory is bounded by a bucket of each, also where they have other numbers of files of the store.

    Args:
      before, after: the releases. ids: how many ids of each kind are named.

    Returns:
      `by`: `digests`; or `ids`, where a release has no digests: then `changed` and `unchanged` are None.

    Raises:
      ReleaseError: a file is missing or altered.
    """
    by = "digests" if all(_has_digests(manifest) for _, manifest in (before, after)) else "ids"
    tally = _Tally(ids)
    for one, other in _pairs(before, after, by):
        _join(one, other, tally, digests=by == "digests")
    counts: dict[str, Any] = tally.counts | {"unchanged": tally.counts["in_both"] - tally.counts["changed"]}
    if by == "ids":
        counts |= {"changed": None, "unchanged": None}
    return {"by": by, **counts, "ids": {kind: sorted(found) for kind, found in tally.ids.items()}}


def _has_digests(manifest: Manifest) -> bool:
    return all(manifest.has(digests_file(index, manifest.store_files)) for index in range(manifest.store_files))


def _pairs(before: Opened, after: Opened, by: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Tables of both that hold all items of the same ids. Item id lies in file `hash % files`, so files i and j have ids in
    common only where i and j agree modulo the greatest common divisor of the numbers of files.
    """
    n, m = before[1].store_files, after[1].store_files
    step = math.gcd(n, m)
    for i in range(n):
        one = _read(before, i, by)
        for j in range(i % step, m, step):
            other = _read(after, j, by)
            yield (one, other) if n == m else (_of_bucket(one, j, m), _of_bucket(other, i, n))


def _of_bucket(table: pa.Table, bucket: int, of: int) -> pa.Table:
    return table.filter(pa.array(bucket_of(table.column("id"), of) == bucket))


def _read(opened: Opened, index: int, by: str) -> pa.Table:
    folder, manifest = opened
    name = (digests_file if by == "digests" else store_file)(index, manifest.store_files)
    with pq.ParquetFile(releases.verify_file(folder, manifest.file(name))) as file:
        return file.read(columns=["id", "digest"] if by == "digests" else ["id"]).combine_chunks()


def _join(one: pa.Table, other: pa.Table, tally: _Tally, *, digests: bool) -> None:
    place = pc.index_in(other.column("id"), value_set=one.column("id"))
    known = place.is_valid()
    common = other.filter(known)
    tally.add("added", other.filter(pc.invert(known)).column("id"))
    tally.add("deleted", one.filter(pc.invert(pc.is_in(one.column("id"), value_set=other.column("id")))).column("id"))
    tally.add("in_both", common.column("id"))
    if digests and len(common):
        was = one.column("digest").take(place.drop_null())
        tally.add("changed", common.filter(pc.not_equal(common.column("digest"), was)).column("id"))
