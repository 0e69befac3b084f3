"""Metadata columns in the order of the rows of partitions, where the store holds them by the hash of the id.

A column is read from the store once, when a filter first asks for it: store file by store file, then gathered partition by
partition into memory-mapped scratch files. Memory is bounded by a store file or a partition, whichever is larger.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe.arrow import pc
from simpipe.errors import ReleaseError
from simpipe.index.filters import LABEL, plain_array
from simpipe.index.masks import ColumnStats, stats_of
from simpipe.index.rows import Rows
from simpipe.index.scratch import mapped_array, mapped_column, mapped_table
from simpipe.store import store_file

_SHARE = 4  # a column of text is kept as codes where it has at most a row's fourth part of distinct values


@dataclass(frozen=True)
class Column:
    """A column of one partition: `values` in the order of its rows (see `filters.plain_array`), and their statistics."""

    values: pa.Array
    stats: ColumnStats


class Columns(Protocol):
    """What filters ask of an index.

    Attributes:
      types: Arrow type of each column that may be asked, `label` among them.
    """

    @property
    def types(self) -> Mapping[str, pa.DataType]: ...

    def column(self, number: int, name: str) -> Column:
        """A column of partition `number`."""
        ...

    def own(self, number: int) -> np.ndarray | None:
        """bool[rows]: which rows are no copies of an item of another partition; None: there are no copies."""
        ...


class Labels:
    """The column `label`, all that an index without a store holds. Threads may share it.

    Args:
      rows: gives those of a partition.
    """

    def __init__(self, rows: Callable[[int], Rows]) -> None:
        self._rows = rows
        self._kept: dict[int, Column] = {}

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        return {LABEL: pa.large_string()}

    def column(self, number: int, name: str) -> Column:
        assert name == LABEL, "checked before"
        if number not in self._kept:
            labels = self._rows(number).labels
            self._kept[number] = Column(labels, stats_of(labels))
        return self._kept[number]

    def own(self, number: int) -> np.ndarray | None:
        del number
        return None


class StoreColumns:
    """Labels, and the metadata columns of a release's store. Threads may share it.

    Args:
      title: of the release. names: of the metadata columns. partitions, store_files: how many there are.
      copies: items may lie in two partitions.
      file: local path of a verified file. rows: of a partition. hidden: rows of a partition that do not answer.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        *,
        partitions: int,
        store_files: int,
        copies: bool,
        file: Callable[[str], Path],
        rows: Callable[[int], Rows],
        hidden: Callable[[int], np.ndarray | None],
    ) -> None:
        self._title, self._names = title, tuple(names)
        self._partitions, self._store_files, self._copies = partitions, store_files, copies
        self._file, self._rows, self._hidden = file, rows, hidden
        self._labels = Labels(rows)
        self._kept: dict[str, list[Column]] = {}
        self._lock = threading.Lock()

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        return self._types

    @cached_property
    def _types(self) -> Mapping[str, pa.DataType]:
        schema = pq.read_schema(self._path(0))
        return {LABEL: pa.large_string(), **{name: schema.field(name).type for name in self._names}}

    def column(self, number: int, name: str) -> Column:
        """A column of a partition.

        Raises:
          ReleaseError: store and partitions disagree, or a file was altered.
        """
        if name == LABEL:
            return self._labels.column(number, name)
        if name not in self._kept:
            with self._lock:
                if name not in self._kept:
                    self._kept[name] = self._gathered(name)
        return self._kept[name][number]

    def own(self, number: int) -> np.ndarray | None:
        return self._places[number][1] if self._copies else None

    def _path(self, index: int) -> Path:
        return self._file(store_file(index, self._store_files))

    @cached_property
    def _places(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Of each partition where its rows stand in the store, int64[rows] counted over all store files, -1 for a hidden row that
        is not there; and see `own`."""
        held = []
        wanted = ["id", "partition"] if self._copies else ["id"]
        for index in range(self._store_files):
            table = pq.read_table(self._path(index), columns=wanted)
            rows, order = Rows.sort(table.column("id"), pa.nulls(len(table), pa.string()))
            kept = mapped_table(pa.table({"id": rows.ids, "tie": pa.array(rows.tie)})) if len(rows) else None
            if kept is not None:
                rows = Rows(kept.column("id").chunk(0), rows.labels, kept.column("tie").chunk(0).to_numpy())
            held.append((rows, mapped_array(order), mapped_array(table.column("partition").to_numpy()) if self._copies else None))
        self._starts = np.cumsum([0, *(len(rows) for rows, _, _ in held)])
        return [self._place(number, held) for number in range(self._partitions)]

    def _place(
        self, number: int, held: Sequence[tuple[Rows, np.ndarray, np.ndarray | None]]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        rows = self._rows(number)
        place, own = np.full(len(rows), -1, np.int64), np.zeros(len(rows), bool)
        bucket = (rows.tie % np.uint64(self._store_files)).astype(np.int64)
        for index, (store, order, primary) in enumerate(held):
            mine = np.flatnonzero(bucket == index)
            at = store.rows_of(rows.ids.take(pa.array(mine)), rows.tie[mine])
            there, at = mine[at >= 0], at[at >= 0]
            place[there] = order[at] + self._starts[index]
            if primary is not None:
                own[there] = primary[order[at]] == number
        lost = place < 0
        hidden = self._hidden(number)
        if hidden is not None:
            lost[hidden] = False
        if lost.any():
            name = rows.take_ids(np.flatnonzero(lost)[:1])[0]
            raise ReleaseError(f"{self._title}: id {name!r} of partition {number} is not in the store", "build again")
        return mapped_array(place), own if self._copies else None

    def _gathered(self, name: str) -> list[Column]:
        """A column of all partitions."""
        places = self._places
        held = []
        for index in range(self._store_files):
            column = pq.read_table(self._path(index), columns=[name]).column(0)
            held.append(mapped_column(_long(plain_array(column.combine_chunks()))))
        out = []
        for place, _ in places:
            values = self._gather(place, held)
            out.append(Column(mapped_column(_encoded(values)), stats_of(values)))
        return out

    def _gather(self, place: np.ndarray, held: Sequence[pa.Array]) -> pa.Array:
        order = np.argsort(place, kind="stable")
        there = place[order]
        bounds = np.searchsorted(there, self._starts)
        parts = [pa.nulls(int(bounds[0]), held[0].type)]  # hidden rows
        for index, (first, last) in enumerate(itertools.pairwise(bounds)):
            parts.append(held[index].take(pa.array(there[first:last] - self._starts[index])))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_arrays(parts).take(pa.array(back))


def _long(column: pa.Array) -> pa.Array:
    """Text as large strings, of which there may be more than 2 GiB."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if pa.types.is_string(column.type) else column


def _encoded(column: pa.Array) -> pa.Array:
    """Text as codes, where values repeat."""
    if not pa.types.is_large_string(column.type):
        return column
    sample = column.slice(0, 4096)
    if len(pc.unique(sample)) * 2 > max(len(sample), 512):
        return column
    coded = column.dictionary_encode()
    return coded if len(coded.dictionary) * _SHARE <= max(len(column), 1024) else column
