"""The store and digests of a new release: those of the live one without what goes, with what comes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.digests import write_digests
from simpipe.errors import ContractError
from simpipe.reindex.rebuild import MOVED_SCHEMA
from simpipe.store import write_store_file
from simpipe.types import Reject

_AGAIN = "run `simpipe run` once"


@dataclass(frozen=True)
class Moves:
    """Items that stay but change their partition.

    Attributes:
      into: where all rows of a merged partition went.
      divided: columns id, source, partition: rows that left a divided partition.
    """

    into: Mapping[int, int]
    divided: pa.Table

    @classmethod
    def read(cls, into: Mapping[int, int], paths: Sequence[Path]) -> Moves:
        """Reads what `rebuild_partition` listed."""
        tables = []
        for path in paths:
            with pa.memory_map(os.fspath(path)) as source:
                tables.append(pa.ipc.open_file(source).read_all())
        return cls(into, pa.concat_tables([MOVED_SCHEMA.empty_table(), *tables]))

    def apply(self, ids: pa.ChunkedArray, partition: np.ndarray) -> np.ndarray:
        """The new partitions of items: int32[n], from those in the base."""
        moved = partition.copy()
        for source, target in self.into.items():
            moved[partition == source] = target
        sources = self.divided.column("source").to_numpy()
        for source in np.unique(sources):
            # A copy of an item may have moved too: what counts is its first row, in the partition that the store names.
            lines = self.divided.filter(pa.array(sources == source))
            rows = np.flatnonzero(partition == source)
            names = ids.take(pa.array(rows)).cast(pa.large_string())
            at = pc.index_in(names, value_set=lines.column("id").combine_chunks())
            found = pc.fill_null(at, -1).to_numpy()
            moved[rows[found >= 0]] = lines.column("partition").to_numpy()[found[found >= 0]]
        return moved


@dataclass(frozen=True)
class StoreFile:
    """What became of a store file: its rows, how many old ones went and how many came, and duplicate ids (nothing written)."""

    rows: int
    dropped: int
    added: int
    duplicates: list[Reject]


def rewrite_store_file(
    old: pa.Table,
    digests: pa.Table,
    *,
    dropped: pa.Array | pa.ChunkedArray,
    fresh: pa.Table | None,
    moves: Moves,
    path: Path,
    digests_path: Path,
    sources: Sequence[str],
) -> StoreFile:
    """Writes the store file and the digests of one bucket.

    Args:
      old, digests: of the base. dropped: ids that go, all of them in `old`.
      fresh: columns id, label, partition, file, row, digest and metadata columns; None: nothing comes.
      moves: of items that stay. path, digests_path: of the new files.
      sources: names of the files that `file` counts; the last one is the base.

    Raises:
      ContractError: a dropped id is not in the base, the base has no digests of its items, or a column's type changed.
    """
    stays = pc.invert(pc.is_in(old.column("id"), value_set=_whole(dropped)))
    kept = old.filter(stays)
    if len(old) - len(kept) != len(dropped) or old.column("id") != digests.column("id"):
        raise ContractError(f"{path.name}: the changes or digests do not belong to {sources[-1]}", _AGAIN)
    partition = moves.apply(kept.column("id"), kept.column("partition").to_numpy())
    kept = kept.set_column(kept.schema.get_field_index("partition"), "partition", pa.array(partition, pa.int32()))
    where = {"file": pa.array(np.full(len(kept), len(sources) - 1, np.int32)), "row": pa.array(np.arange(len(kept)))}
    for name, values in where.items():
        kept = kept.append_column(name, values)
    kept = kept.append_column("digest", digests.column("digest").filter(stays))
    table = kept if fresh is None else pa.concat_tables([kept, _as(fresh, kept.schema, path.name)])
    rows, duplicates = write_store_file(table, path, sources=sources)
    if not duplicates:
        write_digests(table, digests_path)
    return StoreFile(rows, len(old) - len(kept), len(table) - len(kept), duplicates)


def _as(fresh: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """New rows with the columns and types of the store."""
    if "digest" not in fresh.column_names:
        raise ContractError(f"{name}: the new embeddings have no digests", _AGAIN)
    try:
        return fresh.select(schema.names).cast(schema)
    # A value that does not fit, a type without a cast to the other, a column that is missing: all the user's to mend.
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise ContractError(f"{name}: metadata of another type than in the live release ({error})", _AGAIN) from None


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
