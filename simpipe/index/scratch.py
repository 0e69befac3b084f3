"""Arrays on disk that have no name: memory-mapped from temporary files that are unlinked at once, so that nothing is left behind
however a process ends. They lie where `TMPDIR` says."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pyarrow as pa


def mapped_table(table: pa.Table) -> pa.Table:
    """The same table, read from disk when it is touched; its memory is given back with the last reference."""
    handle, path = tempfile.mkstemp(prefix="simpipe-")
    os.close(handle)
    try:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return pa.ipc.open_file(pa.memory_map(path, "rb")).read_all()
    finally:
        os.unlink(path)


def mapped_column(column: pa.Array) -> pa.Array:
    """As `mapped_table`, of one array."""
    if not len(column):
        return column
    return mapped_table(pa.table({"column": column})).column(0).chunk(0)


def mapped_array(values: np.ndarray) -> np.ndarray:
    """As `mapped_table`, of a NumPy array."""
    return mapped_column(pa.array(values.ravel())).to_numpy().reshape(values.shape)
