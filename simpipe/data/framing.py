"""How TFRecord frames a record, shared by writer, reader and verification.

8 bytes length, 4 bytes checksum of the length, the data, 4 bytes checksum of the data; checksums are CRC-32C, masked:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

from collections.abc import Iterable

import google_crc32c
import numpy as np

HEADER, FOOTER = 12, 4  # bytes before and behind a record's data
FRAME = HEADER + FOOTER
_MASK = 0xA282EAD8


def checksum(data: bytes) -> int:
    """The masked checksum of some bytes."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def checksums(records: Iterable[bytes], count: int) -> np.ndarray:
    """The masked checksums of `count` records: uint32[count]. `map` over a C function: no bytecode a record."""
    crc = np.fromiter(map(google_crc32c.value, records), np.uint32, count)
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK)
