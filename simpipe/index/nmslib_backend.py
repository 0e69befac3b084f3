"""NMSLIB's HNSW. Cosine runs as negative dot product on unit vectors, which is cheaper than `cosinesimil`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simpipe.config.index import NmslibBackend
from simpipe.errors import ContractError
from simpipe.index.exact import ExactIndex
from simpipe.index.quiet import quiet_stderr

_FILE = "nmslib.hnsw"
_SPACES = {
    "cosine": "negdotprod",
    "inner_product": "negdotprod",
    "euclidean": "l2",
    "squared_euclidean": "l2",
    "manhattan": "l1",
}


def _library() -> Any:
    with quiet_stderr():  # the wheel says on import that it was built without SSE and AVX
        import nmslib

    return nmslib


class NmslibIndex:
    """One HNSW graph. Its file does not hold the space, and loading another space's file is accepted silently."""

    kind: ClassVar[str] = "nmslib"
    is_exact: ClassVar[bool] = False

    def __init__(self, index: Any, ef: int) -> None:
        self._index = index
        self._ef = ef
        self._lock = threading.Lock()

    @classmethod
    def build(cls, vectors: np.ndarray, config: NmslibBackend, *, distance: str) -> NmslibIndex | ExactIndex:
        """Builds over float32[n, dim]. NMSLIB's graphs differ a little from build to build, also with one thread.

        Many exact duplicates tear an HNSW graph apart (nmslib recall 0.7 to 0.9 in our measurements), so such
        partitions are scanned instead.
        """
        if _share_of_duplicates(vectors) > 0.01:
            return ExactIndex(vectors, distance)
        index = _library().init(method="hnsw", space=_SPACES[distance])
        index.addDataPointBatch(vectors)
        index.createIndex(
            {"M": config.m, "efConstruction": config.ef_construction, "post": 0, "indexThreadQty": os.cpu_count() or 1},
            print_progress=False,
        )
        return cls(index, config.ef)

    @classmethod
    def load(cls, folder: Path, *, distance: str, ef: int) -> NmslibIndex:
        index = _library().init(method="hnsw", space=_SPACES[distance])
        try:
            index.loadIndex(str(folder / _FILE), load_data=True)
        except RuntimeError as error:
            raise ContractError(f"{folder / _FILE}: NMSLIB cannot load it ({error})", "build the release again") from None
        return cls(index, ef)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        with self._lock:  # the width of the search belongs to the whole index
            self._index.setQueryTimeParams({"efSearch": max(self._ef, 2 * k)})
            results = self._index.knnQueryBatch(queries, k=k, num_threads=os.cpu_count() or 1)
        lengths = np.fromiter((len(ids) for ids, _ in results), np.int64, len(results))
        rows = np.full((len(queries), k), -1, np.int64)
        if len(results):
            rows[np.arange(k) < lengths[:, None]] = np.concatenate([ids for ids, _ in results])
        return rows

    def save(self, folder: Path) -> None:
        self._index.saveIndex(str(folder / _FILE), save_data=True)


def _share_of_duplicates(vectors: np.ndarray) -> float:
    rows = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * vectors.itemsize)))
    return 1.0 - len(np.unique(rows)) / len(vectors)
