"""Existing TFRecord files of `tf.train.Example`. TensorFlow is imported when a block is read."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when imported)

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe.config.models import TfrecordSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources import base, listing
from simpipe.data.sources.base import IMAGE, VECTOR, Problem, SourceBlock
from simpipe.data.sources.images import check_images
from simpipe.errors import SourceError
from simpipe.types import Reject

_CURE = "give a TFRecord file, a folder of them, or a pattern such as data/train-*.tfrecord.gz"
_BATCH = 512
_FRAME = 16  # bytes around each record: length and two checksums


class Tfrecord:
    """See `TfrecordSource`. A block is a file; of a damaged file the readable records count, and one reject stands for the rest.

    Raises:
      SourceError: no files, or no record of a file holds a configured feature; names the features there are.
    """

    metadata: tuple[pa.Field, ...] = ()

    def __init__(self, config: TfrecordSource) -> None:
        self.config = config
        self.root, self.names = listing.list_files(config.path, (".tfrecord", ".tfrecords", ".gz"), _CURE)
        if config.encoding == "image" and (len(config.shape) != 3 or config.shape[2] not in (1, 3)):
            raise SourceError(
                f"source.shape: {list(config.shape)} is no image", "give [height, width, channels] with 1 or 3 channels"
            )
        kind = "float32" if config.encoding == "float" else "uint8"
        name = VECTOR if len(config.shape) != 3 else IMAGE
        self.input = InputSpec(name=name, shape=config.shape, dtype=kind, encoding=config.encoding)

    def blocks(self, rows: int) -> list[SourceBlock]:
        return [SourceBlock(index, name) for index, name in enumerate(self.names)]

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        records, fault = read_records(self.root / block.name, self.config.compression)
        sources = base.numbered(f"{block.name} record ", np.arange(len(records)))
        features, bad = self._parse(records, block.name)
        problems: list[Problem] = [(bad, "bad-example", "not a tf.train.Example with features of the expected types")]
        inputs = self._inputs(features, problems)
        labels = self._texts(features, "label", problems) if self.config.label else pa.nulls(len(records), pa.string())
        if self.config.id:
            ids = self._texts(features, "id", problems)
        else:
            stem = block.name.removesuffix(".gz").removesuffix(".tfrecords").removesuffix(".tfrecord")
            ids = base.numbered(f"{stem}-", np.arange(len(records)), 6)
        table = pa.Table.from_arrays([ids, labels, inputs, sources], schema=base.table_schema(self.input))
        good, rejects = base.sift(table, problems)
        if fault:
            rejects.append(
                Reject("", f"{block.name} record {len(records)}", "corrupt-record", f"{fault}; the rest of the file is lost")
            )
        return good, rejects

    def _parse(self, records: np.ndarray, file: str) -> tuple[dict[str, Any], np.ndarray]:
        """The configured features of all records, ragged; and which records cannot be parsed (empty features there)."""
        import tensorflow as tf

        config = self.config
        kinds = _kinds(records)
        spec: dict[str, Any] = {}
        for field in ("input", "label", "id"):
            name = getattr(config, field)
            if name and name not in kinds and len(records) and kinds:
                raise SourceError(f"source.{field}: no record of {file} has feature {name!r}", f"there are {sorted(kinds)}")
            if name:
                default = tf.float32 if field == "input" and config.encoding == "float" else tf.string
                spec[field] = tf.io.RaggedFeature(default if field == "input" else kinds.get(name, default), value_key=name)
        bad = np.zeros(len(records), bool)
        pending = [(start, min(start + _BATCH, len(records))) for start in range(0, len(records), _BATCH)][::-1]
        parts: list[dict[str, Any]] = []
        nothing = tf.train.Example().SerializeToString()
        while pending:
            start, stop = pending.pop()
            try:
                parts.append(tf.io.parse_example(records[start:stop], spec))
            except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # the latter where its own message breaks
                if stop - start > 1:
                    middle = (start + stop) // 2
                    pending += [(middle, stop), (start, middle)]
                else:
                    bad[start] = True
                    parts.append(tf.io.parse_example([nothing], spec))
        parts = parts or [tf.io.parse_example(tf.zeros([0], tf.string), spec)]
        return {name: tf.concat([part[name] for part in parts], 0) for name in spec}, bad

    def _inputs(self, features: dict[str, Any], problems: list[Problem]) -> pa.Array:
        values, lengths = features["input"].flat_values.numpy(), features["input"].row_lengths().numpy()
        size = int(np.prod(self.config.shape))
        wanted = size if self.config.encoding == "float" else 1
        problems.append(
            (
                lengths != wanted,
                "wrong-shape",
                lambda row: f"feature {self.config.input!r} has {lengths[row]} values, {wanted} expected",
            )
        )
        if self.config.encoding == "float":
            rows = np.zeros((len(lengths), size), np.float32)
            rows[lengths == size] = values[np.repeat(lengths == size, lengths)].reshape(-1, size)
            problems.append(base.not_finite(rows))
            return base.as_floats(rows)
        single = _single(values, lengths)
        if self.config.encoding == "image":
            inputs, problem = check_images(single.tolist(), self.config.shape[2])
            problems.append(problem)
            return inputs
        inputs = pa.array(single, pa.large_binary())
        sizes = pc.fill_null(pc.binary_length(inputs), -1).to_numpy()
        problems.append(
            (sizes != size, "wrong-shape", lambda row: f"{sizes[row]} bytes, {size} expected for shape {list(self.config.shape)}")
        )
        return inputs

    def _texts(self, features: dict[str, Any], field: str, problems: list[Problem]) -> pa.Array:
        """One text a record: null where the feature is absent; a bad row where there are several values or no UTF-8."""
        lengths = features[field].row_lengths().numpy()
        single = pa.array(_single(features[field].flat_values.numpy(), lengths).tolist())
        texts, odd = base.as_text(single.cast(pa.string()) if pa.types.is_null(single.type) else single, f"feature {field!r}")
        problems += [
            (lengths > 1, "wrong-shape", f"the {field} has several values"),
            (odd, "bad-text", f"the {field} is not UTF-8"),
        ]
        return texts


def _single(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The value of each row that has exactly one, else None: object[n]."""
    single = np.full(len(lengths), None, object)
    single[lengths == 1] = values[np.repeat(lengths == 1, lengths)]
    return single


def _kinds(records: np.ndarray) -> dict[str, Any]:
    """Feature names with their types, from the first records that have them."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    types = {"bytes_list": tf.string, "int64_list": tf.int64, "float_list": tf.float32}
    kinds: dict[str, Any] = {}
    for record in records[:100]:
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            continue
        found = {name: types[kind] for name, feature in features.items() if (kind := feature.WhichOneof("kind"))}
        kinds = {**found, **kinds}
    return kinds


def read_records(path: Path, compression: Literal["", "GZIP"]) -> tuple[np.ndarray, str]:
    """All readable records of one TFRecord file.

    TensorFlow takes a file cut inside a record's header, or inside gzip's trailer, for a whole one: sizes are compared.

    Returns:
      object[n] of bytes, and what is wrong after them ("" where the file is whole).

    Raises:
      SourceError: the file is missing, or its compression is not the configured one.
    """
    import tensorflow as tf

    if not path.is_file():
        raise SourceError(f"{path}: the file is missing", "it was there when the run began: restore it and run again")
    data = tf.data.TFRecordDataset(os.fspath(path), compression_type=compression, buffer_size=8 << 20)
    parts: list[np.ndarray] = []
    fault = _read_into(parts, data.batch(_BATCH))
    if fault:  # the batch with the fault was lost as a whole: take its records one by one
        _read_into(parts, data.skip(sum(map(len, parts))).batch(1))
    records = np.concatenate(parts) if parts else np.empty(0, object)
    if not fault:
        used = sum(map(len, records)) + _FRAME * len(records)
        size, fault = _plain_size(path, compression)
        if not fault and size != used:
            fault = f"truncated: {size - used} bytes follow the last whole record"
    if fault and not len(records):
        with open(path, "rb") as handle:
            packed = handle.read(3) == b"\x1f\x8b\x08"
        if packed != bool(compression):
            is_now, cure = ("gzip data", "GZIP") if packed else ("no gzip data", '""')
            raise SourceError(f"source.compression: {path} is {is_now}", f"set source.compression to {cure}")
    return records, fault


def _read_into(parts: list[np.ndarray], batches: Any) -> str:
    import tensorflow as tf

    try:
        for batch in batches.as_numpy_iterator():
            parts.append(batch)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        return (error.message or "corrupt").partition("}} ")[2].partition(" [Op")[0] or "corrupt"
    return ""


def _plain_size(path: Path, compression: str) -> tuple[int, str]:
    if not compression:
        return path.stat().st_size, ""
    size = 0
    try:
        with gzip.open(path, "rb") as handle:
            while chunk := handle.read(1 << 20):
                size += len(chunk)
    except (EOFError, OSError, zlib.error) as error:
        return size, f"truncated or corrupt gzip data ({error})"
    return size, "" if path.stat().st_size else "the file is empty, not even a gzip header"


def fingerprint(config: TfrecordSource) -> dict[str, Any]:
    return listing.stat_files(*listing.list_files(config.path, (".tfrecord", ".tfrecords", ".gz"), _CURE))
