"""Reads whole shards into arrays and checks them against `dataset.json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.data.examples import CURE, DATASET_JSON, DatasetInfo, InputSpec, ShardInfo
from simpipe.data.parsing import open_records, parse_batch
from simpipe.errors import ContractError, SourceError

_BLOCK = 1024


def read_shards(shards: Sequence[tuple[Path, ShardInfo]], info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """The examples of several shards, in order.

    Returns:
      inputs of the input's dtype [n, *shape], and class indexes int64[n].

    Raises:
      ContractError: a shard is corrupt, or differs from what `dataset.json` says of it; names file and record.
      SourceError: an input holds NaN or infinity; names ids.
    """
    total = sum(shard.num_examples for _, shard in shards)
    # Filled in place: joining arrays at the end would take the memory twice.
    inputs = np.empty((total, *info.input.shape), info.input.dtype)
    labels = np.empty(total, np.int64)
    begin = 0
    for path, shard in shards:
        end = begin + shard.num_examples
        _read_shard(path, shard, info, inputs[begin:end], labels[begin:end])
        begin = end
    return inputs, labels


def _read_shard(path: Path, shard: ShardInfo, info: DatasetInfo, inputs: np.ndarray, labels: np.ndarray) -> None:
    spec = info.input
    parse = _parser(spec.model_dump_json())
    done = 0
    try:
        for serialized in open_records(path, info.compression).batch(_BLOCK).prefetch(1):
            ids, label, values = (tensor.numpy() for tensor in parse(serialized))
            fits = min(len(label), len(labels) - done)
            inputs[done : done + fits], labels[done : done + fits] = values[:fits], label[:fits]
            _check_finite(path, ids, values)
            done += len(label)
    except tf.errors.OpError as error:
        record, reason = _first_bad_record(path, info.compression, spec)
        raise ContractError(
            f"{path}: record {record}: {reason or error.message}", f"the file is damaged: restore it, or {CURE}"
        ) from None
    if done < shard.num_examples:
        raise ContractError(
            f"{path}: record {done}: the file ends there, {DATASET_JSON} says {shard.num_examples} records",
            f"the file is cut off or another: restore it, or {CURE}",
        )
    if done > shard.num_examples:
        raise ContractError(f"{path}: {done} records, {DATASET_JSON} says {shard.num_examples}", f"restore the file, or {CURE}")
    _check_blocks(path, shard, labels)


@lru_cache(maxsize=8)
def _parser(specification: str) -> Callable[[Any], tuple[Any, Any, Any]]:
    """`parse_batch` as one graph, traced once for all shards; takes the spec as JSON, which can be a cache's key."""
    spec = InputSpec.model_validate_json(specification)
    return tf.function(lambda serialized: parse_batch(serialized, spec), input_signature=[tf.TensorSpec((None,), tf.string)])


def _check_finite(path: Path, ids: np.ndarray, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    good = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not good.all():
        bad = [name.decode(errors="replace") for name in ids[~good][:5]]
        raise SourceError(
            f"{path}: the input of {(~good).sum()} examples holds NaN or infinity, ids {bad}",
            "correct or drop these records in the source, then " + CURE,
        )


def _check_blocks(path: Path, shard: ShardInfo, labels: np.ndarray) -> None:
    """The runs of labels must be those that `dataset.json` lists."""
    listed = np.array(shard.class_blocks, np.int64).reshape(-1, 2)
    expected = np.repeat(listed[:, 0], listed[:, 1])
    if len(expected) == len(labels) and (expected == labels).all():
        return
    where = int(np.argmax(expected != labels)) if len(expected) == len(labels) else 0
    raise ContractError(
        f"{path}: class blocks differ from {DATASET_JSON}, from record {where} on", f"restore file and {DATASET_JSON}, or {CURE}"
    )


def _first_bad_record(path: Path, compression: str, spec: InputSpec) -> tuple[int, str]:
    """Number of the first record that cannot be read or parsed, and why; only after a block has failed."""
    parse = _parser(spec.model_dump_json())
    number = 0
    try:
        for serialized in open_records(path, compression):
            parse(serialized[None])
            number += 1
    except tf.errors.OpError as error:
        # Without the names that TensorFlow gives its internal operations.
        return number, re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error.message)).strip().splitlines()[0].strip()[:200]
    return number, ""
