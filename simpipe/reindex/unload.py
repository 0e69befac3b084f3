"""The items of a release as an embeddings data set: what it holds, and what a re-index is about to change."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.digests import digests_file, read_digests
from simpipe.embeddings import open_writer, row_group_rows, schema, vectors_column
from simpipe.errors import ContractError
from simpipe.index.searcher import Searcher
from simpipe.items import item_vectors, metadata_fields
from simpipe.reindex.changes import CHANGED, ChangesInfo
from simpipe.store import store_file


def dropped_ids(delta: Path, changes: ChangesInfo, number: int) -> pa.ChunkedArray:
    """Ids of items of one store file that were changed or deleted: string[n].

    Args:
      delta: the embeddings data set that holds `changes`. number: of the store file.
    """
    table = changes.read(delta, number)
    goes = (table.column("kind").to_numpy() >= CHANGED) & ~table.column("query").to_numpy(zero_copy_only=False)
    return table.column("id").filter(pa.array(goes))


def unload_schema(base: Searcher) -> pa.Schema:
    """Of the files that are unloaded from a release."""
    manifest = base.manifest
    return schema(
        manifest.dim,
        distance=manifest.distance,
        encoder=manifest.encoder.fingerprint,
        metadata=metadata_fields(base),
        digests=manifest.has(digests_file(0, manifest.store_files)),
    )


def unload_bucket(base: Searcher, number: int, path: Path, *, dropped: pa.ChunkedArray | None = None) -> tuple[int, int]:
    """Writes the items of one store file, ascending by id, with their vectors as the release holds them.

    Args:
      base: the release. path: the Parquet file; it appears complete or not at all.
      dropped: ids that are left out.

    Returns:
      Items read, and items left out.

    Raises:
      ContractError: store, digests and partitions disagree.
    """
    of, kind = base.manifest.store_files, unload_schema(base)
    table = pq.read_table(base.file(store_file(number, of)))
    if "digest" in kind.names:
        digests = read_digests(base.file(digests_file(number, of)))
        if digests.column("id") != table.column("id"):
            raise ContractError(f"{base.title}: digests of other items than store file {number} holds", "run `simpipe run` once")
        table = table.append_column("digest", digests.column("digest"))
    read = len(table)
    if dropped is not None:
        table = table.filter(pc.invert(pc.is_in(table.column("id"), value_set=dropped.combine_chunks())))
    table = table.append_column("embedding", vectors_column(item_vectors(base, table))).select(kind.names).cast(kind)
    with files.replacing(path) as temporary, open_writer(temporary, kind) as writer:
        writer.write_table(table.combine_chunks() if len(table) else table, row_group_size=row_group_rows(base.dim))
    return read, read - len(table)


def take_file(source: Path, path: Path, kind: pa.Schema | None) -> None:
    """Puts an embeddings file into another data set: as a hard link, or as a copy where there are none.

    Args:
      source: a file that was verified. path: where it goes. kind: written anew with this schema where it has another.

    Raises:
      ContractError: its columns cannot be made so.
    """
    if kind is not None and not pq.read_schema(source).equals(kind):
        try:
            table = pq.read_table(source).select(kind.names).cast(kind)
        # A value that does not fit, a type without a cast to the other, a column that is missing: all the user's to mend.
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            raise ContractError(f"{source}: other columns than in the live release ({error})", "run `simpipe run` once") from None
        with files.replacing(path) as temporary, open_writer(temporary, kind) as writer:
            writer.write_table(table, row_group_size=row_group_rows(kind.field("embedding").type.list_size))
        return
    with files.replacing(path) as temporary:
        with contextlib.suppress(OSError):
            os.link(source, temporary)
        if not temporary.exists():
            shutil.copyfile(source, temporary)
