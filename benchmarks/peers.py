"""The libraries that the index is compared with, each over all items: build, save, load, search on one thread."""

from __future__ import annotations

import importlib
import math
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

M, EF_CONSTRUCTION = 16, 200
_EF = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 160, 200, 300, 400, 600)
_LEAVES = (2, 3, 5, 8, 12, 16, 24, 36, 54, 80, 120, 180, 270, 400)
_REORDER = (15, 20, 30, 45, 70, 100, 150, 250)


class Peer(Protocol):
    """One index over unit vectors float32[n, dim]; nearest is the largest inner product."""

    name: ClassVar[str]

    def build(self, x: np.ndarray, threads: int) -> None: ...

    def save(self, path: Path) -> None: ...

    def load(self, path: Path, x: np.ndarray) -> None: ...

    def params(self) -> list[dict[str, int]]:
        """Search parameters to sweep."""
        ...

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        """What the library answers to a batch, on one thread; `rows` makes int64[n, k] of it."""
        ...


class Hnswlib:
    name: ClassVar[str] = "hnswlib"

    def build(self, x: np.ndarray, threads: int) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", x.shape[1])
        self._index.init_index(len(x), M=M, ef_construction=EF_CONSTRUCTION)
        self._index.add_items(x, num_threads=threads)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def load(self, path: Path, x: np.ndarray) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", x.shape[1])
        self._index.load_index(str(path))

    def params(self) -> list[dict[str, int]]:
        return [{"ef": ef} for ef in _EF]

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        self._index.set_ef(param["ef"])
        return self._index.knn_query(queries, k=k, num_threads=1)[0]


class FaissHnsw:
    name: ClassVar[str] = "faiss"

    def build(self, x: np.ndarray, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self._index: Any = self._made(x)

    def _made(self, x: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(x.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(x)
        return index

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    def load(self, path: Path, x: np.ndarray) -> None:
        import faiss

        self._index = faiss.read_index(str(path))

    def params(self) -> list[dict[str, int]]:
        return [{"ef": ef} for ef in _EF]

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        import faiss

        faiss.omp_set_num_threads(1)
        self._index.hnsw.efSearch = param["ef"]
        return self._index.search(queries, k)[1]


class FaissIvf(FaissHnsw):
    """4 sqrt(n) lists of plain vectors."""

    name: ClassVar[str] = "faiss_ivf"

    def _made(self, x: np.ndarray) -> Any:
        import faiss

        lists = max(1, min(len(x) // 39, round(4 * math.sqrt(len(x)))))
        self._quantizer = faiss.IndexFlatIP(x.shape[1])
        index = faiss.IndexIVFFlat(self._quantizer, x.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(x)
        index.add(x)
        return index

    def params(self) -> list[dict[str, int]]:
        return [{"nprobe": lists} for lists in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)]

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        import faiss

        faiss.omp_set_num_threads(1)
        self._index.nprobe = param["nprobe"]
        return self._index.search(queries, k)[1]


class Nmslib:
    name: ClassVar[str] = "nmslib"

    def _empty(self) -> Any:
        import nmslib

        return nmslib.init(method="hnsw", space="negdotprod")

    def build(self, x: np.ndarray, threads: int) -> None:
        self._index = self._empty()
        self._index.addDataPointBatch(x)
        self._index.createIndex({"M": M, "efConstruction": EF_CONSTRUCTION, "post": 0, "indexThreadQty": threads})

    def save(self, path: Path) -> None:
        self._index.saveIndex(str(path), save_data=True)

    def load(self, path: Path, x: np.ndarray) -> None:
        self._index = self._empty()
        self._index.loadIndex(str(path), load_data=True)

    def params(self) -> list[dict[str, int]]:
        return [{"ef": ef} for ef in _EF]

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        self._index.setQueryTimeParams({"efSearch": param["ef"]})
        return self._index.knnQueryBatch(queries, k=k, num_threads=1)


class _Scann(ABC):
    """Tree with SOAR spill, asymmetric hashing, reordering.

    `min_partition_size` is set: by default (50) ScaNN merges most of the leaves when it trains on fewer items a leaf than that.
    """

    @abstractmethod
    def _leaves(self, n: int) -> int:
        """How many leaves for n items."""

    def build(self, x: np.ndarray, threads: int) -> None:
        builder = scann().builder(x, 10, "dot_product")
        builder.set_n_training_threads(threads)
        leaves = min(self._leaves(len(x)), len(x) // 2)
        sample = min(len(x), max(250_000, 40 * leaves))
        builder = builder.tree(
            leaves,
            min(leaves, 10),
            training_sample_size=sample,
            min_partition_size=max(1, min(50, sample // leaves // 3)),
            soar_lambda=1.5,
            overretrieve_factor=2.0,
        )
        self._index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._index.serialize(str(path), relative_path=True)

    def load(self, path: Path, x: np.ndarray) -> None:
        self._index = scann().load_searcher(str(path))
        self._most = self._leaves(len(x))

    def params(self) -> list[dict[str, int]]:
        return [{"leaves": leaves, "reorder": most} for leaves in _LEAVES if leaves <= self._most for most in _REORDER]

    def search(self, queries: np.ndarray, k: int, **param: int) -> Any:
        return self._index.search_batched(queries, k, max(param["reorder"], k), param["leaves"])[0]


class ScannRoot(_Scann):
    """sqrt(n) leaves."""

    name: ClassVar[str] = "scann_sqrt"

    def _leaves(self, n: int) -> int:
        return max(1, round(math.sqrt(n)))


class ScannFine(_Scann):
    """A leaf for each 100 items."""

    name: ClassVar[str] = "scann_fine"

    def _leaves(self, n: int) -> int:
        return max(1, n // 100)


PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (Hnswlib, FaissHnsw, Nmslib, ScannRoot, ScannFine, FaissIvf)}


def rows(answer: Any, k: int) -> np.ndarray:
    """int64[n, k] of what a peer answered."""
    if isinstance(answer, np.ndarray):
        return answer.astype(np.int64)
    out = np.full((len(answer), k), -1, np.int64)
    lengths = np.fromiter((len(ids) for ids, _ in answer), np.int64, len(answer))
    out[np.arange(k) < lengths[:, None]] = np.concatenate([ids for ids, _ in answer])
    return out


def scann() -> Any:
    """ScaNN's interface, without the TensorFlow that `import scann` would load for ops of no use here."""
    absent = "scann" not in sys.modules and "tensorflow" not in sys.modules
    if absent:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("scann").scann_ops_pybind
    finally:
        if absent:
            del sys.modules["tensorflow"]
