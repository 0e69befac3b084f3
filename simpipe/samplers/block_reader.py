"""Reads blocks of a data set into arrays, checks them, and keeps count of what is damaged."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.data.examples import CURE, DATASET_JSON, DatasetInfo, InputSpec, ShardInfo
from simpipe.data.parsing import parse_batch
from simpipe.data.record_reader import Records, missing_records, read_records
from simpipe.errors import ContractError, SourceError
from simpipe.storage import Folder


class BlockReader:
    """Reads ranges of records; may be used from several threads.

    Args:
      folder: of the data set.
      info: its `dataset.json`.
      max_corrupt: so many records of the split may be damaged; they are left out and counted.
    """

    def __init__(self, folder: Folder, info: DatasetInfo, *, max_corrupt: int = 0) -> None:
        self._folder, self._info, self._max = folder, info, max_corrupt
        self._corrupt: set[tuple[str, int]] = set()
        self._read = 0
        self._lock = threading.Lock()

    @property
    def corrupt(self) -> int:
        """Distinct damaged records met so far."""
        return len(self._corrupt)

    @property
    def read(self) -> int:
        """Records read so far, again in each pass."""
        return self._read

    def labels_and_inputs(self, shard: ShardInfo, first: int, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Reads `len(labels)` records from `first` on into `inputs`.

        Args:
          shard: which shard.
          first: number of the first record.
          labels: int64[n], the labels that `dataset.json` says these records have.
          inputs: of the input's dtype [n, *shape], written in place.

        Returns:
          bool[n]: records that are intact; the others' inputs are zeros.

        Raises:
          ContractError: the shard is damaged beyond `max_corrupt`, or holds other labels; names file and record.
          SourceError: an input holds NaN or infinity; names file, record and id.
        """
        stop = first + len(labels)
        try:
            records = read_records(self._folder, shard, first, stop)
        except ContractError:
            if not self._max or self._folder.size(shard.path) is not None:
                raise
            records = missing_records(first, stop)
        good = np.ones(len(labels), bool)
        good[records.bad - first] = False
        self._tally(shard, records.bad, records.reason)
        read, found = self._parse(shard, first, records, good, inputs)
        differ = good & (found != labels)
        if differ.any():
            where = first + int(np.argmax(differ))
            raise ContractError(
                f"{self._folder.full(shard.path)}: class blocks differ from {DATASET_JSON}, from record {where} on",
                f"restore file and {DATASET_JSON}, or {CURE}",
            )
        with self._lock:
            self._read += read
        return good

    def _parse(
        self, shard: ShardInfo, first: int, records: Records, good: np.ndarray, inputs: np.ndarray
    ) -> tuple[int, np.ndarray]:
        """Parses into `inputs`; marks in `good` what cannot be parsed. Gives the number read and labels int64[n]."""
        labels = np.full(len(good), -1, np.int64)
        parse = _parser(self._info.input.model_dump_json())
        # Nearly always all rows at once, without copies by index.
        waiting: list[Any] = [slice(0, len(good)) if good.all() else np.flatnonzero(good)]
        while waiting:
            rows = waiting.pop()
            data = records.data[rows]
            if not len(data):
                continue
            try:
                ids, label, values = parse(tf.constant(data, tf.string))
            except (tf.errors.OpError, UnicodeDecodeError) as error:  # TensorFlow repeats records that are no text
                rows = np.arange(len(good))[rows]
                if len(rows) > 1:  # halves, until the bad ones stand alone; only after a failure
                    middle = len(rows) // 2
                    waiting += [rows[middle:], rows[:middle]]
                    continue
                good[rows] = False
                self._tally(shard, first + rows, _reason(error))
                continue
            inputs[rows], labels[rows] = values, label
            finite = _finite(inputs[rows])
            if not finite.all():
                rows = np.arange(len(good))[rows][~finite]
                self._tally(shard, first + rows, "the input holds NaN or infinity", ids.numpy()[~finite])
                good[rows] = False
        if not good.all():
            inputs[~good] = 0
        return int(good.sum()), labels

    def _tally(self, shard: ShardInfo, records: np.ndarray, reason: str, ids: np.ndarray | None = None) -> None:
        if not len(records):
            return
        with self._lock:
            self._corrupt |= {(shard.path, record) for record in records.tolist()}
            total = len(self._corrupt)
        if total <= self._max:
            return
        where = f"{self._folder.full(shard.path)}: record {records.min()}: {reason}"
        if self._max:
            where += f"; with it {total} records are damaged, train.sampler.skip_corrupt allows {self._max}"
        if ids is not None:
            named = [name.decode(errors="replace") for name in ids[:5]]
            raise SourceError(f"{where}, ids {named}", "correct or drop these records in the source, then " + CURE)
        raise ContractError(where, f"the file is damaged: restore it, or {CURE}; or raise train.sampler.skip_corrupt")


@lru_cache(maxsize=8)
def _parser(specification: str) -> Callable[[Any], tuple[Any, Any, Any]]:
    """`parse_batch` as one graph, traced once for all blocks; takes the spec as JSON, which can be a cache's key."""
    spec = InputSpec.model_validate_json(specification)
    return tf.function(lambda serialized: parse_batch(serialized, spec), input_signature=[tf.TensorSpec((None,), tf.string)])


def _finite(values: np.ndarray) -> np.ndarray:
    """bool[n]: rows without NaN and infinity."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1))


def _reason(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    """What TensorFlow says, without the names that it gives its internal operations."""
    if isinstance(error, UnicodeDecodeError):
        return "is no serialized tf.train.Example"
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error.message)).strip()
    return text.splitlines()[0].strip()[:200] if text else "cannot be parsed"
