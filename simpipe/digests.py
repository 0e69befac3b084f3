"""Digests of records: 128 bits of what a record holds, by which a changed record is told from an unchanged one.

A digest follows from the record's own content alone: not from its shard, block, class index or other records, nor from how
Arrow chunks or encodes a column. A null differs from an empty value; names and types of columns take part, their order does
not. Numbers count by their bytes, so NaN equals itself and -0.0 differs from 0.0. The values are part of the on-disk contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.errors import ContractError

DIGEST = pa.binary(16)
SCHEMA = pa.schema([("id", pa.string()), ("digest", DIGEST)])
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CHUNK_BYTES = 1 << 20  # of fixed-width values at a time: they and their products stay in the processor's cache
_SHORT = 64  # bytes; longer values (encoded pictures, texts) go through BLAKE2b one by one
_NULL = np.uint64(0x6A09E667F3BCC909)
# Lanes differ in the positions' factors and in how far they shift.
_SHIFTS = (np.uint64(32), np.uint64(29))
_STARTS = (np.uint64(0x510E527FADE682D1), np.uint64(0x1F83D9ABFB41BD6B))

Lanes = tuple[np.ndarray, np.ndarray]  # uint64[n] twice


def digest_rows(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.FixedSizeBinaryArray:
    """Digests of records, given as columns of equal length: name -> Arrow values of any plain or nested type.

    Returns:
      fixed_size_binary(16)[n].

    Raises:
      ContractError: a column is of a type that has no bytes to go by, such as a union.
    """
    n = len(next(iter(columns.values())))
    total = (np.zeros(n, np.uint64), np.zeros(n, np.uint64))
    with np.errstate(over="ignore"):
        for name, values in columns.items():
            for lane, part in zip(total, _column(name, _whole(values)), strict=True):
                lane += part
        lanes = np.stack([_mix(lane, start) for lane, start in zip(total, _STARTS, strict=True)], axis=1)
    data = np.ascontiguousarray(lanes.astype("<u8", copy=False))
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, n, [None, pa.py_buffer(data)])


def _whole(values: pa.Array | pa.ChunkedArray) -> Any:
    if isinstance(values, pa.ChunkedArray):
        return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks or [pa.array([], values.type)])
    return values


def _column(name: str, array: Any) -> Lanes:
    """What a named column adds to its records."""
    array = _plain(array)
    kind = hashlib.blake2b(f"{name}\0{_kind(array.type)}".encode(), digest_size=16).digest()
    named = hashlib.blake2b(f"{name}\0".encode(), digest_size=16).digest()
    null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    found = []
    for lane, values in enumerate(_values(array)):
        mixed = _mix(values, _number(kind, lane))
        if null is not None:  # of whatever type: a block may hold nothing but nulls and not know the type
            mixed = np.where(null, _mix(np.full(1, _NULL), _number(named, lane)), mixed)
        found.append(mixed)
    return found[0], found[1]


def _kind(kind: pa.DataType) -> str:
    """A type by name, without what its inner fields happen to be called; these are hashed as columns of their own."""
    if pa.types.is_large_list(kind):
        return "list"
    if pa.types.is_map(kind):
        return "map"
    if pa.types.is_struct(kind):
        return "struct"
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.value_type}[{kind.list_size}]"
    return str(kind)


def _number(data: bytes, lane: int) -> np.uint64:
    return np.frombuffer(data, "<u8")[lane]


def _plain(array: Any) -> Any:
    """The same values without dictionary, run-end or extension; one type for all strings, and one for all binaries."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array))
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_list(kind):
        return array.cast(pa.large_list(kind.value_field))
    return array


def _values(array: Any) -> Lanes:
    """uint64[n] twice: of each value; anything where it is null."""
    kind, n = array.type, len(array)
    if pa.types.is_null(kind) or n == 0:
        return np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _texts(array)
    if pa.types.is_boolean(kind):
        return _fixed(array.fill_null(False).cast(pa.uint8()).to_numpy().reshape(n, 1))
    if pa.types.is_fixed_size_list(kind):
        inner = array.values.slice(array.offset * kind.list_size, n * kind.list_size)
        bytes_of = _bytes_of(inner)
        if bytes_of is None:
            return _lists(_column("", _plain(inner)), np.arange(n + 1) * kind.list_size)
        if not inner.null_count:
            return _fixed(bytes_of.reshape(n, -1))
        null = inner.is_null().to_numpy(zero_copy_only=False)
        held = np.where(null[:, None], np.uint8(0), bytes_of.reshape(len(null), -1))
        held, marks = _fixed(held.reshape(n, -1)), _fixed(null.astype(np.uint8).reshape(n, -1))  # marks: 0 for rows without nulls
        return held[0] + _mix(marks[0], _GOLDEN) * (marks[0] != 0), held[1] + _mix(marks[1], _GOLDEN) * (marks[1] != 0)
    if pa.types.is_large_list(kind) or pa.types.is_map(kind):
        if pa.types.is_map(kind):
            entries = pa.StructArray.from_arrays([array.keys, array.items], names=["key", "value"])
            inner, offsets = entries, np.asarray(array.offsets, np.int64)
        else:
            inner, offsets = array.values, np.asarray(array.offsets, np.int64)
        return _lists(_column("", inner.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))), offsets - offsets[0])
    if pa.types.is_struct(kind):
        parts = [_column(field.name, _whole(pc.struct_field(array, [place]))) for place, field in enumerate(kind)]
        zero = np.zeros(n, np.uint64)
        return sum((part[0] for part in parts), zero), sum((part[1] for part in parts), zero)
    bytes_of = _bytes_of(array)
    if bytes_of is None:
        raise ContractError(f"a column of type {kind} cannot be compared between runs", "leave the column out, or cast it")
    return _fixed(bytes_of.reshape(n, -1))


def _bytes_of(array: Any) -> np.ndarray | None:
    """The bytes of fixed-width values: uint8[n * width]; None where the type has none."""
    kind = array.type
    try:
        width = kind.bit_width // 8
    except ValueError:
        return None
    if pa.types.is_boolean(kind) or kind.num_fields or not width:
        return None
    buffer = array.buffers()[1]
    return np.frombuffer(buffer, np.uint8, len(array) * width, array.offset * width)


def _fixed(data: np.ndarray) -> Lanes:
    """Of values of equal width: uint8[n, width]."""
    n, width = data.shape
    words = -(-width // 8)
    found = (np.empty(n, np.uint64), np.empty(n, np.uint64))
    factors = [(_factors(words, 2 * lane), _factors(words, 2 * lane + 1)) for lane in range(2)]
    step = max(1, _CHUNK_BYTES // (8 * words))
    for first in range(0, n, step):
        part = data[first : first + step]
        if width % 8 or not part.flags.c_contiguous:
            padded = np.zeros((len(part), 8 * words), np.uint8)
            padded[:, :width] = part
            part = padded
        part = part.view("<u8")
        folded = part ^ (part >> np.uint64(32))  # lets high bits, such as signs, reach the low half of the products
        for lane in range(2):
            before, after = factors[lane]
            mixed = folded * before
            mixed ^= mixed >> _SHIFTS[lane]
            mixed *= after
            found[lane][first : first + step] = mixed.sum(axis=1, dtype=np.uint64)
    return found


def _factors(count: int, stream: int) -> np.ndarray:
    """Odd factors of positions: uint64[count]."""
    return _mix(np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN, np.uint64(stream) * _STARTS[0] + _STARTS[1]) | np.uint64(1)


def _texts(array: Any) -> Lanes:
    """Of strings or binaries of any length."""
    n, buffers = len(array), array.buffers()
    offsets = np.frombuffer(buffers[1], np.int64, n + 1, array.offset * 8)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, np.uint8)
    if buffers[2] is not None:
        data[:-8] = np.frombuffer(buffers[2], np.uint8)[offsets[0] : offsets[-1]]
    found = tuple(lengths.astype(np.uint64) * _GOLDEN + start for start in _STARTS)
    short = np.flatnonzero((lengths > 0) & (lengths <= _SHORT))
    words = np.ndarray((len(data) - 7,), "<u8", data.data, strides=(1,))  # a word from every byte on
    for at in range(0, int(lengths[short].max(initial=0)), 8):
        live = short if at == 0 else short[lengths[short] > at]
        left = np.minimum(lengths[live] - at, 8).astype(np.uint64)
        word = words[starts[live] + at] & (np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - np.uint64(8) * left))
        for lane in found:
            lane[live] = _mix(lane[live] + word, _GOLDEN)
    # A loop over records, but one of few instructions each: hashing long values vectorised by position would take passes
    # over all records for each eight bytes of the longest. BLAKE2b itself runs at about a gigabyte a second.
    long = np.flatnonzero(lengths > _SHORT)
    if len(long):
        view = data.data
        spans = zip(starts[long].tolist(), (starts + lengths)[long].tolist(), strict=True)
        digests = b"".join(hashlib.blake2b(view[start:stop], digest_size=16).digest() for start, stop in spans)
        for lane, values in zip(found, np.frombuffer(digests, "<u8").reshape(-1, 2).T, strict=True):
            lane[long] = values
    return found[0], found[1]


def _lists(values: Lanes, offsets: np.ndarray) -> Lanes:
    """Of lists: values of all lists one after another, list i from offsets[i] to offsets[i + 1]: int64[n + 1]."""
    lengths = np.diff(offsets)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    found = []
    for lane, inner in enumerate(values):
        placed = _mix(inner + (position.astype(np.uint64) + np.uint64(1)) * _GOLDEN, _STARTS[lane])
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(placed, dtype=np.uint64)])
        found.append(sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64) * _GOLDEN)
    return found[0], found[1]


def _mix(value: np.ndarray, seed: np.uint64) -> np.ndarray:
    """SplitMix64's finisher of `value + seed`."""
    value = value + seed
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


# --- the digests of a release ------------------------------------------------------------------------------------------


def digests_file(index: int, of: int) -> str:
    """`digests/00003-of-00016.parquet`, relative to the release."""
    return f"digests/{index:05d}-of-{of:05d}.parquet"


def write_digests(table: pa.Table, path: Path) -> None:
    """Writes the digests of one bucket's items, ascending by id.

    Args:
      table: columns id, digest, and any others; one row an item, any order.
      path: the file.
    """
    table = table.select(SCHEMA.names).cast(SCHEMA).sort_by("id")
    with files.replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=False)


def read_digests(path: Path) -> pa.Table:
    """The digests of one bucket's items: columns id, digest; ascending by id."""
    return pq.read_table(path, schema=SCHEMA)
