"""TensorFlow Similarity's `utils`: its documented names, kept for code that comes from there. Nothing else belongs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simpipe.types import Lookup

NO_LABEL = 0x7FFFFFFF  # TF Similarity's padding of short rows


def tf_cap_memory() -> None:
    """Lets TensorFlow take GPU memory as it needs it instead of all at once; does nothing without a GPU."""
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def unpack_lookup_distances(
    lookups: Sequence[Sequence[Lookup]], dtype: Any = np.float32, distance_rounding: int | None = None
) -> np.ndarray:
    """Distances of lookups: dtype[n, longest row]; short rows are padded with infinity.

    Args:
      lookups: what `model.lookup` returns.
      dtype: of the result.
      distance_rounding: digits to round to; None leaves them as they are.
    """
    distances = _padded([[neighbor.distance for neighbor in row] for row in lookups], np.inf, np.float64)
    return (distances if distance_rounding is None else np.round(distances, distance_rounding)).astype(dtype)


def unpack_lookup_labels(lookups: Sequence[Sequence[Lookup]], dtype: Any = np.int64) -> np.ndarray:
    """Labels of lookups: dtype[n, longest row]; short rows are padded with 0x7FFFFFFF.

    Strings need dtype object, which is padded with None.
    """
    missing = None if np.dtype(dtype) == object else NO_LABEL
    return _padded([[neighbor.label for neighbor in row] for row in lookups], missing, dtype)


def _padded(rows: list[list[Any]], missing: Any, dtype: Any) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows), default=0)), missing, dtype)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out
