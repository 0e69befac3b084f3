"""Writes one shard of TFRecords, plain or gzip, and its sidecar of record offsets; the other side of `record_reader`.

A gzip shard is one ordinary gzip member. Full flushes of deflate, always between two records, make places in it where
decompression can start: a reader of a few records need not decompress all that stands before them. No TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np

from simpipe import files
from simpipe.data.examples import ShardInfo, ShardStatistics, SidecarInfo
from simpipe.data.framing import FRAME, checksum

GZIP_HEADER = 10
_ENTRY, _CLASS_ENTRY = 128 << 10, 64 << 10
_CHUNK = 64 << 10


class RecordWriter:
    """A shard being written: a context manager; `path` appears complete when it ends, or not at all after an error.

    The same calls give the same bytes. Attributes are final when it has ended.

    Attributes:
      path: the shard.
      offsets: uint64[n + 1], where each record begins in the decompressed bytes, and where the last one ends.
      entries: (first record, byte offset in the file) of each place where decompression can start, about 128 KiB of
        decompressed bytes apart; the first is (0, 10). Empty where the shard is not compressed.
      size: bytes of the file. sha256: of the file, in hex.
    """

    def __init__(self, path: Path, compression: Literal["", "gzip"]) -> None:
        self.path, self.size, self.sha256 = path, 0, ""
        self.offsets = np.zeros(1, np.uint64)
        self.entries: tuple[tuple[int, int], ...] = ()
        self._deflate = zlib.compressobj(wbits=31) if compression else None
        self._stack = contextlib.ExitStack()
        self._hash = hashlib.sha256()
        self._ends = array("Q", [0])
        self._entries: list[tuple[int, int]] = [(0, GZIP_HEADER)] if compression else []
        self._entry_at = 0  # where the last entry is in the decompressed bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._file: BinaryIO

    def __enter__(self) -> RecordWriter:
        temporary = self._stack.enter_context(files.replacing(self.path))
        self._file = self._stack.enter_context(open(temporary, "wb"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._drain()
            if self._deflate:
                self._emit(self._deflate.flush())
        self.offsets = np.frombuffer(self._ends, np.uint64)
        self.entries = tuple(self._entries)
        self.sha256 = self._hash.hexdigest()

    def write(self, record: bytes) -> None:
        """Appends one record's data."""
        if self._deflate and self._since_entry() >= _ENTRY:
            self._add_entry()
        size = len(record)
        self._pending += (_header(size), record, struct.pack("<I", checksum(record)))
        self._ends.append(self._ends[-1] + size + FRAME)
        self._pending_bytes += size + FRAME
        if self._pending_bytes >= _CHUNK:
            self._drain()

    def class_boundary(self) -> None:
        """Says that the next record belongs to another class: an entry is made sooner here."""
        if self._deflate and self._since_entry() >= _CLASS_ENTRY:
            self._add_entry()

    def _since_entry(self) -> int:
        return self._ends[-1] - self._entry_at

    def _add_entry(self) -> None:
        assert self._deflate is not None
        self._drain()
        self._emit(self._deflate.flush(zlib.Z_FULL_FLUSH))
        self._entries.append((len(self._ends) - 1, self.size))
        self._entry_at = self._ends[-1]

    def _drain(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._emit(self._deflate.compress(data) if self._deflate else data)

    def _emit(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def finish_shard(writer: RecordWriter, folder: Path, class_blocks: Sequence[tuple[int, int]]) -> ShardInfo:
    """Writes the sidecar of a shard that is written, and describes both.

    Args:
      writer: it has ended.
      folder: the data set's; paths are relative to it.
      class_blocks: (class index, number of examples) in file order.
    """
    return ShardInfo(
        path=writer.path.relative_to(folder).as_posix(),
        size=writer.size,
        sha256=writer.sha256,
        num_examples=len(writer.offsets) - 1,
        class_blocks=tuple(class_blocks),
        offsets=write_offsets(offsets_path(writer.path), writer.offsets, folder),
        entries=writer.entries,
        statistics=statistics_of(writer.offsets, class_blocks),
    )


def offsets_path(shard: Path) -> Path:
    """The sidecar of a shard: its name with `.offsets.npy` behind."""
    return shard.with_name(shard.name + ".offsets.npy")


def write_offsets(path: Path, offsets: np.ndarray, folder: Path) -> SidecarInfo:
    """Writes uint64[n + 1] as `.npy` of format 1.0, little endian."""
    with files.replacing(path) as temporary, open(temporary, "wb") as handle:
        np.lib.format.write_array(handle, offsets.astype("<u8"), version=(1, 0), allow_pickle=False)
    entry = files.entry_of(path, folder)
    return SidecarInfo(path=entry.path, size=entry.size, sha256=entry.sha256)


def statistics_of(offsets: np.ndarray, class_blocks: Sequence[tuple[int, int]]) -> ShardStatistics:
    """A shard's statistics from uint64[n + 1] offsets and its runs; rows without a label are no class."""
    records = np.diff(offsets.astype(np.int64)) - FRAME
    classes = [count for index, count in class_blocks if index >= 0]
    return ShardStatistics(
        num_classes=len(classes),
        smallest_class=min(classes, default=0),
        largest_class=max(classes, default=0),
        shortest_record=int(records.min()) if len(records) else 0,
        longest_record=int(records.max()) if len(records) else 0,
        record_bytes=int(records.sum()),
    )


@functools.lru_cache(maxsize=4096)
def _header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", checksum(length))
