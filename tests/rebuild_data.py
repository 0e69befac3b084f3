"""Releases over a dictionary of items, and what changed between two of them, written as the line writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import build, rebuild
from simpipe import files, releases
from simpipe.beam import rebuild as graph
from simpipe.beam.io import MergeOutcomes
from simpipe.config import Config, parse_config
from simpipe.digests import digest_rows, digests_file, read_digests
from simpipe.embeddings import EmbeddingsFile, EmbeddingsInfo, schema, vectors_column
from simpipe.ids import bucket_of
from simpipe.index.distance import between, prepare
from simpipe.index.searcher import open_release
from simpipe.manifest import Manifest
from simpipe.reindex.changes import ADDED, CHANGED, DELETED, SCHEMA, ChangeCounts, ChangesFile, ChangesInfo, changes_file

NUMBER = [pa.field("number", pa.int64())]


@dataclass(frozen=True)
class Item:
    vector: tuple[float, ...]
    label: str | None
    number: int


Truth = dict[str, Item]


def make_config(root: Path, *, distance: str = "euclidean", **fields: Any) -> Config:
    build_fields = {
        "router": {"kind": "kmeans", "partitions": 4},
        "backend": {"kind": "exact"},
        "store_files": 3,
        "profile": {"queries": 0},
        **fields.pop("build", {}),
    }
    source = {"kind": "vectors", "path": str(root / "none.npy"), "distance": distance}
    return parse_config({"name": "rebuild", "root": str(root), "source": source, "build": build_fields, **fields})


def make_truth(vectors: np.ndarray) -> Truth:
    return {
        f"i{row}": Item(tuple(vector.tolist()), None if row % 7 == 0 else f"l{row % 5}", row)
        for row, vector in enumerate(vectors)
    }


def table_of(items: Truth, dim: int, distance: str = "euclidean") -> pa.Table:
    kind = schema(dim, distance=distance, encoder="none", metadata=NUMBER, digests=True)
    vectors = np.array([item.vector for item in items.values()], np.float32).reshape(-1, dim)
    content = {
        "label": pa.array([item.label for item in items.values()], pa.string()),
        "embedding": vectors_column(vectors),
        "number": pa.array([item.number for item in items.values()], pa.int64()),
    }
    digest = digest_rows(content) if items else pa.array([], pa.binary(16))
    columns = [pa.array(list(items), pa.string()), content["label"], content["embedding"], digest, content["number"]]
    return pa.table(columns, schema=kind)


def write_embeddings(folder: Path, items: Truth, dim: int, distance: str = "euclidean") -> EmbeddingsInfo:
    """Two files of items and one of queries."""
    table = table_of(items, dim, distance)
    half = len(table) // 2
    parts = {"index-0.parquet": table[:half], "index-1.parquet": table[half:]}
    parts["query-0.parquet"] = table_of({"q0": Item((1.0,) * dim, "l0", 0)}, dim, distance)
    listed = []
    folder.mkdir(parents=True)
    for name, part in parts.items():
        pq.write_table(part, folder / name)
        entry = files.entry_of(folder / name, folder)
        split: Any = name.split("-")[0]
        listed.append(EmbeddingsFile(path=name, split=split, rows=len(part), size=entry.size, sha256=entry.sha256))
    info = EmbeddingsInfo(
        key=files.digest([folder.name, sorted(items)]), dim=dim, distance=distance, encoder="none", metadata=("number",),
        files=tuple(listed), counts={}, provenance={},
    )  # fmt: skip
    info.save(folder)
    return info


def full_build(config: Config, folder: Path, items: Truth, dim: int, name: str = "full") -> tuple[Path, Manifest]:
    distance = config.source.distance  # type: ignore[union-attr]
    write_embeddings(folder / name, items, dim, distance)
    root = files.local(config.root)
    return build.run(config, root=root, embeddings=folder / name, encoder=None, key=files.digest([name, sorted(items)]))


def write_delta(folder: Path, manifest: Manifest, old: Truth, new: Truth) -> ChangesInfo:
    """What leads from one truth to another: an embeddings data set and its changes."""
    fresh = {name: item for name, item in new.items() if old.get(name) != item}
    write_embeddings(folder, fresh, manifest.dim, manifest.distance)
    kinds = {name: CHANGED if name in old else ADDED for name in fresh} | {name: DELETED for name in old if name not in new}
    table = pa.table(
        [
            pa.array(list(kinds), pa.string()),
            pa.array(list(kinds.values()), pa.int8()),
            pa.array(np.zeros(len(kinds), bool)),
        ],
        schema=SCHEMA,
    )
    # A query that shares nothing with the items but the files.
    query = pa.table([pa.array(["q9"]), pa.array([DELETED], pa.int8()), pa.array([True])], schema=SCHEMA)
    table = pa.concat_tables([table, query]).sort_by("id")
    buckets, listed = bucket_of(table.column("id"), manifest.store_files), []
    (folder / "changes").mkdir()
    for bucket in range(manifest.store_files):
        path = folder / changes_file(bucket, manifest.store_files)
        pq.write_table(table.filter(pa.array(buckets == bucket)), path)
        listed.append(ChangesFile(**{k: v for k, v in files.entry_of(path, folder).to_json().items() if k != "release"}))
    counts = {
        kind: sum(value == code for value in kinds.values()) for kind, code in (("added", 1), ("changed", 2), ("deleted", 3))
    }
    info = ChangesInfo(
        base=manifest.release, items=ChangeCounts(**counts, unchanged=len(new) - len(fresh)),
        queries=ChangeCounts(deleted=1), files=tuple(listed),
    )  # fmt: skip
    info.save(folder)
    return info


def reindex(
    config: Config, folder: Path, built: tuple[Path, Manifest], old: Truth, new: Truth, name: str
) -> tuple[Path, Manifest] | rebuild.RetrainNeeded:
    base, manifest = built
    write_delta(folder / name, manifest, old, new)
    return rebuild.run(
        config, root=files.local(config.root), base=base, manifest=manifest, delta=folder / name, key=files.digest(name)
    )


def in_this_process(self: Any, transform: Any, summary: str) -> Any:
    """In the place of `_graph`: the same work items one after the other, where a test makes many releases."""
    del self, summary
    spec = transform.spec
    if isinstance(transform, graph.FindChanges):
        found = [graph._route(number, spec) for number in range(len(spec.files))]
        found += [graph._locate(number, spec) for number in range(transform.partitions)]
    else:
        found = [graph._partition(work, spec) for work in transform.work]
        found += [graph._store(number, [], spec, transform.work, transform.changes) for number in transform.buckets]
    return MergeOutcomes().merge_accumulators(found)


def check(folder: Path, manifest: Manifest, truth: Truth, *, tolerance: float = 0.0) -> None:
    """Everything that a release says of its items agrees with the dictionary; all files are verified."""
    releases.verify_release(folder, manifest)
    searcher = open_release(folder.parent.parent, manifest.release, verify=True)
    names = sorted(truth)
    assert searcher.items == manifest.items == len(names)
    table = table_of({name: truth[name] for name in names}, manifest.dim, manifest.distance)
    digests = [read_digests(searcher.file(digests_file(n, manifest.store_files))) for n in range(manifest.store_files)]
    got = pa.concat_tables(digests).sort_by("id")
    assert got.column("id").to_pylist() == names
    assert got.column("digest").to_pylist() == table.column("digest").to_pylist()
    if not names:
        return
    found = searcher.items_of(names)
    assert found.column("label").to_pylist() == table.column("label").to_pylist()
    assert found.column("number").to_pylist() == table.column("number").to_pylist()
    vectors = prepare(np.array([truth[name].vector for name in names], np.float32), manifest.distance)
    stored = searcher.vectors_of(names)
    assert np.abs(stored - vectors).max() <= tolerance
    live: dict[str, int] = {}
    for about in manifest.partitions:
        part = searcher.partition(about.partition)
        assert (len(part.rows), part.live_rows) == (about.rows, about.live)
        ids = part.ids[part.live].tolist()
        assert len(set(ids)) == len(ids)
        for each in ids:
            live[each] = live.get(each, 0) + 1
    assert sorted(live) == names
    if searcher.router.spill == "none":
        assert set(live.values()) == {1}
    asked = prepare(vectors[:: max(1, len(names) // 25)] + np.float32(0.01), manifest.distance)
    neighbors = searcher.lookup(asked, 5, exact=True)
    far = np.stack([between(query[None], stored[None], manifest.distance)[0] for query in asked])
    np.testing.assert_allclose(neighbors.distances, np.sort(far, axis=1)[:, :5], rtol=1e-5, atol=1e-6)
    assert all(len(set(line)) == len(line) for line in neighbors.ids.tolist()), "no item twice in an answer"


def change(truth: Truth, rng: np.random.Generator, *, add: int, alter: int, drop: int, dim: int) -> Truth:
    """Another truth: some items are new, others have another vector, label or number, others are gone."""
    out = dict(truth)
    names = rng.permutation(sorted(truth)).tolist()
    for name in names[:drop]:
        del out[name]
    for name in names[drop : drop + alter]:
        vector = rng.normal(size=dim) if rng.random() < 0.7 else np.array(out[name].vector)
        out[name] = Item(tuple(np.asarray(vector, np.float32).tolist()), f"l{rng.integers(9)}", int(rng.integers(1 << 30)))
    free = [name for name in (f"i{number}" for number in range(len(truth) * 3 + 50)) if name not in truth]
    for name in free[:add]:
        out[name] = Item(tuple(rng.normal(size=dim).astype(np.float32).tolist()), None, int(rng.integers(1 << 30)))
    return out
