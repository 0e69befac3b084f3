"""Asks the live release for every item it holds: each id must come back as its own nearest neighbor, none twice.

By vector alone an item with exact twins may come after one of them, at the same distance; by id it comes first.

    python benchmarks/self_neighbors.py runs/omniglot

Compares the ids with those of the examples data set that went in (its index and train splits). Prints a JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

import simpipe
from simpipe.embeddings import EmbeddingsInfo


def main(root: Path) -> None:
    searcher = simpipe.open_release(root, verify=True)
    folder = root / "embeddings" / str(searcher.manifest.provenance["embeddings"])[:12]
    went_in = [
        name
        for file in EmbeddingsInfo.load(folder).of_splits("train", "index")
        for name in pq.read_table(folder / file.path, columns=["id"]).column("id").to_pylist()
    ]
    found: list[str] = []
    farther = twins = other = 0
    for about in searcher.manifest.partitions:
        part = searcher.partition(about.partition)
        names = part.ids[part.live]
        nearest = searcher.lookup(part.vectors[part.live], 1)
        found += names.tolist()
        first = nearest.ids[:, 0] != names
        twins += int((first & (nearest.distances[:, 0] == 0)).sum())
        farther += int((first & (nearest.distances[:, 0] > 0)).sum())
        by_id = searcher.lookup_items(names.tolist(), 2)
        other += int((by_id.ids[:, 0] != names).sum() + (by_id.distances[:, 0] != 0).sum())
    result = {
        "items": searcher.items,
        "partitions": len(searcher.manifest.partitions),
        "backends": sorted({about.backend for about in searcher.manifest.partitions}),
        "classes": len({label for about in searcher.manifest.partitions for label in searcher.partition(about.partition).labels}),
        "ids_in_equal_ids_out": sorted(found) == sorted(went_in),
        "ids_twice": len(found) - len(set(found)),
        "by_vector_behind_an_exact_twin": twins,
        "by_vector_not_nearest": farther,
        "by_id_not_first": other,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
