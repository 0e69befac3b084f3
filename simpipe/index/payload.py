"""What a user indexes beside an item (`data`), as a column of the store: arrays as `.npy` bytes, anything else as JSON.

Nothing is pickled: an object that is neither is refused by name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.errors import QueryError

DATA_COLUMN = "data"
_NPY = b"\x93NUMPY"


def encode_payload(data: Sequence[Any]) -> pa.Array:
    """binary[n]; null where there is no data.

    Raises:
      QueryError: a value can't be stored; names its row and type.
    """
    return pa.array([_encode(value, row) for row, value in enumerate(data)], pa.binary())


def _encode(value: Any, row: int) -> bytes | None:
    if value is None:
        return None
    cure = "index arrays, numbers, strings, or lists and dicts of them"
    if isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).dtype.kind in "biufcSUmM":
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value), allow_pickle=False)
        return buffer.getvalue()
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise QueryError(f"data of row {row}: a {type(value).__name__} can't be saved ({error})", cure) from None


def decode_payload(value: bytes | None) -> Any:
    """The value that `encode_payload` stored; a scalar comes back as a scalar.

    Raises:
      ValueError: the bytes are damaged.
    """
    if value is None:
        return None
    if value[:6] == _NPY:
        array = np.load(io.BytesIO(value), allow_pickle=False)
        return array if array.ndim else array[()]
    return json.loads(value)
