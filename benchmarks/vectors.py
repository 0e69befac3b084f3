"""Vectors for the index benchmarks: a generator of clustered unit vectors, any `.npy`, or an embeddings data set.

The generator draws centres on the unit sphere, cluster sizes from a gamma distribution (the largest clusters hold about
six times the mean), and each item as its centre plus Gaussian noise, scaled to length one. The difficulty is the length of
the noise relative to the centre's, up to 30 % more or less from cluster to cluster: at 0.7 (`easy`) clusters stand apart,
at 1.0 (`hard`) their rims mix and the neighbors of an item at the rim lie in several clusters, at 0.8 (`medium`) some do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIFFICULTY = {"easy": 0.7, "medium": 0.8, "hard": 1.0}
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Mixture:
    """A mixture of `clusters` Gaussians on the sphere. Items and queries are drawn by the same law from other seeds."""

    dim: int = 64
    clusters: int = 2000
    noise: float = DIFFICULTY["hard"]
    seed: int = 0

    def draw(self, n: int, stream: int = 0) -> np.ndarray:
        """float32[n, dim] of unit length; the same for the same n and stream.

        Args:
          n: how many. stream: 0 for the items; queries take others.
        """
        out = np.empty((n, self.dim), np.float32)
        first = 0
        for block in self.blocks(n, stream):
            out[first : first + len(block)] = block
            first += len(block)
        return out

    def blocks(self, n: int, stream: int = 0) -> Iterator[np.ndarray]:
        """What `draw` returns, in pieces of bounded size."""
        for block, _ in self.labelled(n, stream):
            yield block

    def labelled(self, n: int, stream: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pieces of what `draw` returns, each with the cluster of every vector, int64[rows]."""
        law = np.random.default_rng(self.seed)
        centres = law.normal(size=(self.clusters, self.dim))
        centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
        weights = law.gamma(2.0, size=self.clusters)
        lengths = (self.noise * law.uniform(0.7, 1.3, size=self.clusters) / np.sqrt(self.dim)).astype(np.float32)
        for first in range(0, n, _BLOCK):
            rng = np.random.default_rng([self.seed, stream, first])
            place = rng.choice(self.clusters, size=min(_BLOCK, n - first), p=weights / weights.sum())
            block = rng.standard_normal((len(place), self.dim), dtype=np.float32)
            block *= lengths[place, None]
            block += centres[place]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            yield block, place


def mixture(name: str, dim: int = 64) -> Mixture:
    """The mixture of a difficulty, `easy`, `medium`, `hard`, or a noise length."""
    return Mixture(dim=dim, noise=DIFFICULTY.get(name) or float(name))


def load(name: str, n: int, queries: int, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Items float32[n, dim] and queries float32[q, dim], all of unit length.

    Args:
      name: `easy`, `medium`, `hard`, a noise length such as `0.85`, an `.npy` file, or a folder of embeddings in Parquet.
      n, queries: how many to draw; of files all items are taken, but for every so-manieth, which becomes a query.
      dim: of drawn vectors.
    """
    path = Path(name)
    if path.suffix == ".npy" or path.is_dir():
        vectors = np.load(path) if path.suffix == ".npy" else _parquet(path)
        vectors = np.ascontiguousarray(vectors, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        held = np.random.default_rng(0).permutation(len(vectors))[: min(queries, len(vectors) // 10)]
        mask = np.zeros(len(vectors), bool)
        mask[held] = True
        return vectors[~mask], vectors[mask]
    law = mixture(name, dim)
    return law.draw(n), law.draw(queries, stream=1)


def _parquet(folder: Path) -> np.ndarray:
    import pyarrow.parquet as pq

    from simpipe.embeddings import vectors_of

    return np.concatenate([vectors_of(pq.read_table(path, columns=["embedding"])) for path in sorted(folder.glob("*.parquet"))])
