"""What tests of changes share: catalogues of vectors as dictionaries, releases of them, and what a comparison found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import build, changes, import_vectors
from simpipe.config import Config, parse_config
from simpipe.config.models import VectorsSource
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.ids import holdout
from simpipe.manifest import Manifest
from simpipe.reindex.changes import ADDED, CHANGED, DELETED, ChangesInfo

DIM, STORE_FILES = 4, 11
# id -> (label, vector, price)
Catalogue = dict[str, tuple[str | None, tuple[float, ...], int | None]]


def make_catalogue(n: int, *, seed: int = 0, prefix: str = "item") -> Catalogue:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return {
        f"{prefix}-{row}": (None if row % 9 == 0 else f"c{row % 5}", tuple(vectors[row].tolist()), None if row % 4 == 0 else row)
        for row in range(n)
    }


def write_catalogue(path: Path, catalogue: Catalogue, *, group: int = 40) -> Path:
    """As Parquet with small row groups: each is a block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(catalogue.values())
    table = pa.table(
        {
            "name": pa.array(list(catalogue), pa.string()),
            "class": pa.array([row[0] for row in rows], pa.string()),
            "embedding": pa.array([row[1] for row in rows], pa.list_(pa.float32())),
            "price": pa.array([row[2] for row in rows], pa.int64()),
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def config_of(root: Path, path: Path, **changed) -> Config:
    source = {"kind": "vectors", "path": str(path), "ids": "name", "labels": "class", "metadata": ["price"]}
    raw = {
        "name": "changes",
        "root": str(root),
        "source": source,
        "queries": {"fraction": 0.2},
        "build": {"router": {"kind": "hash", "partitions": 2}, "backend": {"kind": "exact"}, "store_files": STORE_FILES},
    }
    return parse_config({**raw, **changed})


def release_of(config: Config) -> tuple[Path, Manifest]:
    """Imports and builds, without the rest of the line."""
    key = "base" * 16
    root = Path(config.root)
    import_vectors.run(config, folder=root / "embeddings" / key[:12], key=key)
    return build.run(config, root=root, embeddings=root / "embeddings" / key[:12], encoder=None, key="build")


@dataclass(frozen=True)
class Found:
    """A comparison: its records, and the data set read back."""

    info: EmbeddingsInfo
    changes: ChangesInfo
    folder: Path

    def kinds(self, *, query: bool) -> dict[str, int]:
        """id -> kind; every file's ids ascend, and each file holds those of its bucket."""
        tables = [self.changes.read(self.folder, number) for number in range(len(self.changes.files))]
        for table in tables:
            assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
        rows = pa.concat_tables(tables).to_pylist()
        found = {row["id"]: row["kind"] for row in rows if row["query"] == query}
        assert len(found) == sum(row["query"] == query for row in rows), "no id twice"
        return found

    def held(self, split: str) -> Catalogue:
        """What the data set's files of a split hold."""
        found: Catalogue = {}
        for file in self.info.of_splits(split):
            table = pq.read_table(self.folder / file.path)
            assert len(table) == file.rows > 0, "no file without rows"
            for row, vector in zip(table.to_pylist(), vectors_of(table).tolist(), strict=True):
                assert row["id"] not in found
                found[row["id"]] = (row["label"], tuple(vector), row["price"])
        return found


def compare(config: Config, base: tuple[Path, Manifest], key: str = "k" * 64, **present) -> Found:
    folder = Path(config.root) / "embeddings" / key[:12]
    source = config.source if isinstance(config.source, VectorsSource) else None
    given = changes.Present(**{"source": source, **present})
    info, about = changes.run(config, given, base=base[0], manifest=base[1], folder=folder, key=key)
    return Found(info, about, folder)


def check(
    found: Found, before: Catalogue, now: Catalogue, *, fraction: float = 0.2, seed: int = 42, was: float | None = None
) -> None:
    """Everything that a comparison says, against plain dictionaries. `was`: the fraction of queries in the base."""
    sides = []
    for catalogue, share in ((before, fraction if was is None else was), (now, fraction)):
        held = dict(zip(catalogue, holdout(list(catalogue), share, seed).tolist(), strict=True))
        sides.append([{name: row for name, row in catalogue.items() if held[name] == query} for query in (False, True)])
    for query, counts in ((False, found.changes.items), (True, found.changes.queries)):
        old, new = sides[0][query], sides[1][query]
        added = {name for name in new if name not in old}
        changed = {name for name in new if name in old and new[name] != old[name]}
        deleted = {name for name in old if name not in new}
        expected = dict.fromkeys(added, ADDED) | dict.fromkeys(changed, CHANGED) | dict.fromkeys(deleted, DELETED)
        assert found.kinds(query=query) == expected
        assert (counts.added, counts.changed, counts.deleted) == (len(added), len(changed), len(deleted))
        assert counts.unchanged == len(new) - len(added) - len(changed)
        if not query:
            assert found.held("index") == {name: new[name] for name in added | changed}
        elif found.changes.any:
            assert found.held("query") == new
