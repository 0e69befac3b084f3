"""A catalogue that changes, as a dictionary and as the files and releases that must agree with it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import simpipe
from simpipe import files, releases
from simpipe.config import Config, parse_config
from simpipe.embeddings import vectors_column
from simpipe.errors import QueryError
from simpipe.ids import hash_ids, holdout
from simpipe.manifest import Manifest

DIM, FRACTION, SEED = 4, 0.1, 42
POOL = 60
NOT_MEASURED = ("cutpoints.json", "metrics.json")  # what measuring would have written


@dataclass(frozen=True)
class Item:
    """What the oracle knows of an item."""

    vector: tuple[float, ...]
    label: str
    version: int


Truth = dict[str, Item]


@cache
def names() -> tuple[list[str], list[str]]:
    """Ids of items, and of three queries that are always there."""
    ids = [f"item-{number:03d}" for number in range(4 * POOL)]
    held = holdout(ids, FRACTION, SEED)
    return [name for name, out in zip(ids, held, strict=True) if not out][:POOL], [
        name for name, out in zip(ids, held, strict=True) if out
    ][:3]


def new_item(rng: np.random.Generator, version: int) -> Item:
    """An item at one of five places, so that partitions have something to divide."""
    place = int(rng.integers(5))
    centre = np.eye(DIM)[place % DIM] * (10 if place < DIM else -10)
    vector = (centre + rng.normal(size=DIM)).astype(np.float32)
    return Item(tuple(vector.tolist()), f"label-{place}", version)


def config_of(folder: Path) -> Config:
    """Four partitions over a folder of Parquet files; exact search, so that answers can be told exactly."""
    return parse_config(
        {
            "name": "model",
            "root": str(folder / "root"),
            "seed": SEED,
            "source": {
                "kind": "vectors",
                "path": str(folder / "source"),
                "ids": "id",
                "labels": "label",
                "metadata": ["version"],
                "distance": "euclidean",
            },
            "queries": {"fraction": FRACTION},
            "build": {
                "router": {"kind": "kmeans", "partitions": 4},
                "backend": {"kind": "exact"},
                "profile": {"queries": 0},
                "store_files": 3,
            },
            # Whatever the sequence does to the catalogue may go live.
            "gates": {"ann_recall": {}, "items": {"min": 0, "max_drop": None}},
            "reindex": {"max_hidden": 0.2},
        }
    )


def write_source(folder: Path, truth: Truth, *, twice: str | None = None) -> None:
    """The catalogue as two Parquet files; `twice`: an id that stands in both."""
    queries = {name: Item((1.0, 2.0, 3.0, float(number)), "label-0", 0) for number, name in enumerate(names()[1])}
    rows = list({**truth, **queries}.items())
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    if twice is not None:
        halves[0].append((twice, truth[twice]))
        halves[1].append((twice, replace(truth[twice], version=-1)))
    folder.mkdir(parents=True, exist_ok=True)
    for number, half in enumerate(halves):
        write_items(half, folder / f"part-{number}.parquet")


def write_items(rows: Sequence[tuple[str, Item]], path: Path) -> None:
    """Items as a Parquet file of the source."""
    table = pa.table(
        {
            "id": pa.array([name for name, _ in rows], pa.string()),
            "label": pa.array([item.label for _, item in rows], pa.string()),
            "embedding": vectors_column(np.array([item.vector for _, item in rows], np.float32).reshape(-1, DIM)),
            "version": pa.array([item.version for _, item in rows], pa.int64()),
        }
    )
    with files.replacing(path) as temporary:
        pq.write_table(table, temporary)


def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes calibration and evaluation out of a re-index, which the items that a release holds do not depend on."""
    monkeypatch.setattr("pipelines.reindex._Reindex._measure", mark_measured)


def mark_measured(self: Any, folder: Path, manifest: Manifest, embeddings: Path) -> tuple[Path, Manifest]:
    """In the place of `_measure`."""
    del self, embeddings
    key = manifest.steps["build"]
    manifest = manifest.model_copy(update={"steps": {**manifest.steps, "calibrate": key, "evaluate": key}})
    manifest.save(folder)
    return folder, manifest


def first_release(folder: Path, truth: Truth) -> str:
    """Builds and publishes the catalogue in full."""
    from pipelines.line import Line

    write_source(folder / "source", truth)
    line = Line(config_of(folder), say=lambda text: None)
    line.embed()
    built, manifest = line.build()
    assert sum(part.rows > 0 for part in manifest.partitions) >= 3
    mark_measured(None, built, manifest, built)
    return releases.publish(line.root, manifest.release).release


def check_live(root: Path, truth: Truth) -> None:
    """The live release, verified, holds just these items, and finds them as a scan of the dictionary does."""
    with simpipe.open_release(root, verify=True) as searcher:
        ids = sorted(truth)
        assert searcher.items == len(ids)
        if not ids:
            return
        vectors = np.array([truth[name].vector for name in ids], np.float32)
        table = searcher.items_of(ids)
        assert table.column("label").to_pylist() == [truth[name].label for name in ids]
        assert table.column("version").to_pylist() == [truth[name].version for name in ids]
        np.testing.assert_array_equal(searcher.vectors_of(ids), vectors)
        queries = np.concatenate([vectors, vectors[::-1] * np.float32(0.5)])
        k = min(4, len(ids))
        far = np.sqrt(((queries[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2))
        hashes = np.broadcast_to(hash_ids(ids), far.shape)
        order = np.lexsort((hashes, far), axis=1)[:, :k]  # two items may have one vector: the hash of the id decides
        neighbors = searcher.lookup(queries, k)
        assert neighbors.ids.tolist() == np.array(ids, object)[order].tolist()
        np.testing.assert_allclose(neighbors.distances, np.take_along_axis(far, order, axis=1), rtol=1e-5, atol=1e-4)
        gone = [name for name in names()[0] if name not in truth][:3]
        for name in gone:
            with pytest.raises(QueryError):
                searcher.items_of([name])


def killed_reindex(folder: Path, renames: int) -> bool:
    """A re-index and a prune in a process of its own that kills itself before its n-th rename.

    Returns:
      Whether it was killed; else it ended before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.reindex", "simpipe.beam.rebuild", "simpipe.beam.changes"])
    process = context.Process(target=_run_until, args=(str(folder), renames))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run_until(folder: str, renames: int) -> None:
    from pipelines import reindex
    from simpipe.prune import prune

    left, rename, swap = renames, os.rename, os.replace

    def counting(real: Any) -> Any:
        def move(*args: Any, **named: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args, **named)

        return move

    os.rename, os.replace = counting(rename), counting(swap)
    reindex._Reindex._measure = mark_measured  # type: ignore[method-assign]
    config = config_of(Path(folder))
    reindex.run(config, say=lambda text: None)
    prune(files.local(config.root), keep=1)


def copy_of(template: Path, folder: Path) -> None:
    """A root that is there already, for another sequence."""
    shutil.copytree(template / "root", folder / "root")
