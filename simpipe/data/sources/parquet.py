"""Parquet files: a column of encoded images or numeric columns, with ids, labels and metadata."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when imported)

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from simpipe import files
from simpipe.config.models import ParquetSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources import base, listing
from simpipe.data.sources.base import IMAGE, VECTOR, Problem, SourceBlock
from simpipe.data.sources.images import check_images
from simpipe.errors import SourceError
from simpipe.types import RESERVED, Reject

_CURE = "give a Parquet file, a folder of them, or a pattern such as data/*.parquet"


class Parquet:
    """See `ParquetSource`. A block is a row group.

    Raises:
      SourceError: a file is missing or no Parquet, or lacks a column; names both and the columns there are.
    """

    def __init__(self, config: ParquetSource) -> None:
        self.config = config
        self.root, self.names = listing.list_files(config.path, (".parquet", ".pq"), _CURE)
        taken = [name for name in config.metadata if name in RESERVED]
        if taken:
            raise SourceError(
                f"source.metadata: column name {taken[0]!r} is taken by examples themselves", "rename the column, or leave it out"
            )
        if config.image:
            shape = (*(config.resize or ()), config.channels)
            self.input = InputSpec(name=IMAGE, shape=shape, dtype="uint8", encoding="image")
        else:
            self.input = InputSpec(name=VECTOR, shape=(len(config.columns),), dtype="float32", encoding="float")
        schema = self._open(self.names[0]).schema_arrow
        self.metadata = tuple(pa.field(name, _metadata_type(schema.field(name).type)) for name in config.metadata)

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.root / name)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{name}: cannot be read as Parquet: {error}", _CURE) from None
        config, there = self.config, file.schema_arrow.names
        wanted = {"id": (config.id,), "label": (config.label,), "image": (config.image,)}
        wanted |= {"columns": config.columns, "metadata": config.metadata}
        for field, columns in wanted.items():
            for column in columns:
                if column and column not in there:
                    raise SourceError(f"source.{field}: {name} has no column {column!r}", f"it has {_some(there)}")
        for column in config.columns:
            kind = file.schema_arrow.field(column).type
            if not (
                pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
            ):
                raise SourceError(
                    f"source.columns: column {column!r} of {name} is {kind}, no number", "name numeric columns only"
                )
        return file

    def blocks(self, rows: int) -> list[SourceBlock]:
        blocks: list[SourceBlock] = []
        for name in self.names:
            with self._open(name) as file:
                start = 0
                for part in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(part).num_rows
                    blocks.append(SourceBlock(len(blocks), name, start, stop, part))
                    start = stop
        return blocks

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        config = self.config
        wanted = dict.fromkeys(
            name for name in (config.id, config.label, config.image, *config.columns, *config.metadata) if name
        )
        with self._open(block.name) as file:
            data = file.read_row_group(block.part, columns=list(wanted), use_threads=False)
        ids, odd_ids = base.as_text(data[config.id], f"{block.name} column {config.id!r}")
        if config.label:
            labels, odd_labels = base.as_text(data[config.label], f"{block.name} column {config.label!r}")
        else:
            labels, odd_labels = pa.nulls(len(data), pa.string()), np.zeros(len(data), bool)
        problems: list[Problem] = [
            (odd_ids, "bad-text", "the id is not UTF-8"),
            (odd_labels, "bad-text", "the label is not UTF-8"),
        ]
        inputs = self._images(data, problems) if config.image else self._numbers(data, problems)
        extra = [self._metadata_column(data, field, block.name, problems) for field in self.metadata]
        sources = base.numbered(f"{block.name} row ", np.arange(block.start, block.start + len(data)))
        table = pa.Table.from_arrays([ids, labels, inputs, sources, *extra], schema=base.table_schema(self.input, self.metadata))
        return base.sift(table, problems)

    def _images(self, data: pa.Table, problems: list[Problem]) -> pa.Array:
        column = data[self.config.image]
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            column = pc.struct_field(column, "bytes")  # the layout of Hugging Face data sets
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            raise SourceError(
                f"source.image: column {self.config.image!r} is {column.type}, no bytes", "name a column of encoded images"
            )
        inputs, problem = check_images(column.to_pylist(), self.config.channels)
        problems.append(problem)
        return inputs

    def _numbers(self, data: pa.Table, problems: list[Problem]) -> pa.Array:
        names = self.config.columns
        null = np.stack([data[name].is_null().to_numpy() for name in names], axis=1)
        with np.errstate(over="ignore"):
            values = np.stack([_floats(data[name]).astype(np.float32) for name in names], axis=1)
        bad = null | ~np.isfinite(values)

        def reason(row: int) -> str:
            column = int(np.flatnonzero(bad[row])[0])
            return f"column {names[column]!r} is {'null' if null[row, column] else values[row, column]}"

        problems.append((np.asarray(bad.any(axis=1)), "not-finite", reason))
        return base.as_floats(values)

    def _metadata_column(self, data: pa.Table, field: pa.Field, file: str, problems: list[Problem]) -> pa.Array:
        column = data[field.name]
        if field.type == pa.string():
            texts, odd = base.as_text(column, f"{file} column {field.name!r}")
            problems.append((odd, "bad-text", f"metadata column {field.name!r} is not UTF-8"))
            return texts
        try:
            return column.combine_chunks().cast(field.type, safe=field.type != pa.float32())
        except pa.ArrowInvalid as error:
            raise SourceError(
                f"{file}: metadata column {field.name!r}: {error}", "give the column one type in all files"
            ) from None


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy()


def _metadata_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    return pa.float32() if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else pa.string()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:12])) + (" …" if len(names) > 12 else "")


def fingerprint(config: ParquetSource) -> dict[str, Any]:
    root, names = listing.list_files(config.path, (".parquet", ".pq"), _CURE)
    return listing.stat_files(files.located(root), names)
