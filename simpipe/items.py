"""The items of a release with their vectors as the release holds them: each once, in blocks, by store file.

A store file lists the items that answer, each with its partition: copies of spilled items and hidden rows are never met.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe.errors import ContractError
from simpipe.index.searcher import Searcher
from simpipe.store import store_file

_STORE_COLUMNS = ("id", "label", "partition")


@dataclass(frozen=True)
class ItemBlock:
    """Items in a row.

    Attributes:
      table: id, label and metadata columns, as the store has them.
      vectors: float32[n, dim], prepared (see `distance.prepare`), decoded where they are stored smaller: what answers.
    """

    table: pa.Table
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def slice(self, first: int, rows: int) -> ItemBlock:
        return ItemBlock(self.table.slice(first, rows), self.vectors[first : first + rows])


def metadata_fields(base: Searcher) -> list[pa.Field]:
    """The metadata columns of a release's store, in their order."""
    stored = pq.read_schema(base.file(store_file(0, base.manifest.store_files)))
    return [field for field in stored if field.name not in _STORE_COLUMNS]


def item_rows(base: Searcher, number: int) -> int:
    """How many items a store file has."""
    return pq.read_metadata(base.file(store_file(number, base.manifest.store_files))).num_rows


def item_blocks(base: Searcher, number: int, *, rows: int) -> Iterator[ItemBlock]:
    """The items of a store file, ascending by id, in blocks of at most `rows`.

    Raises:
      ContractError: store and partitions disagree.
    """
    names = ["id", "label", *(field.name for field in metadata_fields(base))]
    with pq.ParquetFile(base.file(store_file(number, base.manifest.store_files))) as file:
        for batch in file.iter_batches(batch_size=rows):
            table = pa.Table.from_batches([batch])
            yield ItemBlock(table.select(names), item_vectors(base, table))


def item_vectors(base: Searcher, table: pa.Table) -> np.ndarray:
    """float32[n, dim], of the items that a store table (id, partition) names.

    Raises:
      ContractError: an item is not in its partition, or hidden there.
    """
    ids, numbers = table.column("id"), table.column("partition").to_numpy()
    out = np.empty((len(table), base.dim), np.float32)
    for number in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == number)
        rows = base.rows(number).rows_of(ids.take(pa.array(places)))
        hidden = base.hidden(number)
        gone = rows < 0 if hidden is None else (rows < 0) | np.isin(rows, hidden)
        if gone.any():
            name = ids[int(places[int(np.argmax(gone))])].as_py()
            raise ContractError(f"{base.title}: id {name!r} is in the store but not in partition {number}", "build again")
        out[places] = base.stored_vectors(number)[rows]
    return out
