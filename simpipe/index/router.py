"""The router sends items to partitions when building, and queries to partitions when asking."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.index import HashRouter, KMeansRouter
from simpipe.ids import bucket_of

ROUTER_FILE = "router.npy"


@dataclass(frozen=True)
class Router:
    """Hash (no centroids) or k-means.

    Attributes:
      partitions: how many.
      centroids: float32[partitions, dim], or None for hash.
    """

    partitions: int
    centroids: np.ndarray | None = None

    def assign(self, ids: pa.Array | pa.ChunkedArray, vectors: np.ndarray) -> np.ndarray:
        """The partition of each item: int64[n]. By id for hash, by nearest centroid for k-means."""
        if self.centroids is None:
            return bucket_of(ids, self.partitions)
        return np.argmin(self._distances(vectors), axis=1)

    def probes(self, queries: np.ndarray, probes: int | None) -> np.ndarray:
        """Which partitions each query asks: bool[n, partitions].

        Args:
          queries: float32[n, dim], prepared.
          probes: partitions a query, nearest centroid first; None asks all. With hash routing every partition may
            hold the nearest neighbor, so all are asked whatever is given.
        """
        asked = np.ones((len(queries), self.partitions), bool)
        if self.centroids is None or probes is None or probes >= self.partitions:
            return asked
        nearest = np.argpartition(self._distances(queries), probes - 1, axis=1)[:, :probes]
        asked[:] = False
        np.put_along_axis(asked, nearest, True, axis=1)
        return asked

    def _distances(self, vectors: np.ndarray) -> np.ndarray:
        assert self.centroids is not None
        return np.einsum("pd,pd->p", self.centroids, self.centroids) - 2.0 * (vectors @ self.centroids.T)

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, self.centroids if self.centroids is not None else np.empty((0, 0), np.float32), allow_pickle=False)
        files.write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, partitions: int) -> Router:
        centroids = np.load(path, allow_pickle=False)
        return cls(partitions, centroids if len(centroids) else None)


def sample_rows(ids: pa.Array | pa.ChunkedArray, *, share: float, seed: int) -> np.ndarray:
    """Which rows a routing sample holds: bool[n]; decided id by id, so that file order does not matter."""
    from simpipe.ids import hash_ids

    return hash_ids(ids, seed=seed + 7).astype(np.float64) < share * 2.0**64


def fit_router(sample: np.ndarray, config: HashRouter | KMeansRouter, *, seed: int) -> Router:
    """Fits a router.

    Args:
      sample: float32[n, dim], prepared vectors in an order that does not depend on the run.
      config: kind and number of partitions; fewer distinct vectors than partitions give fewer partitions.
      seed: for k-means.
    """
    if config.kind == "hash":
        return Router(config.partitions)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    distinct = np.unique(sample, axis=0)
    clusters = min(config.partitions, len(distinct))
    if clusters < 2:
        return Router(1, np.ascontiguousarray(sample.mean(axis=0, keepdims=True), np.float32))
    with threadpool_limits(limits=1):  # sums in several threads differ in the last bit from run to run
        model = KMeans(
            clusters,
            n_init=2,  # pyright: ignore[reportArgumentType]  its stub knows only "auto"
            max_iter=50,
            random_state=seed,
        ).fit(sample)
    return Router(clusters, np.ascontiguousarray(model.cluster_centers_, np.float32))
