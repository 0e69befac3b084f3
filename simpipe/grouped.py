"""The big shuffle goes through files: rows grouped by a number (partition, bucket, shard), read back group by group.

A grouped file is an Arrow IPC file. Each block written adds one record batch a group, so group g of block b is record
batch b * groups + g, and memory is bounded by a block when writing and by a group when reading.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.gs_path import GsPath


class GroupedWriter:
    """Writes blocks of rows, each grouped by a number in [0, groups)."""

    def __init__(self, path: Path, schema: pa.Schema, groups: int) -> None:
        self._sink = pa.OSFile(os.fspath(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._schema = schema
        self._groups = groups
        self.rows = 0  # written so far

    def write(self, table: pa.Table, group: np.ndarray) -> None:
        """Adds a block; `group` is int64[rows], each in [0, groups). Order inside a group is kept."""
        order = np.argsort(group, kind="stable")
        counts = np.bincount(group, minlength=self._groups)
        table = table.cast(self._schema).take(order).combine_chunks()
        first = 0
        for count in counts:
            part = table.slice(first, int(count))
            batches = part.to_batches()
            self._writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self._schema))
            first += int(count)
        self.rows += first

    def close(self) -> None:
        self._writer.close()
        self._sink.close()

    def __enter__(self) -> GroupedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def writing(path: Path, schema: pa.Schema, groups: int) -> Iterator[GroupedWriter]:
    """A writer of a scratch file that appears complete, local or on `gs://`."""
    with files.replacing(path, flush=False) as temporary, GroupedWriter(temporary, schema, groups) as writer:
        yield writer


def read_group(paths: Sequence[Path], group: int, groups: int) -> pa.Table | None:
    """All rows of one group, in the order of `paths` and of the blocks in them; None if every file is empty."""
    batches = []
    schema: pa.Schema | None = None
    for path in paths:
        with _opened(path) as reader:
            if reader is None:
                continue
            schema = reader.schema
            batches += [reader.get_batch(i) for i in range(group, reader.num_record_batches, groups)]
    if schema is None:
        return None
    return pa.Table.from_batches([batch for batch in batches if batch.num_rows], schema=schema)


def count_groups(paths: Sequence[Path], groups: int) -> np.ndarray:
    """Rows of each group over all files: int64[groups]."""
    counts = np.zeros(groups, np.int64)
    for path in paths:
        with _opened(path) as reader:
            if reader is None:
                continue
            rows = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
        counts += np.array(rows, np.int64).reshape(-1, groups).sum(axis=0)
    return counts


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pa.RecordBatchFileReader | None]:
    """A reader of a grouped file, mapped, or read by ranges where it is an object without a local copy; None without rows."""
    kept = path.kept() if isinstance(path, GsPath) else path
    if kept is None:
        assert isinstance(path, GsPath)
        with path.ranges() as raw:
            yield pa.ipc.open_file(pa.PythonFile(raw, "r")) if raw.size else None
    elif kept.stat().st_size == 0:  # a source without rows
        yield None
    else:
        with pa.memory_map(os.fspath(kept)) as source:
            yield pa.ipc.open_file(source)
