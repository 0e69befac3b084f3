"""Items without their vectors, as Parquet in the order of a file of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files

_GROUP = 1 << 16


@contextmanager
def item_file(path: Path, kind: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of tables of schema `kind`; the file appears complete or not at all."""
    with ExitStack() as stack:
        temporary = stack.enter_context(files.replacing(path))
        yield stack.enter_context(pq.ParquetWriter(temporary, kind, compression="zstd"))


def carried_as_stored(fields: tuple[pa.Field, ...]) -> dict[str, str]:
    """How Parquet carries columns: all of them, as they are."""
    return dict.fromkeys(("id", "label", *(field.name for field in fields)), "as in the release")
