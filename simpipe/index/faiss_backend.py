"""FAISS (optional): HNSW, or inverted lists over k-means cells. Files are FAISS's own (`write_index`), nothing is pickled."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simpipe.config.index import FaissBackend
from simpipe.errors import ConfigError, ContractError
from simpipe.index.backend import NO_SETTINGS, Ladder, check_block
from simpipe.index.distinct import Groups, group_equal

_FILE = "faiss.index"
_MEASURES = {
    "cosine": "METRIC_INNER_PRODUCT",
    "inner_product": "METRIC_INNER_PRODUCT",
    "euclidean": "METRIC_L2",
    "squared_euclidean": "METRIC_L2",
}
_TRAINED = 40  # vectors a list that k-means is trained on: fewer make FAISS warn
_EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 480, 720, 1080)
_SHARES = (0.002, 0.004, 0.006, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.17, 0.25, 0.4, 0.7)


def _library() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(f"the backend faiss is not installed ({error})", "pip install 'simpipe[faiss]'") from None
    return faiss


def lists_of(config: FaissBackend, n: int) -> int:
    """Inverted lists for n items: about 4 sqrt(n), as FAISS's guidelines say, while k-means has enough to train on."""
    return min(n, config.lists or max(1, min(n // _TRAINED, round(4 * math.sqrt(n)))))


def effort_of(config: FaissBackend, n: int) -> int:
    """efSearch, or lists probed: as configured, else 200, or an eighth of the lists."""
    return config.effort or (200 if config.index == "hnsw" else max(16, lists_of(config, n) // 8))


def ladder(config: FaissBackend, n: int, k: int) -> Ladder:
    """Widths of the search from k up, or numbers of lists."""
    if config.index == "hnsw":
        return tuple({"effort": ef} for ef in _EFS if ef >= k) or ({"effort": k}, {"effort": 2 * k})
    lists = lists_of(config, n)
    return tuple({"effort": effort} for effort in sorted({max(1, round(lists * share)) for share in _SHARES}))


class FaissIndex:
    """One FAISS index; HNSW over the distinct vectors."""

    kind: ClassVar[str] = "faiss"
    is_exact: ClassVar[bool] = False
    needs_unit_norm: ClassVar[bool] = True
    supports_update: ClassVar[bool] = False

    def __init__(self, index: Any, groups: Groups | None, config: FaissBackend, n: int) -> None:
        self._index, self._groups, self._config, self._n = index, groups, config, n
        self._effort = effort_of(config, n)

    @classmethod
    def build(cls, vectors: np.ndarray, config: FaissBackend, *, distance: str) -> FaissIndex:
        """Builds over float32[n, dim].

        Raises:
          ConfigError: FAISS is not installed, or does not know the distance.
        """
        faiss = _library()
        measure = _measure(faiss, distance)
        n, dim = vectors.shape
        faiss.omp_set_num_threads(os.cpu_count() or 1)  # of this thread's searches and builds
        groups = group_equal(vectors) if config.index == "hnsw" else None
        held = np.ascontiguousarray(vectors if groups is None else vectors[groups.first])
        if config.index == "hnsw":
            index = faiss.IndexHNSWFlat(dim, config.m, measure)
            index.hnsw.efConstruction = config.ef_construction
        else:
            cells = faiss.IndexFlat(dim, measure)
            index = faiss.IndexIVFFlat(cells, dim, lists_of(config, n), measure)
            index.cp.min_points_per_centroid = 1
            index.train(held)
        index.add(held)
        return cls(index, groups, config, n)

    @classmethod
    def load(cls, folder: Path, shape: tuple[int, ...], *, distance: str, params: Mapping[str, Any]) -> FaissIndex:
        faiss = _library()
        path = folder / _FILE
        groups = Groups.load(folder, shape[0])
        try:
            index = faiss.read_index(os.fspath(path))
        except (RuntimeError, MemoryError) as error:
            raise ContractError(f"{path}: FAISS cannot load it ({error})", "build the release again") from None
        expected = (shape[0] if groups is None else len(groups), shape[1], _measure(faiss, distance))
        held = (index.ntotal, index.d, index.metric_type)
        if held != expected:
            raise ContractError(f"{path}: (vectors, dim, measure) are {held}, not {expected}", "build the release again")
        return cls(index, groups, FaissBackend.model_validate({**params, "kind": "faiss"}), shape[0])

    def search(self, queries: np.ndarray, k: int, *, settings: Mapping[str, int] = NO_SETTINGS, threads: int = 1) -> np.ndarray:
        faiss = _library()
        queries = check_block(queries, self._index.d)
        if not len(queries):
            return np.empty((0, k), np.int64)
        effort = int(settings.get("effort", self._effort))
        if self._config.index == "hnsw":
            how = faiss.SearchParametersHNSW(efSearch=max(effort, k))
        else:
            how = faiss.SearchParametersIVF(nprobe=effort)
        faiss.omp_set_num_threads(threads)
        _, rows = self._index.search(queries, min(k, self._index.ntotal), params=how)
        return rows if self._groups is None else self._groups.expand(rows, k)

    def ladder(self, k: int) -> Ladder:
        return ladder(self._config, self._n, k)

    def save(self, folder: Path) -> None:
        _library().write_index(self._index, str(folder / _FILE))
        if self._groups is not None:
            self._groups.save(folder)


def _measure(faiss: Any, distance: str) -> int:
    if distance not in _MEASURES:
        raise ConfigError(f"FAISS is not offered with {distance} distance", "use the backend nmslib or exact")
    return int(getattr(faiss, _MEASURES[distance]))
