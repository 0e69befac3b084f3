"""Reads a shard from its first byte to its last, to verify it: framing, checksums, offsets, entries.

Unlike `record_reader` it takes nothing from the sidecar but, behind a damaged length, where the next record begins.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from simpipe.data.examples import ShardInfo
from simpipe.data.framing import FOOTER, HEADER, checksum, checksums
from simpipe.storage import Folder

NO_RECORD = -2  # label of a record that could not be read
_BLOCK = 8 << 20
_GZIP = b"\x1f\x8b\x08\x00"  # magic, deflate, no optional fields: the header has 10 bytes

# (record number or None, what is wrong)
Note = Callable[[int | None, str], None]


@dataclass(frozen=True)
class Piece:
    """Consecutive records: numbers `first` to `first + len(records)`; `good` says which have the right checksums."""

    first: int
    records: list[bytes]
    good: np.ndarray


class ShardWalk:
    """One pass over a shard.

    Args:
      size: bytes of the file as it is.
      offsets: the sidecar's, uint64[n + 1], if its checksum is right.
      note: called with each thing that is wrong.

    Attributes:
      begins: int64[n + 1], where records begin in the decompressed bytes, -1 where that is not known; final at the end.
      sha256: of the file, in hex; final at the end.
      whole: False where parts could not be decompressed, so that numbers of records behind them rest on `entries`.
    """

    def __init__(self, folder: Folder, shard: ShardInfo, *, size: int, offsets: np.ndarray | None, note: Note) -> None:
        self._folder, self._shard, self._size, self._note = folder, shard, size, note
        self._offsets = None if offsets is None else offsets.astype(np.int64)
        self._hash = hashlib.sha256()
        self._number, self._at, self._rest = 0, 0, b""  # next record, where it begins (-1: unknown), bytes of it
        self.begins = np.full(shard.num_examples + 1, -1, np.int64)
        self.sha256 = ""
        self.whole = True

    def pieces(self) -> Iterator[Piece]:
        """The records, in order; those that are lost to damage are left out."""
        yield from self._plain() if not self._shard.entries else self._gzip()
        self.sha256 = self._hash.hexdigest()

    # --- files -------------------------------------------------------------------------------------------------------

    def _read(self, start: int, stop: int) -> bytes:
        data = self._folder.read_range(self._shard.path, start, stop)
        self._hash.update(data)
        return data

    def _plain(self) -> Iterator[Piece]:
        lost = False
        for start in range(0, self._size, _BLOCK):
            data = self._read(start, min(start + _BLOCK, self._size))
            if lost:
                continue  # only for the checksum
            yield from self._cut(data)
            lost = self._number < 0
        if not lost:
            self._finish()

    def _gzip(self) -> Iterator[Piece]:
        entries = self._shard.entries
        stops = [*(offset for _, offset in entries[1:]), self._size]
        head = self._read(0, entries[0][1])
        if head[:4] != _GZIP:
            self._note(None, "the file does not begin as a gzip file of this format does")
        crc = total = 0
        block, base = b"", entries[0][1]
        for place, (record, offset) in enumerate(entries):
            last = place == len(entries) - 1
            if not base <= offset or stops[place] > base + len(block):
                # Whole segments, about a block of them at a time.
                fits = [stop for stop in stops[place:] if stop <= max(offset + _BLOCK, stops[place])]
                block, base = self._read(offset, max(fits, default=stops[place])), offset
            packed = block[offset - base : stops[place] - base]
            if place and self._number != record:
                self._begin(record)
            until = self._shard.num_examples if last else entries[place + 1][0]
            data, trailer, problem = _inflate(packed, self._expected(record, until), last)
            if len(packed) < stops[place] - offset:
                problem = "the file ends early"
            crc, total = zlib.crc32(data, crc), total + len(data)
            yield from self._cut(data)
            if problem:
                self.whole = False
                self._note(max(self._number, record), f"bytes {offset} to {stops[place]} of the file: {problem}")
                self._rest = b""
                if not packed:
                    return
                continue
            if last:
                if self.whole and trailer != struct.pack("<II", crc, total & 0xFFFFFFFF):
                    self._note(None, "the gzip checksum at the end differs")
            elif self._number >= 0 and (self._rest or self._number != until):
                self._note(self._number, f"entry {place + 1} says that record {until} begins at byte {stops[place]}: it does not")
                self.whole, self._rest = False, b""
        if self.whole and self._number >= 0:
            self._finish()

    def _expected(self, first: int, stop: int) -> int | None:
        return None if self._offsets is None else int(self._offsets[stop] - self._offsets[first])

    # --- records -----------------------------------------------------------------------------------------------------

    def _begin(self, record: int) -> None:
        """Goes on at an entry, behind damage."""
        self._number, self._rest = record, b""
        self._at = -1 if self._offsets is None else int(self._offsets[record])

    def _cut(self, data: bytes) -> Iterator[Piece]:
        """The whole records of `_rest + data`; sets `_number` to -1 where the next one cannot be found."""
        if self._number < 0:
            return
        data, at, first = self._rest + data, 0, self._number
        records: list[bytes] = []
        begins, ends, broken = [], [], []
        # One step a record: where it ends follows from its length alone.
        while len(data) - at >= HEADER:
            length = _length(data[at : at + HEADER])
            end = at + HEADER + length + FOOTER if length is not None else self._end_by_sidecar(first + len(records), at)
            if end is None or end > len(data):
                break
            if length is None:
                broken.append(len(records))
            records.append(data[at + HEADER : end - FOOTER])
            begins.append(at)
            ends.append(end)
            at = end
        else:
            end = 0
        good = _intact(data, records, np.array(ends, np.int64))
        for row in broken:
            self._note(first + row, "the length differs from its checksum")
        for row in np.flatnonzero(~good).tolist():
            if row not in broken:
                self._note(first + row, "the data differ from their checksum")
        good[broken] = False
        self._number, self._rest = first + len(records), data[at:]
        if self._at >= 0:
            fits = min(len(begins), max(len(self.begins) - 1 - first, 0))
            self.begins[first : first + fits] = np.array(begins[:fits], np.int64) + self._at
            self._at += at
        if records:
            yield Piece(first, records, good)
        if end is None:
            self._note(self._number, "the length differs from its checksum; what follows in the file cannot be found")
            self._number = -1

    def _end_by_sidecar(self, record: int, at: int) -> int | None:
        """Where a record ends in the bytes at hand, by the sidecar, if that agrees with where it begins."""
        if self._offsets is None or record >= self._shard.num_examples or self._at + at != self._offsets[record]:
            return None
        return at + int(self._offsets[record + 1] - self._offsets[record])

    def _finish(self) -> None:
        expected = self._shard.num_examples
        if self._rest:
            self._note(self._number, f"the file ends inside of this record; dataset.json says {expected} records")
        elif self._number != expected:
            self._note(min(self._number, expected), f"{self._number} records in the file, dataset.json says {expected}")
        elif self._at >= 0:
            self.begins[expected] = self._at


def _inflate(packed: bytes, expected: int | None, last: bool) -> tuple[bytes, bytes, str]:
    """The bytes of one segment of a gzip shard, decompressed with nothing from before it.

    Returns:
      what can be decompressed, what follows the deflate stream (the last segment's trailer), and what is wrong.
    """
    inflate = zlib.decompressobj(-15)
    limit = 0 if expected is None else expected + 1  # not all that a damaged stream may claim to hold
    try:
        data = inflate.decompress(packed, limit)
    except zlib.error as error:
        return _up_to_damage(packed, limit), b"", f"they cannot be decompressed ({error})"
    problem = ""
    if last and not inflate.eof:
        problem = "the file ends early"
    elif last and len(inflate.unused_data) != 8:
        problem = f"{len(inflate.unused_data)} bytes at the end of the file, expected 8"
    elif not last and (inflate.eof or inflate.unused_data):
        problem = "the compressed data end before the file"
    elif expected is not None and len(data) != expected:
        problem = f"they hold {len(data)} bytes or more, the sidecar says {expected}"
    return data, inflate.unused_data, problem


def _up_to_damage(packed: bytes, limit: int) -> bytes:
    inflate, parts = zlib.decompressobj(-15), []
    try:
        for start in range(0, len(packed), 16):
            parts.append(inflate.decompress(packed[start : start + 16], limit))
    except zlib.error:
        pass
    return b"".join(parts)


@functools.lru_cache(maxsize=65536)
def _length(head: bytes) -> int | None:
    """The length in a record's header, None where its checksum is wrong."""
    length, stored = struct.unpack("<QI", head)
    return length if checksum(head[:8]) == stored else None


def _intact(data: bytes, records: list[bytes], ends: np.ndarray) -> np.ndarray:
    """bool[n]: whether each record's data agree with their checksum."""
    if not records:
        return np.zeros(0, bool)
    stored = np.frombuffer(data, np.uint8)[ends[:, None] + np.arange(-FOOTER, 0)].view("<u4")[:, 0]
    return checksums(records, len(records)) == stored
