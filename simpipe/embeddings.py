"""The contract of an embeddings data set: Parquet files and `embeddings.json`, written last.

Columns: `id: string`, `label: string`, `embedding: fixed_size_list<float>[dim]`, `digest: fixed_size_binary[16]` of what the
record holds (label, input or vector as given, metadata; see `simpipe.digests`), then metadata columns. Files of earlier versions
have no digests: a release of them cannot be re-indexed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.digests import DIGEST
from simpipe.errors import ContractError

EMBEDDINGS_JSON = "embeddings.json"
FORMAT_VERSION = 1
ROW_GROUP_BYTES = 8 << 20
NO_ENCODER = "none"  # fingerprint of ready-made vectors


class EmbeddingsFile(BaseModel):
    """One Parquet file of an embeddings data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    split: Literal["train", "index", "query"]
    rows: int
    size: int
    sha256: str


class EmbeddingsInfo(BaseModel):
    """`embeddings.json`. `encoder` is the fingerprint of the encoder, or `none` for ready-made vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int = FORMAT_VERSION
    key: str
    dim: int
    distance: str
    encoder: str
    metadata: tuple[str, ...] = ()
    files: tuple[EmbeddingsFile, ...]
    counts: dict[str, int]
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> EmbeddingsInfo:
        path = folder / EMBEDDINGS_JSON
        try:
            info = cls.model_validate(files.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            cure = "run `simpipe embed` or `simpipe import` again"
            raise ContractError(f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}", cure) from None
        if info.format_version != FORMAT_VERSION:
            raise ContractError(
                f"{path}: format version {info.format_version}, this simpipe reads {FORMAT_VERSION}", "run the step again"
            )
        return info

    def save(self, folder: Path) -> None:
        files.write_json(folder / EMBEDDINGS_JSON, self.model_dump(mode="json"))

    def of_splits(self, *splits: str) -> list[EmbeddingsFile]:
        return [file for file in self.files if file.split in splits]


@dataclass(frozen=True)
class Block:
    """A block of embeddings with its place: file name and first row, for messages."""

    table: pa.Table
    vectors: np.ndarray
    source: str
    first_row: int


def schema(dim: int, *, distance: str, encoder: str, metadata: list[pa.Field] | None = None, digests: bool = False) -> pa.Schema:
    """The Arrow schema of an embeddings file, with the schema metadata key `simpipe`. `digests`: with the column `digest`."""
    about = {"format_version": FORMAT_VERSION, "dim": dim, "distance": distance, "encoder": encoder}
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
        *([pa.field("digest", DIGEST, nullable=False)] if digests else []),
        *(metadata or []),
    ]
    return pa.schema(fields, metadata={b"simpipe": json.dumps(about, sort_keys=True).encode()})


def vectors_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """float32[n, dim] as an Arrow column, without copying."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def vectors_of(table: pa.Table | pa.RecordBatch, column: str = "embedding") -> np.ndarray:
    """A vector column as float32[n, dim]."""
    data = table.column(column)
    if isinstance(data, pa.ChunkedArray):
        data = data.combine_chunks() if data.num_chunks != 1 else data.chunk(0)
    dim = data.type.list_size
    return np.asarray(data.flatten(), np.float32).reshape(len(data), dim)


def row_group_rows(dim: int) -> int:
    """Rows in a row group of about 8 MiB of vectors."""
    return max(256, ROW_GROUP_BYTES // (4 * dim))


def open_writer(path: Path, kind: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer for embeddings: ZSTD, BYTE_STREAM_SPLIT on vectors, no dictionary on them, ids and digests."""
    plain: Any = [field.name for field in kind if field.name not in ("embedding", "id", "digest")]
    return pq.ParquetWriter(
        path,
        kind,
        compression="zstd",
        use_dictionary=plain,
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
        store_schema=True,
    )


def iterate_blocks(path: Path, rows: int = 8192, columns: list[str] | None = None) -> Iterator[Block]:
    """Blocks of at most `rows` rows of one embeddings file, in order."""
    with pq.ParquetFile(path) as file:
        first = 0
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            table = pa.Table.from_batches([batch])
            yield Block(table, vectors_of(table), path.name, first)
            first += batch.num_rows
