"""Releases with metadata columns of all kinds, and what a filter should find in them, by brute force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from release_maker import make_release

from simpipe import files, releases
from simpipe.ids import bucket_of, hash_ids
from simpipe.index.distance import between
from simpipe.index.hidden import hidden_file, write_hidden
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher, open_release
from simpipe.manifest import ManifestFile
from simpipe.store import store_file

STORES = 3


def columns_of(n: int) -> dict[str, pa.Array]:
    """Columns of all kinds, with nulls and NaN."""
    rng = np.random.default_rng(n)
    price = rng.normal(10, 5, n).astype(np.float32)
    price[rng.random(n) < 0.1] = np.nan
    return {
        "number": pa.array(np.arange(n)),
        "price": pa.array(price, mask=rng.random(n) < 0.1),
        "brand": pa.array(np.array(["a", "b", "ç", "ab", "日本"])[rng.integers(0, 5, n)], mask=rng.random(n) < 0.1),
        "name": pa.array([f"name-{row:04d}" for row in range(n)]),
        "sold": pa.array(rng.random(n) < 0.5, mask=rng.random(n) < 0.1),
        "day": pa.array(rng.integers(0, 700, n).astype("datetime64[D]")),
    }


@dataclass(frozen=True)
class Case:
    """A release and its items, those that are hidden left out."""

    searcher: Searcher
    vectors: np.ndarray
    rows: np.ndarray
    columns: Mapping[str, list[Any]]

    def nearest(self, query: np.ndarray, k: int, fits: np.ndarray) -> list[str]:
        """Ids by (distance, hash of the id) of the items that fit, bool[items]."""
        rows = self.rows[fits[self.rows]]
        distance = between(query[None], self.vectors[None, rows], self.searcher.distance)[0]
        tie = hash_ids([f"i{row}" for row in rows])
        return [f"i{rows[place]}" for place in np.lexsort((tie, distance))[:k]]

    def fits(self, name: str, test: Any) -> np.ndarray:
        """bool[items]: whether a column's value is there and passes."""
        return np.array([value is not None and value == value and bool(test(value)) for value in self.columns[name]])


def make_case(root: Path, vectors: np.ndarray, router: Router, *, gone: int = 0, **how: Any) -> Case:
    """A release whose store has three files and all columns, and of which the first `gone` items are hidden."""
    make_release(root, vectors, router, **how)
    folder, manifest = releases.open_live(root)
    columns = columns_of(len(vectors))
    path = folder / store_file(0, 1)
    table = pq.read_table(path).drop_columns(["number"])
    order = pa.array([int(name[1:]) for name in table.column("id").to_pylist()])
    for name, values in columns.items():
        table = table.append_column(name, values.take(order))
    path.unlink()
    hidden = [f"i{row}" for row in range(gone)]
    listed = [entry for entry in manifest.files if not entry.path.startswith("store/")]
    partitions = []
    for about in manifest.partitions:
        with open_release(folder) as opened:
            rows = opened.rows(about.partition).rows_of(hidden)
        rows = np.sort(rows[rows >= 0])
        partitions.append(about.model_copy(update={"hidden": len(rows)}))
        if len(rows):
            write_hidden(rows, folder / hidden_file(about.partition))
            listed.append(ManifestFile(**files.entry_of(folder / hidden_file(about.partition), folder).to_json()))
    table = table.filter(pa.array(~np.isin(table.column("id").to_numpy(zero_copy_only=False), hidden)))
    buckets = bucket_of(table.column("id"), STORES)
    for bucket in range(STORES):
        pq.write_table(table.filter(pa.array(buckets == bucket)), folder / store_file(bucket, STORES))
        listed.append(ManifestFile(**files.entry_of(folder / store_file(bucket, STORES), folder).to_json()))
    update = {"store_files": STORES, "metadata": tuple(columns), "files": tuple(listed), "partitions": tuple(partitions)}
    manifest.model_copy(update={**update, "items": len(vectors) - gone}).save(folder)
    (root / releases.LIVE_JSON).unlink()
    releases.publish(root, needed_steps=())
    labels = [None if row % 7 == 0 else f"l{row % 5}" for row in range(len(vectors))]
    plain = {name: values.to_pylist() for name, values in columns.items()}
    return Case(open_release(root), vectors, np.arange(gone, len(vectors)), {**plain, "label": labels})
