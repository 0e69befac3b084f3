"""What records hold, to verify it: every one must parse, with id, input and metadata as `dataset.json` declares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from simpipe.data.examples import DatasetInfo
from simpipe.data.parsing import parse_batch, parse_metadata
from simpipe.data.verify_records import NO_RECORD

_DECODED = 64 << 20  # bytes of inputs decoded at a time: pictures are small in files
# TensorFlow repeats a record that is no example in its message, and fails at that where its bytes are no text.
_FAILS = (tf.errors.OpError, UnicodeDecodeError)


@dataclass(frozen=True)
class Content:
    """ids object[n] of str, labels int64[n] (`NO_RECORD` where a record is wrong), and (row, what is wrong) of those."""

    ids: np.ndarray
    labels: np.ndarray
    problems: list[tuple[int, str]]


class ContentCheck:
    """Parses batches of records of a data set as readers do, and finds the ones that fail."""

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._rows = max(_DECODED // max(int(np.prod(info.input.shape)) * np.dtype(info.input.dtype).itemsize, 1), 1)
        self._parse = tf.function(self._columns, input_signature=[tf.TensorSpec([None], tf.string)])

    def check(self, records: Sequence[bytes], *, at_most: int) -> Content:
        """Looks at records until more than `at_most` of them are wrong; the rest then counts as not read."""
        ids = np.full(len(records), "", object)
        labels = np.full(len(records), NO_RECORD, np.int64)
        problems: list[tuple[int, str]] = []
        starts = range(0, len(records), self._rows)
        waiting = [(start, min(start + self._rows, len(records))) for start in reversed(starts)]
        while waiting and len(problems) <= at_most:
            first, stop = waiting.pop()
            part = records[first:stop]
            try:
                columns = [tensor.numpy() for tensor in self._parse(tf.constant(part, tf.string))]
            except _FAILS:
                if len(part) == 1:
                    problems.append((first, self._reason(part[0])))
                    continue
                half = (first + stop) // 2
                waiting += [(half, stop), (first, half)]  # the first half is next
                continue
            ids[first:stop], labels[first:stop], found = self._look(*columns)
            problems += [(first + row, what) for row, what in found]
        for row, _ in problems:
            labels[row] = NO_RECORD
        return Content(ids, labels, problems)

    def _columns(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """ids, labels, whether the input is finite, and the most values that a metadata feature has."""
        ids, labels, inputs = parse_batch(serialized, self._info.input)
        rows = tf.shape(serialized)[0]
        flat = tf.reshape(inputs, (rows, -1))
        finite = tf.reduce_all(tf.math.is_finite(flat), 1) if flat.dtype.is_floating else tf.ones([rows], tf.bool)
        most = tf.zeros([rows], tf.int64)
        if self._info.metadata:
            for column in parse_metadata(serialized, self._info.metadata).values():
                most = tf.maximum(most, column.row_lengths())
        return ids, labels, finite, most

    def _look(
        self, ids: np.ndarray, labels: np.ndarray, finite: np.ndarray, most: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        texts, known = _texts(ids), len(self._info.class_names)
        problems = [(int(row), "the input holds NaN or infinity") for row in np.flatnonzero(~finite)]
        problems += [(int(row), "a metadata feature has several values") for row in np.flatnonzero(most > 1)]
        for row in np.flatnonzero((labels < -1) | (labels >= known)):
            problems.append((int(row), f"label {labels[row]}: there are classes 0 to {known - 1}, or -1 for none"))
        for row in np.flatnonzero((texts == "") | (texts == None)):  # noqa: E711 (elementwise)
            problems.append((int(row), "the id is empty" if texts[row] == "" else "the id is no UTF-8 text"))
        return texts, labels, sorted(problems)

    def _reason(self, record: bytes) -> str:
        """Why one record does not parse; outside of the graph the message is short."""
        try:
            parse_batch(tf.constant([record]), self._info.input)
            parse_metadata(tf.constant([record]), self._info.metadata)
        except UnicodeDecodeError:
            pass
        except tf.errors.OpError as error:
            text = next(line for line in error.message.splitlines() if line.strip())
            return text.split("}} ", 1)[-1].split(" [Op:")[0].strip()
        return "it is no tf.train.Example"


def _texts(ids: np.ndarray) -> np.ndarray:
    """object[n] of str, None where bytes are no UTF-8."""
    values: Any = pa.array(ids, pa.binary())
    try:
        return values.cast(pa.string()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return np.array([_text(value) for value in ids], object)


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
