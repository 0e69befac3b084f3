"""The rows of a partition: ids, labels and hashes, memory-mapped. Only those that are asked for become Python objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.errors import ContractError
from simpipe.ids import hash_ids

ROWS_FILE = "rows.arrow"
ROW_BITS = np.int64(32)
ROW_MASK = np.int64((1 << 32) - 1)
_FEW_IDS = 128  # ids of a partition up to which Arrow's calls cost more than their work
_MOST_NAMES = 1 << 16  # labels kept as Python objects; beyond, they are as rare as ids


@dataclass(frozen=True)
class Rows:
    """Rows in the order of the hashes of their ids, so that equal distances are decided by the row.

    Attributes:
      ids: large_string[n]. labels: large_string[n] or a dictionary of them; null where there is none.
      tie: uint64[n], ascending: hash of the id.
    """

    ids: pa.Array
    labels: pa.Array
    tie: np.ndarray

    def __len__(self) -> int:
        return len(self.tie)

    @classmethod
    def sort(cls, ids: Any, labels: Any) -> tuple[Rows, np.ndarray]:
        """Rows from columns in any order.

        Args:
          ids, labels: Arrow columns or sequences of strings.

        Returns:
          The rows, and int64[n], where each stood.
        """
        ids, labels = _array(ids), _array(labels)
        tie = hash_ids(ids)
        order = np.argsort(tie, kind="stable")
        if (tie[order[1:]] == tie[order[:-1]]).any():  # the order may not depend on the order of the input
            order = np.lexsort((pc.rank(ids).to_numpy(), tie))
        labels = labels.take(pa.array(order))
        named = labels.dictionary_encode()
        few = len(named.dictionary) <= _MOST_NAMES
        return cls(ids.take(pa.array(order)), named if few else labels, tie[order]), order

    @cached_property
    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes int[n] of labels, -1 for none, and object[names + 1], the last one None."""
        codes = self.labels.indices
        names = np.empty(len(self.labels.dictionary) + 1, object)
        names[:-1] = self.labels.dictionary.to_numpy(zero_copy_only=False)
        return (codes.fill_null(-1) if codes.null_count else codes).to_numpy(zero_copy_only=False), names

    def take_ids(self, rows: np.ndarray) -> np.ndarray:
        """object[m], of rows int64[m]."""
        if len(rows) <= _FEW_IDS:
            return self._few_ids(rows)
        return self.ids.take(pa.array(rows)).to_numpy(zero_copy_only=False)

    @cached_property
    def _bytes(self) -> tuple[np.ndarray, memoryview]:
        """Offsets int64[n + 1] of ids, and their bytes."""
        offsets, data = self.ids.buffers()[1:]
        starts = np.frombuffer(offsets, np.int64, len(self.ids) + 1, 8 * self.ids.offset)
        return starts, memoryview(data if data is not None else b"")

    def _few_ids(self, rows: np.ndarray) -> np.ndarray:
        """`take_ids` without Arrow, whose call costs more than some ids."""
        starts, data = self._bytes
        out = np.empty(len(rows), object)
        spans = zip(starts[rows].tolist(), starts[rows + 1].tolist(), strict=True)
        out[:] = [str(data[first:last], "utf-8") for first, last in spans]
        return out

    def take_labels(self, rows: np.ndarray) -> np.ndarray:
        """object[m], str or None, of rows int64[m]."""
        if not pa.types.is_dictionary(self.labels.type):
            return self.labels.take(pa.array(rows)).to_numpy(zero_copy_only=False)
        codes, names = self._names
        return names[codes[rows]]

    def rows_of(self, items: Any, hashes: np.ndarray | None = None) -> np.ndarray:
        """The rows of ids: int64[m], -1 for one that is not here.

        Args:
          items: an Arrow column or a sequence of strings. hashes: of them, where these are known.
        """
        names = _array(items)
        hashes, found = hash_ids(names) if hashes is None else hashes, np.full(len(names), -1, np.int64)
        at, left = np.searchsorted(self.tie, hashes), np.arange(len(names))
        while len(left):  # once, but for ids that share a hash
            left = left[at[left] < len(self)]
            left = left[self.tie[at[left]] == hashes[left]]
            same = pc.equal(self.ids.take(pa.array(at[left])), names.take(pa.array(left))).to_numpy(zero_copy_only=False)
            found[left[same]] = at[left[same]]
            left = left[~same]
            at[left] += 1
        return found

    def save(self, path: Path) -> None:
        table = pa.table({"id": self.ids, "label": self.labels, "tie": pa.array(self.tie)})
        with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Maps a file that `save` wrote, and that was verified; nothing is read yet.

        Raises:
          ContractError: it holds something else.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(os.fspath(path), "rb")).read_all()
            ids, labels, tie = (_array(table.column(name)) for name in ("id", "label", "tie"))
            if tie.type != pa.uint64():
                raise pa.ArrowInvalid(f"column tie is {tie.type}")
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ContractError(f"{path}: no rows of a partition ({error})", "build the release again") from None
        return cls(ids, labels, tie.to_numpy())


def _array(column: Any) -> pa.Array:
    """One array of any column; strings as large ones, of which there may be more than 2 GiB."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    elif not isinstance(column, pa.Array):
        column = pa.array(column, pa.large_string())
    return column.cast(pa.large_string()) if pa.types.is_string(column.type) or pa.types.is_null(column.type) else column


def place_of(partition: int, rows: np.ndarray) -> np.ndarray:
    """Where candidates lie, int64: partition << 32 | row; -1 for row -1."""
    return np.where(rows < 0, -1, rows | (np.int64(partition) << ROW_BITS))


def names_of(tables: Mapping[int, Rows], place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels at places int64[n, k]: object[n, k] each, None at -1."""
    flat = place.ravel()
    if len(tables) == 1 and flat.size and flat.min() >= 0:
        (table,) = tables.values()
        rows = flat & ROW_MASK
        return table.take_ids(rows).reshape(place.shape), table.take_labels(rows).reshape(place.shape)
    order = np.argsort(flat)
    order = order[np.searchsorted(flat[order], 0) :]
    there = flat[order]
    spans = list(_spans(tables, there))
    ids, labels = np.empty(len(flat), object), np.empty(len(flat), object)
    if spans:
        if len(there) <= _FEW_IDS * len(spans):
            ids[order] = np.concatenate([table.take_ids(there[span] & ROW_MASK) for table, span in spans])
        else:  # one conversion to Python objects for all partitions
            found = pa.concat_arrays([table.ids.take(pa.array(there[span] & ROW_MASK)) for table, span in spans])
            ids[order] = found.to_numpy(zero_copy_only=False)
        labels[order] = np.concatenate([table.take_labels(there[span] & ROW_MASK) for table, span in spans])
    return ids.reshape(place.shape), labels.reshape(place.shape)


def ties_of(tables: Mapping[int, Rows], place: np.ndarray) -> np.ndarray:
    """Hashes of the ids at places int64[...]: uint64[...], 0 at -1."""
    flat = place.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 0) :]
    there, out = flat[order], np.zeros(len(flat), np.uint64)
    for table, span in _spans(tables, there):
        out[order[span]] = table.tie[there[span] & ROW_MASK]
    return out.reshape(place.shape)


def _spans(tables: Mapping[int, Rows], there: np.ndarray) -> Iterator[tuple[Rows, slice]]:
    """Each table, and where its places are among ascending ones."""
    numbers = sorted(tables)
    bounds = np.searchsorted(there, np.append(np.array(numbers, np.int64), np.int64(1 << 30)) << ROW_BITS).tolist()
    for number, first, last in zip(numbers, bounds, bounds[1:], strict=False):
        if last > first:
            yield tables[number], slice(first, last)


def same_ids(tables: Mapping[int, Rows], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool[m]: whether two places hold the same id."""
    return pc.equal(ids_at(tables, one), ids_at(tables, other)).to_numpy(zero_copy_only=False)


def labels_of(tables: Mapping[int, Rows], place: np.ndarray) -> np.ndarray:
    """Labels at places int64[...]: object[...], None at -1 and where there is none."""
    flat = place.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 0) :]
    there, labels = flat[order], np.empty(len(flat), object)
    for table, span in _spans(tables, there):
        labels[order[span]] = table.take_labels(there[span] & ROW_MASK)
    return labels.reshape(place.shape)


def ids_at(tables: Mapping[int, Rows], place: np.ndarray) -> pa.Array:
    """Ids at places int64[m], none of them -1."""
    order = np.argsort(place, kind="stable")
    there = place[order]
    found = pa.concat_arrays([table.ids.take(pa.array(there[span] & ROW_MASK)) for table, span in _spans(tables, there)])
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return found.take(pa.array(back))
