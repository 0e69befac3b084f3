"""A release whose metadata has columns of every kind, and what its items are, for tests of exports."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import clustered

from pipelines.line import Line
from simpipe import releases
from simpipe.config import parse_config
from simpipe.embeddings import vectors_column

ITEMS, DIM = 240, 6
COLUMNS = ["shop", "size", "price", "weight", "ok", "seen", "day", "tags", "raw", "stock", "box", "code", "amount", "two_words"]


def ids_of(n: int) -> list[str]:
    """Ids with letters of several alphabets, quotes, backslashes and a tab."""
    kinds = ('ä"{}', "後{}\\", "plain-{}", "t\t{}", "🎈{}")
    return [kinds[row % len(kinds)].format(row) for row in range(n)]


def some(row: int, every: int, value: Any) -> Any:
    """None in one row of `every`."""
    return None if row % every == 0 else value


def metadata_of(n: int) -> pa.Table:
    """All kinds of columns, with nulls."""
    rows = range(n)
    start = datetime.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=datetime.UTC)
    box = pa.struct([("w", pa.int64()), ("h", pa.float64())])
    values: dict[str, tuple[list[Any], pa.DataType]] = {
        "shop": ([some(row, 11, f'shop "{row % 3}"\n') for row in rows], pa.string()),
        "size": ([some(row, 5, row - 100) for row in rows], pa.int16()),
        "price": ([float("nan") if row % 9 == 1 else some(row, 7, row / 3) for row in rows], pa.float64()),
        "weight": ([row / 7 for row in rows], pa.float32()),
        "ok": ([some(row, 6, row % 2 == 0) for row in rows], pa.bool_()),
        "seen": ([some(row, 4, start + datetime.timedelta(seconds=row)) for row in rows], pa.timestamp("us", "UTC")),
        "day": ([datetime.date(1969, 12, 1) + datetime.timedelta(days=row) for row in rows], pa.date32()),
        "tags": ([some(row, 8, [f"t{tag}" for tag in range(row % 4)]) for row in rows], pa.list_(pa.string())),
        "raw": ([some(row, 3, bytes([row % 256, 0])) for row in rows], pa.binary()),
        "stock": ([row * 1000 for row in rows], pa.uint64()),
        "box": ([some(row, 10, {"w": row, "h": some(row, 4, row / 2)}) for row in rows], box),
        "code": ([f"c{row % 2}" for row in rows], pa.large_string()),
        "amount": ([Decimal(row).scaleb(-2) for row in rows], pa.decimal128(10, 2)),
        "two_words": ([f"w{row}" for row in rows], pa.string()),
    }
    return pa.table({name: pa.array(column, kind) for name, (column, kind) in values.items()})


def rich_release(folder: Path, *, distance: str, storage: str) -> tuple[Path, Path]:
    """Builds and publishes a release of 12 partitions with spilled copies; some hold a copy of nearly every item.

    Returns:
      Its root, and the Parquet file that it was made from.
    """
    vectors, labels = clustered(ITEMS, dim=DIM)
    columns = {"id": ids_of(ITEMS), "label": [some(row, 13, f"l{label}") for row, label in enumerate(labels)]}
    table = pa.table({**columns, "embedding": vectors_column(vectors)})
    for name, column in zip(COLUMNS, metadata_of(ITEMS).columns, strict=True):
        table = table.append_column(name if name != "two_words" else "two words", column)
    path = folder / "source.parquet"
    pq.write_table(table, path)
    names = [name for name in table.column_names if name not in ("id", "label", "embedding")]
    source = {"kind": "vectors", "path": str(path), "ids": "id", "labels": "label", "metadata": names, "distance": distance}
    build = {"router": {"kind": "packed", "partitions": 12, "spill": "nearest"}, "backend": {"kind": "exact"}}
    settings = {"store_files": 3, "storage": storage, "profile": {"queries": 0}}
    config = {"name": "rich", "root": str(folder / "root"), "source": source, "queries": {"fraction": 0.1}}
    line = Line(parse_config({**config, "build": {**build, **settings}}), say=lambda text: None)
    line.embed()
    line.build()
    releases.publish(folder / "root", needed_steps=())
    return folder / "root", path
