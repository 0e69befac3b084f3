"""A catalogue of labelled vectors that changes, as Parquet files and a configuration: for the re-index benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from simpipe.embeddings import vectors_column

FILES = 4


@dataclass
class Catalogue:
    """Items by number; `changes` draws new vectors, deletes and adds.

    Attributes:
      numbers: int64[n], ascending, the ids. labels: int64[n]. vectors: float32[n, dim] of unit length. versions: int64[n],
        how often an item was written, a metadata column.
    """

    numbers: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray
    versions: np.ndarray
    centres: np.ndarray
    noise: float
    rng: np.random.Generator

    @classmethod
    def draw(cls, n: int, dim: int, *, labels: int, noise: float = 0.8, seed: int = 0) -> Catalogue:
        """About `n / labels` items of each label, round centres on the unit sphere."""
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(labels, dim))
        centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
        of = rng.integers(labels, size=n)
        empty = np.zeros((n, dim), np.float32)
        catalogue = cls(np.arange(n), of, empty, np.ones(n, np.int64), centres, noise, rng)
        catalogue.vectors = catalogue.near(of)
        return catalogue

    def near(self, labels: np.ndarray) -> np.ndarray:
        """float32[m, dim]: a new vector near the centre of each label."""
        dim = self.centres.shape[1]
        noise = self.rng.standard_normal((len(labels), dim), dtype=np.float32) * np.float32(self.noise / np.sqrt(dim))
        drawn = self.centres[labels] + noise
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def change(self, rows: np.ndarray) -> None:
        """New vectors for rows, near the centres of their labels."""
        self.vectors[rows] = self.near(self.labels[rows])
        self.versions[rows] += 1

    def replace(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Deletes rows, and adds new items of these labels."""
        keep = np.setdiff1d(np.arange(len(self.numbers)), rows)
        new = np.arange(len(labels)) + self.numbers.max() + 1
        self.numbers = np.concatenate([self.numbers[keep], new])
        self.labels = np.concatenate([self.labels[keep], labels])
        self.vectors = np.concatenate([self.vectors[keep], self.near(labels)])
        self.versions = np.concatenate([self.versions[keep], np.ones(len(labels), np.int64)])

    @property
    def ids(self) -> np.ndarray:
        return np.char.add("item-", np.char.zfill(self.numbers.astype(str), 8))

    def table(self, rows: np.ndarray | slice = slice(None)) -> pa.Table:
        """Columns id, label, embedding, version."""
        columns = {
            "id": pa.array(self.ids[rows]),
            "label": pa.array(np.char.add("label-", self.labels[rows].astype(str))),
            "embedding": vectors_column(self.vectors[rows]),
            "version": pa.array(self.versions[rows]),
        }
        return pa.table(columns)

    def write(self, folder: Path, rows: np.ndarray | slice = slice(None), *, parts: int = FILES) -> None:
        """All items, or some, as `part-0.parquet` …"""
        folder.mkdir(parents=True, exist_ok=True)
        table = self.table(rows)
        for number, places in enumerate(np.array_split(np.arange(len(table)), parts)):
            part = table.slice(places[0], len(places))
            pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=65_536, use_dictionary=["label"])


def configure(path: Path, *, source: Path, root: Path, **parts: Any) -> Path:
    """Writes the configuration of a catalogue; `parts` are its further keys."""
    vectors = {"kind": "vectors", "path": str(source), "ids": "id", "labels": "label", "metadata": ["version"]}
    config = {"name": "catalogue", "root": str(root), "source": vectors, **parts}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
