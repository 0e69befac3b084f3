"""Groups of TFRecord shards in memory, as serialized records with their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.errors import SourceError

_BLOCK = 1024


@dataclass(frozen=True)
class RecordGroup:
    """Records of the shards that are open together.

    Attributes:
      records: bytes[n], serialized.
      labels: int64[n] or str[n].
    """

    records: np.ndarray
    labels: np.ndarray


def first_records(paths: Sequence[str], compression: str | None, most: int) -> np.ndarray:
    """bytes[m], 0 < m <= `most`: the first records of the shards.

    Raises:
      SourceError: a shard cannot be read, or none has a record.
    """
    for path in paths:
        try:
            for block in _blocks([path], compression, most):
                return block.numpy()
        except tf.errors.OpError as error:
            raise _unreadable(path, error) from None
    raise SourceError(f"{len(paths)} shards hold no records, from {paths[0]} on", "write records into them")


def read_group(paths: Sequence[str], compression: str | None, labels_of: Callable[[Any], np.ndarray]) -> RecordGroup:
    """All records of some shards, in order.

    Raises:
      SourceError: a shard cannot be read, or the function fails on its records; names the file.
    """
    try:
        return _read(paths, compression, labels_of)
    except tf.errors.OpError as error:
        # TensorFlow does not tell which file it was in.
        for path in paths:
            try:
                _read([path], compression, labels_of)
            except tf.errors.OpError as found:
                raise _unreadable(path, found) from None
        raise SourceError(f"{len(paths)} shards from {paths[0]} on: {_text(error)}", "try again") from None


def _read(paths: Sequence[str], compression: str | None, labels_of: Callable[[Any], np.ndarray]) -> RecordGroup:
    records: list[np.ndarray] = [np.empty(0, object)]
    labels: list[np.ndarray] = []
    for block in _blocks(paths, compression, _BLOCK):
        records.append(block.numpy())
        labels.append(labels_of(block))
    return RecordGroup(np.concatenate(records), np.concatenate(labels) if labels else np.empty(0, np.int64))


def _blocks(paths: Sequence[str], compression: str | None, size: int) -> Any:
    kind: Any = compression or ""
    return tf.data.TFRecordDataset(list(paths), compression_type=kind, buffer_size=8 << 20).batch(size).prefetch(1)


def _unreadable(path: str, error: Any) -> SourceError:
    return SourceError(
        f"{path}: {_text(error)}",
        "restore the file, pass the `compression` it was written with, or correct deserialization_fn",
    )


def _text(error: Any) -> str:
    """Without the names that TensorFlow gives its internal operations."""
    return re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error.message)).strip().splitlines()[0].strip()[:300]
