"""Vectors as `.npy` files that can be memory-mapped, and the items' other columns as Parquet in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.exports.contract import Contents, Finished, Place, Plan, Written
from simpipe.exports.item_file import carried_as_stored, item_file
from simpipe.items import ItemBlock

PATTERN = "items-*.parquet"
_FILE_BYTES = 1 << 30
DISTANCES = {
    "cosine": "vectors have unit norm: distance = 1 - q·v, which is half of the squared difference",
    "inner_product": "distance = -(q·v)",
    "euclidean": "distance = |q - v|",
    "squared_euclidean": "distance = |q - v|²",
    "manhattan": "distance = sum of |q_i - v_i|",
}


def plan(contents: Contents) -> Plan:
    """Every column is carried as it is."""
    return Plan(contents, max(1, _FILE_BYTES // (4 * contents.dim)), carried_as_stored(contents.fields))


def write(blocks: Iterator[ItemBlock], place: Place, plan: Plan) -> Written:
    """Writes `vectors-NAME.npy`, float32[rows, dim], and `items-NAME.parquet` with as many rows."""
    vectors, items = place.folder / f"vectors-{place.name}.npy", place.folder / f"items-{place.name}.parquet"
    kind, done = plan.contents.item_schema, 0
    with files.replacing(vectors) as temporary, item_file(items, kind) as writer:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(place.rows, plan.contents.dim))
        for block in blocks:
            out[done : done + len(block)] = block.vectors
            writer.write_table(block.table.cast(kind))
            done += len(block)
        out.flush()
        del out
    return Written((vectors, items), done)


def finish(folder: Path, plan: Plan, records: Sequence[Mapping[str, Any]], *, memory: int) -> Finished:
    """Nothing is left to write."""
    del folder, plan, records, memory
    return Finished(
        reading=(
            "import numpy as np, pyarrow.parquet as pq, pathlib",
            'names = sorted(path.stem.removeprefix("items-") for path in pathlib.Path(OUT).glob("items-*.parquet"))',
            'vectors = [np.load(f"{OUT}/vectors-{name}.npy", mmap_mode="r") for name in names]  # float32[n, dim] each',
            'items = [pq.read_table(f"{OUT}/items-{name}.parquet") for name in names]  # row i belongs to vector i',
        )
    )
