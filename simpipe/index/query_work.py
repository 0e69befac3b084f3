"""Files that the stages of a job over all queries hand on, in its work folder.

Of each chunk C: `queries-C.arrow` (columns id, label, tie, own, then `column:NAME` of metadata; a record batch a block),
`vectors-C.npy`, prepared, and for each search `asks-SEARCH-C.npy`: bits [partitions, queries / 8], who asks whom (exact searches
ask all partitions alike: one line). Of each partition P: `SEARCH-P-C.npy`, uint32[2, lines, k]: distances (bits of float32) and
rows, a line for each query that asked it, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrays import load_array

NO_ROW = np.uint32(0xFFFFFFFF)


def _save(path: Path, array: np.ndarray) -> None:
    with files.replacing(path, flush=False) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def _load(path: Path) -> np.ndarray:
    """Maps an array; an empty one cannot be mapped."""
    try:
        return load_array(path, mapped=True).view(np.ndarray)
    except ValueError:
        return load_array(path)


def write_chunk(work: Path, chunk: int, table: pa.Table, vectors: np.ndarray, asks: dict[str, np.ndarray], *, block: int) -> None:
    """Writes a prepared chunk.

    Args:
      table: n queries. vectors: float32[n, dim], prepared.
      asks: of each search, bits uint8[partitions, n / 8]. block: queries of an answer.
    """
    for name, bits in asks.items():
        _save(work / f"asks-{name}-{chunk:05d}.npy", bits)
    _save(work / f"vectors-{chunk:05d}.npy", vectors)
    path = work / f"queries-{chunk:05d}.arrow"
    with (
        files.replacing(path, flush=False) as temporary,
        pa.OSFile(os.fspath(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for first in range(0, len(table), block):
            writer.write_batch(table.slice(first, block).combine_chunks().to_batches()[0])


@dataclass(frozen=True)
class PreparedChunk:
    """A prepared chunk, mapped. `vectors`: float32[n, dim]."""

    work: Path
    number: int
    vectors: np.ndarray

    @classmethod
    def open(cls, work: Path, number: int) -> PreparedChunk:
        return cls(work, number, _load(work / f"vectors-{number:05d}.npy"))

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[pa.Table]:
        """The queries, a block at a time."""
        with pa.memory_map(os.fspath(self.work / f"queries-{self.number:05d}.arrow"), "rb") as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])

    def asks(self, search: str) -> np.ndarray:
        """Bits uint8[partitions or 1, n / 8]: who asks whom."""
        return _load(self.work / f"asks-{search}-{self.number:05d}.npy")

    def asking(self, search: str, partition: int) -> np.ndarray:
        """Queries int64[m] that ask a partition, ascending."""
        bits = self.asks(search)
        line = bits[partition] if len(bits) > 1 else bits[0]
        return np.flatnonzero(np.unpackbits(line, count=len(self)))


def lines_path(work: Path, search: str, partition: int, chunk: int) -> Path:
    """Where the lines that a partition found for a chunk lie."""
    return work / f"{search}-{partition:05d}-{chunk:05d}.npy"


def write_lines(path: Path, distances: np.ndarray, rows: np.ndarray) -> None:
    """Writes lines float32[m, k] and int64[m, k]."""
    out = np.empty((2, *rows.shape), np.uint32)
    out[0], out[1] = distances.view(np.uint32), rows  # -1 becomes NO_ROW
    _save(path, out)


def read_lines(path: Path) -> np.ndarray:
    """uint32[2, m, k], mapped."""
    return _load(path)
