"""NMSLIB's HNSW. Cosine runs as negative dot product on unit vectors, which is cheaper than `cosinesimil`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simpipe.config.index import NmslibBackend
from simpipe.errors import ContractError
from simpipe.index.backend import NO_SETTINGS, Ladder, check_block
from simpipe.index.distinct import Groups, group_equal
from simpipe.index.quiet import quiet_stderr

_FILE = "nmslib.hnsw"
_SPACES = {
    "cosine": "negdotprod",
    "inner_product": "negdotprod",
    "euclidean": "l2",
    "squared_euclidean": "l2",
    "manhattan": "l1",
}
_EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 480, 720, 1080)
_CHECKED = 512
_FOUND = 0.995
_SMALL = 20_000


def _library() -> Any:
    with quiet_stderr():  # the wheel says on import that it was built without SSE and AVX
        import nmslib

    return nmslib


def ladder(k: int) -> Ladder:
    """Widths of the search, from k up."""
    return tuple({"ef": ef} for ef in _EFS if ef >= k) or ({"ef": k}, {"ef": 2 * k})


class NmslibIndex:
    """One HNSW graph over the distinct vectors. Its file does not hold the space, and loading another space's file is accepted
    silently."""

    kind: ClassVar[str] = "nmslib"
    is_exact: ClassVar[bool] = False
    needs_unit_norm: ClassVar[bool] = True
    supports_update: ClassVar[bool] = False

    def __init__(self, index: Any, groups: Groups | None, *, dim: int, ef: int) -> None:
        self._index, self._groups, self._dim, self._ef = index, groups, dim, ef
        self._lock = threading.Lock()

    @classmethod
    def build(cls, vectors: np.ndarray, config: NmslibBackend, *, distance: str) -> NmslibIndex:
        """Builds over float32[n, dim]. NMSLIB's graphs differ a little from build to build, also with one thread.

        Threads that insert the first items at the same time may leave a cluster that stands apart without a link to it
        (of 25 graphs of 2,000 items in 20 clusters one had lost a cluster, none built by one thread). So small graphs are
        built by one thread, and every graph is asked for items of its own; one that does not find them is built again.
        """
        groups = group_equal(vectors)
        held = vectors if groups is None else vectors[groups.first]
        threads = 1 if len(held) < _SMALL else os.cpu_count() or 1
        index = cls(_graph(held, config, distance, threads), groups, dim=vectors.shape[1], ef=config.ef)
        if threads > 1 and not index._finds(held, distance):
            index = cls(_graph(held, config, distance, 1), groups, dim=vectors.shape[1], ef=config.ef)
        return index

    def _finds(self, held: np.ndarray, distance: str) -> bool:
        if distance == "inner_product":  # an item need not be its own nearest
            return True
        rows = np.unique(np.linspace(0, len(held) - 1, _CHECKED).astype(np.int64))
        found = self._ask(np.ascontiguousarray(held[rows]), 1, max(self._ef, 100), os.cpu_count() or 1)
        return bool((found[:, 0] == rows).mean() >= _FOUND)

    @classmethod
    def load(cls, folder: Path, shape: tuple[int, ...], *, distance: str, params: Mapping[str, Any]) -> NmslibIndex:
        index = _library().init(method="hnsw", space=_SPACES[distance])
        groups = Groups.load(folder, shape[0])
        try:
            index.loadIndex(os.fspath(folder / _FILE), load_data=True)
        except RuntimeError as error:
            raise ContractError(f"{folder / _FILE}: NMSLIB cannot load it ({error})", "build the release again") from None
        expected = shape[0] if groups is None else len(groups)
        if len(index) != expected:
            raise ContractError(f"{folder / _FILE}: {len(index)} vectors for {expected}", "build the release again")
        return cls(index, groups, dim=shape[1], ef=int(params["ef"]))

    def search(self, queries: np.ndarray, k: int, *, settings: Mapping[str, int] = NO_SETTINGS, threads: int = 1) -> np.ndarray:
        found = self._ask(check_block(queries, self._dim), k, int(settings.get("ef", self._ef)), threads)
        return found if self._groups is None else self._groups.expand(found, k)

    def ladder(self, k: int) -> Ladder:
        return ladder(k)

    def _ask(self, queries: np.ndarray, k: int, ef: int, threads: int) -> np.ndarray:
        with self._lock:  # the width of the search belongs to the whole index; concurrent `knnQuery` hung
            self._index.setQueryTimeParams({"efSearch": max(ef, k)})
            results = self._index.knnQueryBatch(queries, k=k, num_threads=threads)
        lengths = np.fromiter((len(ids) for ids, _ in results), np.int64, len(results))
        rows = np.full((len(queries), k), -1, np.int64)
        if len(results):
            rows[np.arange(k) < lengths[:, None]] = np.concatenate([ids for ids, _ in results])
        return rows

    def save(self, folder: Path) -> None:
        self._index.saveIndex(str(folder / _FILE), save_data=True)
        if self._groups is not None:
            self._groups.save(folder)


def _graph(vectors: np.ndarray, config: NmslibBackend, distance: str, threads: int) -> Any:
    index = _library().init(method="hnsw", space=_SPACES[distance])
    index.addDataPointBatch(vectors)
    how = {"M": config.m, "efConstruction": config.ef_construction, "post": 0, "indexThreadQty": threads}
    index.createIndex(how, print_progress=False)
    return index
