"""Releases with planted attributes for the benchmark of filters.

Three columns of integers 0 to 9,999, so that `{"lot": {"lt": 500}}` fits 5 % of the items: `lot` is drawn independently of the
vectors; `shelf` goes by cluster, so that a filter fits whole clusters and no other items (most queries lie where nothing fits);
`rack` is the one or the other with even chances.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.releases import SEED, Data, build_of, build_release
from benchmarks.vectors import mixture
from simpipe.embeddings import vectors_column

COLUMNS = ("lot", "shelf", "rack")
STEPS = 10_000


def attributes(data: Data) -> dict[str, np.ndarray]:
    """The columns, int64[n] each, of the items of drawn data."""
    law, n = mixture(data.name), len(data.items)
    cluster = np.concatenate([place for _, place in law.labelled(n)])
    rng = np.random.default_rng([SEED, n])
    lot = rng.integers(0, STEPS, n)
    order = np.lexsort((rng.random(n), rng.permutation(law.clusters)[cluster]))
    shelf = np.empty(n, np.int64)
    shelf[order] = np.arange(n) * STEPS // n
    return {"lot": lot, "shelf": shelf, "rack": np.where(rng.random(n) < 0.5, shelf, rng.integers(0, STEPS, n))}


def filtered_release(data: Data, columns: dict[str, np.ndarray], scratch: Path, variant: str, *, memory_mib: int) -> Path:
    """Imports and builds in child processes; see `releases.release`. Returns the release's folder."""
    path = scratch / data.key / "planted.parquet"
    held, n = len(data.held_out), len(data.items)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table = {
            "id": pa.array(data.numbers).cast(pa.string()),
            "embedding": vectors_column(np.concatenate([data.items, data.held_out])),
        }
        table |= {name: pa.array(np.append(values, np.zeros(held, np.int64))) for name, values in columns.items()}
        pq.write_table(pa.table(table), path, row_group_size=1 << 16)
    config: dict[str, Any] = {
        "name": "filters",
        "root": str(scratch / data.key / "filtered" / re.sub(r"[^\w.+-]", "_", variant)),
        "seed": SEED,
        "source": {"kind": "vectors", "path": str(path), "vectors": "embedding", "ids": "id", "metadata": list(COLUMNS)},
        "queries": {"fraction": 1.2 * held / (n + held)},
        "build": {**build_of(variant), "partition_memory_mib": memory_mib},
    }
    return build_release(config, anew=False)[0]
