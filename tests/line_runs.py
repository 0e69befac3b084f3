"""What tests of the line share: a run, and the items of what is live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from reindex_model import mark_measured

import simpipe
from pipelines.line import Line
from simpipe import releases
from simpipe.config import Config


def run(config: Config, beam_args=()) -> tuple[Line, list[str]]:
    said: list[str] = []
    line = Line(config, beam_args, said.append)
    line.run()
    return line, said


def built(config: Config) -> Line:
    """A line whose release is live without having been measured: for tests that look at its items only."""
    line = Line(config, say=lambda text: None)
    line.embed()
    folder, manifest = line.build()
    mark_measured(None, folder, manifest, folder)
    releases.publish(line.root, manifest.release)
    return line


def items_of(root: Path) -> dict[str, tuple[str, bytes]]:
    """Everything the live release holds: id -> label and vector, from the partitions; and the store agrees."""
    searcher = simpipe.open_release(root, verify=True)
    found: dict[str, tuple[str, bytes]] = {}
    places: dict[str, int] = {}
    for about in searcher.manifest.partitions:
        part = searcher.partition(about.partition)
        for row in part.live:
            name = part.ids[row]
            assert name not in found, "no id twice"
            found[name] = (part.labels[row], part.vectors[row].tobytes())
            places[name] = about.partition
    store = pa.concat_tables(
        [pq.read_table(releases.resolve(searcher.folder, entry)) for entry in searcher.manifest.under("store")]
    )
    assert dict(zip(store["id"].to_pylist(), store["partition"].to_pylist(), strict=True)) == places
    assert {name: label for name, (label, _) in found.items()} == dict(
        zip(store["id"].to_pylist(), store["label"].to_pylist(), strict=True)
    )
    assert len(found) == searcher.items
    return found


def broken_vectors(tmp_path: Path, change) -> dict:
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    ids = [f"v{row}" for row in range(200)]
    change(vectors, ids)
    np.save(tmp_path / "x.npy", vectors)
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    return {"kind": "vectors", "path": str(tmp_path / "x.npy"), "ids": str(tmp_path / "ids.txt")}
