"""Reads a range of records of one shard by its offsets: one read of the file, then whole blocks in C.

Nothing here knows what a record holds. No TensorFlow: its readers go through a file from the beginning.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its members when imported)

from __future__ import annotations

import bisect
import functools
import io
import operator
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe.data.examples import ShardInfo
from simpipe.data.framing import FOOTER, FRAME, HEADER, checksums
from simpipe.errors import ContractError
from simpipe.storage import Folder

_CURE = "the file is damaged: restore it, or run `simpipe shard` again in an empty folder"


@dataclass(frozen=True)
class Records:
    """A range of records.

    Attributes:
      data: object[n] of bytes; b"" where a record is damaged.
      bad: int64[m], numbers of the damaged records in the shard. reason: what is wrong with the first of them.
    """

    data: np.ndarray
    bad: np.ndarray
    reason: str = ""


def load_offsets(folder: Folder, shard: ShardInfo, first: int, stop: int) -> np.ndarray:
    """Entries `first` to `stop`, inclusive, of a shard's sidecar, without reading the rest: uint64[stop - first + 1].

    Raises:
      ContractError: the sidecar is missing, short, or no array of offsets.
    """
    name, where = shard.offsets.path, folder.full(shard.offsets.path)
    begin = _header_size(folder, name, shard.num_examples + 1)
    data = folder.read_range(name, begin + 8 * first, begin + 8 * (stop + 1))
    if len(data) != 8 * (stop - first + 1):
        raise ContractError(f"{where}: the file ends early", _CURE)
    offsets = np.frombuffer(data, "<u8")
    if (np.diff(offsets.astype(np.int64)) < FRAME).any():
        raise ContractError(f"{where}: offsets {first} to {stop} do not grow as records do", _CURE)
    return offsets


@functools.lru_cache(maxsize=4096)
def _header_size(folder: Folder, name: str, length: int) -> int:
    """Bytes before the numbers of a `.npy` file of uint64[length]."""
    where, stream = folder.full(name), io.BytesIO(folder.read_range(name, 0, 128))
    try:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise ContractError(f"{where}: no array of record offsets ({error})", _CURE) from None
    if dtype != np.dtype("<u8") or fortran or shape != (length,):
        raise ContractError(f"{where}: {dtype} of shape {shape}, expected uint64 of shape ({length},)", _CURE)
    return stream.tell()


def read_records(folder: Folder, shard: ShardInfo, first: int, stop: int) -> Records:
    """Records `first` to `stop` (exclusive), each checked against its checksums.

    Raises:
      ContractError: the shard or its sidecar is missing, or the sidecar is damaged. Damage to records is not raised
        but returned.
    """
    offsets = load_offsets(folder, shard, first, stop).astype(np.int64)
    data, problem = _read_bytes(folder, shard, first, int(offsets[0]), int(offsets[-1]), stop)
    begins = offsets - offsets[0]
    whole = int(np.searchsorted(begins, len(data), side="right")) - 1  # records that are there to their end
    ends = begins[1 : whole + 1]
    values = _slices(data, begins[: whole + 1])
    good = _intact(data, values, begins[:whole], ends)
    values[~good] = b""
    if whole < stop - first:
        values = np.concatenate([values, np.full(stop - first - whole, b"", object)])
        good = np.concatenate([good, np.zeros(stop - first - whole, bool)])
    bad = np.flatnonzero(~good)
    reason = ""
    if len(bad):
        cut = problem or "the file ends there"
        reason = "length or data differ from their checksum" if bad[0] < whole else cut
    return Records(values, bad + first, reason)


def missing_records(first: int, stop: int) -> Records:
    """What `read_records` would give for a file that is not there."""
    return Records(np.full(stop - first, b"", object), np.arange(first, stop), "the file is missing")


def _read_bytes(folder: Folder, shard: ShardInfo, first: int, begin: int, end: int, stop: int) -> tuple[bytes, str]:
    """Decompressed bytes `begin` to `end` of the shard; fewer, and the reason, where it is damaged."""
    if not shard.entries:
        return folder.read_range(shard.path, begin, end), ""
    record = operator.itemgetter(0)
    low = bisect.bisect_right(shard.entries, first, key=record) - 1
    high = bisect.bisect_left(shard.entries, stop, key=record)
    # Skipped before the range: the records between the entry and `first`.
    at = shard.entries[low][0]
    lead = begin - int(load_offsets(folder, shard, at, at)[0])
    until = shard.entries[high][1] if high < len(shard.entries) else shard.size
    packed = folder.read_range(shard.path, shard.entries[low][1], until)
    inflate, wanted = zlib.decompressobj(-15), lead + end - begin
    try:
        data = inflate.decompress(packed, wanted)
    except zlib.error as error:
        return _inflate_to_damage(packed)[lead : lead + end - begin], f"cannot be decompressed ({error})"
    return data[lead:], "" if len(data) == wanted else "the file ends there"


def _inflate_to_damage(packed: bytes) -> bytes:
    """What can be decompressed before the damage; only after a failure."""
    inflate, parts = zlib.decompressobj(-15), []
    try:
        for start in range(0, len(packed), 256):
            parts.append(inflate.decompress(packed[start : start + 256]))
    except zlib.error:
        pass
    return b"".join(parts)


def _slices(data: bytes, begins: np.ndarray) -> np.ndarray:
    """object[n] of bytes: the data of each framed record; sliced by Arrow, no loop in Python."""
    if len(begins) < 2:
        return np.empty(0, object)
    buffers: list[Any] = [None, pa.py_buffer(np.ascontiguousarray(begins)), pa.py_buffer(data)]
    framed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(begins) - 1, buffers)
    return pc.binary_slice(framed, HEADER, -FOOTER).to_numpy(zero_copy_only=False)


def _intact(data: bytes, values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool[n]: whether length and both checksums of each record agree."""
    count = len(values)
    if not count:
        return np.zeros(0, bool)
    raw = np.frombuffer(data, np.uint8)
    heads = raw[begins[:, None] + np.arange(HEADER)]
    lengths = np.ascontiguousarray(heads[:, :8]).view("<u8")[:, 0]
    length_sums = np.ascontiguousarray(heads[:, 8:]).view("<u4")[:, 0]
    data_sums = np.ascontiguousarray(raw[ends[:, None] + np.arange(-FOOTER, 0)]).view("<u4")[:, 0]
    fits = lengths == (ends - begins - FRAME).astype(np.uint64)
    # Equal lengths have equal checksums: few are computed.
    distinct, place = np.unique(lengths, return_inverse=True)
    of_length = checksums((int(length).to_bytes(8, "little") for length in distinct), len(distinct))[place]
    return fits & (of_length == length_sums) & (checksums(values, count) == data_sums)
