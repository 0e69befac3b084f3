"""The store: Parquet metadata of items, spread over files by the hash of the id, each sorted by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.ids import bucket_of
from simpipe.types import Reject

_ROW_GROUP = 16_384


def store_file(index: int, of: int) -> str:
    """`store/00003-of-00016.parquet`, relative to the release."""
    return f"store/{index:05d}-of-{of:05d}.parquet"


def find_duplicates(table: pa.Table, sources: Sequence[str]) -> list[Reject]:
    """Ids that stand in more than one row.

    Args:
      table: columns id, file, row; sorted by them.
      sources: names of the files that `file` counts.
    """
    ids = table.column("id")
    if len(ids) < 2:
        return []
    again = np.flatnonzero(pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)) + 1

    def places(rows: np.ndarray) -> list[str]:
        found = table.select(["file", "row"]).take(rows).to_pylist()
        return [f"{sources[place['file']]} row {place['row']}" for place in found]

    named = zip(ids.take(again).to_pylist(), places(again), places(again - 1), strict=True)
    return [Reject(name, here, "duplicate-id", f"id {name!r} stands at {there} and at {here}") for name, here, there in named]


def write_store_file(
    table: pa.Table, path: Path, *, sources: Sequence[str], query_ids: pa.Table | None = None
) -> tuple[int, list[Reject]]:
    """Writes one store file.

    Args:
      table: columns id, label, partition (int32), file, row, and metadata columns; the rows of one bucket, any order.
      path: the file; `file` and `row` serve to name duplicates and are not stored, nor is a column `digest`.
      sources: names of the files that `file` counts.
      query_ids: id, file, row of held-out queries of the bucket: an id may not be among them either.

    Returns:
      Rows written, and the duplicate ids (then nothing is written).
    """
    order = [("id", "ascending"), ("file", "ascending"), ("row", "ascending")]
    ids = table.select(["id", "file", "row"])
    duplicates = find_duplicates(pa.concat_tables([ids, query_ids or ids.slice(0, 0)]).sort_by(order), sources)
    if duplicates:
        return 0, duplicates
    table = table.sort_by(order)
    with files.replacing(path) as temporary:
        kept = [name for name in table.column_names if name not in ("file", "row", "digest")]
        pq.write_table(table.select(kept), temporary, compression="zstd", row_group_size=_ROW_GROUP)
    return len(table), []


def fetch(
    ids: pa.Array | Sequence[str],
    open_file: Callable[[int], Path],
    count: int,
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table | None:
    """Rows of the given ids, in any order; ids that are not there are left out.

    Args:
      ids: item ids.
      open_file: path of store file number i, verified.
      count: how many store files there are.
      columns: that are read, beside the id; None: all.

    Returns:
      A table with id, label, partition and metadata columns; None without any id.
    """
    if not len(ids):
        return None
    unique = pc.unique(ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string()))
    buckets = bucket_of(unique, count)
    wanted = None if columns is None else ["id", *(name for name in columns if name != "id")]
    parts = []
    for bucket in np.unique(buckets):
        names = unique.take(pa.array(np.flatnonzero(buckets == bucket)))
        parts.append(pq.read_table(open_file(int(bucket)), columns=wanted, filters=pc.field("id").isin(names)))
    return pa.concat_tables(parts)
