"""ScaNN: a tree whose leaves are scored exactly, or by asymmetric hashing with SOAR spill and exact reordering."""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simpipe import files
from simpipe.config.index import ScannBackend, Storage
from simpipe.errors import ConfigError, ContractError
from simpipe.index.backend import NO_SETTINGS, Ladder, check_block
from simpipe.index.distinct import Groups, group_equal
from simpipe.index.quiet import quiet_stderr

_MEASURES = {
    "cosine": "dot_product",
    "inner_product": "dot_product",
    "euclidean": "squared_l2",
    "squared_euclidean": "squared_l2",
}
_REORDERED = {"float32": "FLOAT32", "float16": "BFLOAT16", "int8": "INT8"}
_FOLDER = "scann"
_HASHED_DIM = 256  # above it scoring leaves by hashes is cheaper than exactly
_AT = 62_500
_HASHED_LEAF, _SCANNED_LEAF, _LEAST_LEAF = 50, 200, 40  # items a leaf at so many items
_LEAST_LEAVES = 8
_FEWEST = 16  # vectors that a tree needs
_DISTINCT = 0.98  # share of distinct vectors below which each is indexed once: many copies fill what is reordered
# What the tree and the hashes are trained on: more costs CPU and gains no recall that we could measure.
_SAMPLE_A_LEAF = 25
_SMALLEST_A_LEAF = 8
_TREE_ROUNDS = 6
_HASH_SAMPLE = 10_000
_HASH_ROUNDS = 6
_SCANNED_STEPS = 18
# The ladder of hashed leaves: how far from the fewest to all of them (logarithmic), items reordered for each of k.
_STEPS = (
    (0.0, 2.0),
    (0.12, 2.0),
    (0.22, 3.0),
    (0.31, 3.0),
    (0.39, 3.0),
    (0.47, 4.0),
    (0.55, 5.0),
    (0.62, 5.0),
    (0.68, 5.0),
    (0.68, 8.0),
    (0.75, 8.0),
    (0.82, 8.0),
    (0.82, 15.0),
    (0.89, 15.0),
    (1.0, 15.0),
    (1.0, 40.0),
)
_LEAST_SEARCHED, _LEAST_SHARE = 4, 0.005

_IMPORT = threading.Lock()


def _library() -> Any:
    """ScaNN's pybind interface.

    `import scann` imports TensorFlow where it is installed, only for ops that we don't use; without it a process that
    searches starts in a fraction of the time and memory.
    """
    with _IMPORT:  # partitions load side by side: none may see it half imported
        if "scann" in sys.modules:
            return sys.modules["scann"].scann_ops_pybind
        absent = "tensorflow" not in sys.modules
        if absent:
            sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            with quiet_stderr():
                return importlib.import_module("scann").scann_ops_pybind
        finally:
            if absent:
                del sys.modules["tensorflow"]


def preload() -> None:
    """Imports ScaNN, for processes that are forked from this one.

    Raises:
      ImportError: it is not installed.
    """
    _library()


@dataclass(frozen=True)
class Derived:
    """What a partition's index is built with.

    Attributes:
      leaves: of the tree. search: leaves searched, reorder: items reordered, where the search names no setting.
      sample: items the tree is trained on. smallest: fewer of them in a leaf are merged into others.
      hashed: leaves are scored by hashes, and the best reordered; else exactly. soar: each item is in a second leaf too.
    """

    leaves: int
    search: int
    reorder: int
    sample: int
    smallest: int
    hashed: bool
    soar: bool


def derived(config: ScannBackend, n: int, *, dim: int, distance: str, storage: Storage = "float32") -> Derived:
    """Parameters for n items where the configuration leaves them open.

    Leaves are scored exactly up to dim 256: over 17,000 to 1,000,000 clustered unit vectors of dim 64 and 128 that takes
    a half to two thirds of the CPU time of hashing with SOAR at equal recall, and a tenth of its build. Then about 200 items
    a leaf (50 if hashed) in 62,500 of dim 64, more of them with the fourth root, fewer with the square root; 25 of a leaf to
    train on; a third of the leaves searched: recall@10 of 0.99 and more on hard clustered unit vectors. ScaNN merges leaves
    that hold fewer training items than `min_partition_size`, whose default (50) with a small sample would leave few of them.
    """
    # Rounded vectors serve reordering only: ScaNN cannot load a tree over bfloat16 leaves that it has written.
    hashed = config.scoring == "hash" if config.scoring is not None else dim > _HASHED_DIM or storage != "float32"
    soar = (config.soar if config.soar is not None else hashed) and _dot_product(distance)
    leaf = _HASHED_LEAF if hashed else _SCANNED_LEAF * min(1.5, max(0.5, 64 / dim))  # scanned ones of about equal bytes
    leaf *= (n / _AT) ** (0.25 if hashed or n > _AT else 0.5)
    leaves = config.leaves or max(_LEAST_LEAVES, round(n / max(_LEAST_LEAF, leaf)))
    leaves = max(1, min(leaves, n // 8))
    soar = soar and leaves > 1
    search = config.leaves_to_search or max(20, math.ceil(leaves * (0.5 if hashed and not soar else 0.35)))
    sample = min(n, max(_SAMPLE_A_LEAF * leaves, 2000))
    smallest = max(1, min(_SMALLEST_A_LEAF, sample // leaves // 3))
    return Derived(leaves, min(search, leaves), config.reorder or 300, sample, smallest, hashed, soar)


def ladder(config: ScannBackend, n: int, k: int, *, dim: int, distance: str, storage: Storage = "float32") -> Ladder:
    """Leaves to search (and items to reorder, where they are hashed) for a partition of n items, from cheap to dear."""
    how = derived(config, n, dim=dim, distance=distance, storage=storage)
    if not how.hashed:
        steps = np.unique(np.geomspace(1, how.leaves, _SCANNED_STEPS).round().astype(int)).tolist()
        return tuple({"leaves_to_search": count} for count in steps)
    fewest = min(how.leaves, max(_LEAST_SEARCHED, how.leaves * _LEAST_SHARE))
    pairs = [(round(fewest * (how.leaves / fewest) ** far), math.ceil(k * times)) for far, times in _STEPS]
    return tuple({"leaves_to_search": search, "reorder": reorder} for search, reorder in dict.fromkeys(pairs))


class ScannIndex:
    """One ScaNN searcher without docids (it would write them as a pickle)."""

    kind: ClassVar[str] = "scann"
    is_exact: ClassVar[bool] = False
    needs_unit_norm: ClassVar[bool] = True
    supports_update: ClassVar[bool] = False  # ScaNN's own updates need docids

    def __init__(
        self,
        searcher: Any,
        groups: Groups | None,
        config: ScannBackend,
        shape: tuple[int, ...],
        *,
        distance: str,
        storage: Storage,
    ) -> None:
        self._searcher, self._groups, self._config, self._shape = searcher, groups, config, shape
        self._storage: Storage = storage
        self._how, self._distance = derived(config, shape[0], dim=shape[1], distance=distance, storage=storage), distance

    @classmethod
    def build(cls, vectors: np.ndarray, config: ScannBackend, *, distance: str, storage: Storage = "float32") -> ScannIndex:
        """Builds over float32[n, dim], n >= 16.

        Files differ from build to build in the last bits of the trained centres (also with one thread), and so in a few codes.

        Raises:
          ConfigError: a distance that ScaNN does not know.
        """
        if distance not in _MEASURES:
            raise ConfigError(f"ScaNN knows no {distance} distance", "use the backend nmslib or exact")
        groups = group_equal(vectors)
        if groups is not None and not _FEWEST <= len(groups) <= _DISTINCT * len(vectors):
            groups = None  # a few duplicates do no harm
        shape = (len(vectors) if groups is None else len(groups), vectors.shape[1])
        vectors = vectors if groups is None else np.ascontiguousarray(vectors[groups.first])
        how = derived(config, len(vectors), dim=shape[1], distance=distance, storage=storage)
        library = _library()
        soar = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if how.soar else {}
        builder = library.builder(vectors, 10, _MEASURES[distance]).tree(
            how.leaves,
            how.search,
            training_sample_size=how.sample,
            min_partition_size=how.smallest,
            training_iterations=_TREE_ROUNDS,
            **soar,
        )
        if how.hashed:
            quantize = library.scann_builder.ReorderType[_REORDERED[storage]]
            builder = builder.score_ah(
                2,
                anisotropic_quantization_threshold=0.2 if distance == "cosine" else math.nan,
                training_sample_size=_HASH_SAMPLE,
                training_iterations=_HASH_ROUNDS,
            ).reorder(how.reorder, quantize=quantize)
        else:
            builder = builder.score_brute_force()
        with quiet_stderr():
            searcher = builder.build()
        return cls(searcher, groups, config, shape, distance=distance, storage=storage)

    @classmethod
    def load(
        cls,
        folder: Path,
        shape: tuple[int, ...],
        *,
        distance: str,
        params: Mapping[str, Any],
        storage: Storage = "float32",
    ) -> ScannIndex:
        """Loads without ScaNN's own `load_searcher`, which would unpickle a file of docids."""
        library = _library()
        groups = Groups.load(folder, shape[0])
        shape = shape if groups is None else (len(groups), shape[1])
        try:
            path = files.opened(folder / _FOLDER)
            assets = (path / "scann_assets.pbtxt").read_text()
            with quiet_stderr():
                searcher = library.ScannSearcher(library.scann_pybind.ScannNumpy(str(path), assets))
        except (RuntimeError, ValueError, OSError) as error:
            raise ContractError(f"{folder / _FOLDER}: ScaNN cannot load it ({error})", "build the release again") from None
        if searcher.size() != shape[0]:
            raise ContractError(f"{folder / _FOLDER}: {searcher.size()} vectors for {shape[0]}", "build the release again")
        config = ScannBackend.model_validate({**params, "kind": "scann"})
        return cls(searcher, groups, config, shape, distance=distance, storage=storage)

    def search(self, queries: np.ndarray, k: int, *, settings: Mapping[str, int] = NO_SETTINGS, threads: int = 1) -> np.ndarray:
        queries = check_block(queries, self._shape[1])
        reorder = max(int(settings.get("reorder", self._how.reorder)), k) if self._how.hashed else 2 * k
        wanted = k
        # Rounded vectors order the edge wrongly: more rows come back, and the distances computed afterwards decide.
        k = min(k if self._storage == "float32" else max(k, min(reorder, 2 * k)), self._shape[0])
        asked = (k, max(reorder, k) if self._how.hashed else -1, int(settings.get("leaves_to_search", self._how.search)))
        if not len(queries):
            return np.empty((0, k), np.int64)
        if len(queries) == 1:
            rows, scores = (array[None] for array in self._searcher.search(queries[0], *asked))
        elif threads == 1:
            rows, scores = self._searcher.search_batched(queries, *asked)
        else:
            size = max(1, min(256, -(-len(queries) // threads)))
            rows, scores = self._searcher.search_batched_parallel(queries, *asked, batch_size=size)
        rows = rows.astype(np.int64)
        rows[~np.isfinite(scores)] = -1  # the batch is padded where fewer were found
        return rows if self._groups is None else self._groups.expand(rows, max(wanted, k))

    def ladder(self, k: int) -> Ladder:
        return ladder(self._config, self._shape[0], k, dim=self._shape[1], distance=self._distance, storage=self._storage)

    def save(self, folder: Path) -> None:
        target = folder / _FOLDER
        target.mkdir()
        # Without relative paths a moved folder does not load.
        self._searcher.serialize(str(target), relative_path=True)
        if self._groups is not None:
            self._groups.save(folder)


def _dot_product(distance: str) -> bool:
    """SOAR needs dot products."""
    return _MEASURES.get(distance) == "dot_product"
