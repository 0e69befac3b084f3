"""Partitions of a new release from those of the live one: which rows go, and the new files of a partition."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.index import Backend, Storage
from simpipe.embeddings import vectors_of
from simpipe.index.partitions import BACKEND_JSON, build_stored, partition_folder, partition_record
from simpipe.index.routing import Router
from simpipe.index.rows import Rows
from simpipe.index.searcher import Searcher
from simpipe.index.stored import join_stored, raw
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.split import assign_among

MOVED_SCHEMA = pa.schema([("id", pa.large_string()), ("source", pa.int32()), ("partition", pa.int32())])
_NOTHING = np.zeros(0, np.int64)


def find_dropped(part: Rows, dropped: Rows, hidden: np.ndarray | None = None) -> np.ndarray:
    """The rows of a partition whose ids are dropped, without those that are hidden already: int64[m], ascending.

    Args:
      part: rows of the partition. dropped: ids that go, sorted like them. hidden: int64[h].
    """
    if len(dropped) <= len(part):
        rows = part.rows_of(dropped.ids, dropped.tie)
        rows = np.sort(rows[rows >= 0])
    else:
        rows = np.flatnonzero(dropped.rows_of(part.ids, part.tie) >= 0)
    return rows if hidden is None else rows[~np.isin(rows, hidden)]


def kept_rows(base: Searcher, number: int, dropped: np.ndarray) -> np.ndarray:
    """The rows of a partition that answer and are not dropped: int64[m]."""
    kept = np.ones(len(base.rows(number)), bool)
    kept[dropped] = False
    hidden = base.hidden(number)
    if hidden is not None:
        kept[hidden] = False
    return np.flatnonzero(kept)


def hidden_rows(base: Searcher, number: int, dropped: np.ndarray) -> np.ndarray:
    """The rows of a partition that do not answer any more: int64[h], ascending."""
    hidden = base.hidden(number)
    return dropped if hidden is None else np.union1d(hidden, dropped)


@dataclass(frozen=True)
class Rebuilt:
    """A partition that was built anew.

    Attributes:
      record: of its files, see `build_partition`.
      doubled: rows that were left out because a merged partition holds the same item.
    """

    record: dict[str, Any]
    doubled: int


def rebuild_partition(
    base: Searcher,
    work: PartitionWork,
    router: Router,
    *,
    dropped: Callable[[int], np.ndarray],
    fresh: pa.Table | None,
    folder: Path,
    backend: Backend,
    storage: Storage,
    moved: Path | None = None,
) -> Rebuilt:
    """Builds a partition of rows that the base holds and of new ones. What is finished is kept (resume).

    Args:
      base: the live release. work: what the partition is made of. router: of the new release.
      dropped: rows of a base partition that go, int64.
      fresh: new rows: columns id, label, embedding (prepared); None: no rows.
      folder: the new release. backend, storage: as the base has them.
      moved: where rows that come from another partition's division are listed, as `MOVED_SCHEMA`.
    """
    parts = [_Part.of(base, source, dropped(source)) for source in work.sources]
    if work.siblings:
        parts = [part.only(assign_among(router, part.vectors(), work.siblings) == work.partition) for part in parts if len(part)]
    if moved is not None:
        _write_moved(parts, work.partition, moved)
    doubled = 0
    if len(parts) > 1:
        parts, doubled = _once(parts)
    target = folder / partition_folder(work.partition)
    if files.is_complete(target, last=BACKEND_JSON):
        return Rebuilt(partition_record(target), doubled)
    texts = pa.large_string()
    new = (pa.array([], texts), pa.array([], texts)) if fresh is None else (_whole(fresh, "id"), _whole(fresh, "label"))
    ids = pa.concat_arrays([*(part.table.ids.take(pa.array(part.rows)) for part in parts), new[0]])
    labels = pa.concat_arrays([*(part.labels() for part in parts), new[1]])
    vectors = np.empty((0, base.dim), np.float32) if fresh is None else vectors_of(fresh)
    stored, scale = join_stored([part.stored() for part in parts], vectors, storage)
    rows, order = Rows.sort(ids, labels)
    record = build_stored(rows, (stored[order], scale), target, backend, distance=base.distance, storage=storage)
    return Rebuilt(record, doubled)


@dataclass(frozen=True)
class _Part:
    """Rows int64[m] that stay of a partition of the base."""

    base: Searcher
    number: int
    table: Rows
    rows: np.ndarray

    @classmethod
    def of(cls, base: Searcher, number: int, dropped: np.ndarray) -> _Part:
        if not base.partition_rows[number]:
            return cls(base, number, Rows.sort([], [])[0], _NOTHING)
        return cls(base, number, base.rows(number), kept_rows(base, number, dropped))

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: np.ndarray) -> _Part:
        return _Part(self.base, self.number, self.table, self.rows[chosen])

    def labels(self) -> pa.Array:
        labels = self.table.labels.take(pa.array(self.rows))
        return labels.cast(pa.large_string())

    def vectors(self) -> np.ndarray:
        return self.base.stored_vectors(self.number)[self.rows]

    def stored(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows' values as they are stored, never decoded: rounding them again would move them from round to round."""
        if not len(self.rows):
            return np.empty((0, self.base.dim), np.float32), None
        data, scale = raw(self.base.stored_vectors(self.number))
        return np.asarray(data[self.rows]), scale


def _once(parts: Sequence[_Part]) -> tuple[list[_Part], int]:
    """The parts without rows whose id an earlier part has, and how many these are."""
    kept = [parts[0]]
    for part in parts[1:]:
        chosen = np.ones(len(part), bool)
        ids, tie = part.table.ids.take(pa.array(part.rows)), part.table.tie[part.rows]
        for other in kept:
            found = other.table.rows_of(ids, tie)
            chosen &= ~np.isin(found, other.rows)
        kept.append(part.only(chosen))
    return kept, sum(map(len, parts)) - sum(map(len, kept))


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).cast(pa.large_string())
    return pa.concat_arrays(column.chunks or [pa.array([], pa.large_string())])


def _write_moved(parts: Sequence[_Part], partition: int, path: Path) -> None:
    tables = [
        pa.table(
            {
                "id": part.table.ids.take(pa.array(part.rows)),
                "source": pa.array(np.full(len(part), part.number, np.int32)),
                "partition": pa.array(np.full(len(part), partition, np.int32)),
            }
        )
        for part in parts
        if part.number != partition
    ]
    table = pa.concat_tables([MOVED_SCHEMA.empty_table(), *tables])
    with (
        files.replacing(path) as temporary,
        pa.OSFile(os.fspath(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as out,
    ):
        out.write_table(table)
