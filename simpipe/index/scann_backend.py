"""ScaNN: a tree, asymmetric hashing with SOAR spill, and exact reordering."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simpipe.config.index import ScannBackend
from simpipe.errors import ConfigError, ContractError
from simpipe.index.quiet import quiet_stderr

_MEASURES = {
    "cosine": "dot_product",
    "inner_product": "dot_product",
    "euclidean": "squared_l2",
    "squared_euclidean": "squared_l2",
}


def _library() -> Any:
    """ScaNN's pybind interface.

    `import scann` imports TensorFlow where it is installed, only for ops that we don't use; without it a process that
    searches starts in a fraction of the time and memory.
    """
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


def derived(config: ScannBackend, n: int, *, spilled: bool) -> tuple[int, int, int]:
    """(leaves, leaves to search, items to reorder) for a partition of n items where the configuration leaves them open.

    About sqrt(n) leaves, half of them searched (three quarters without SOAR spill), 300 items reordered: recall@10 of
    0.99 on hard clustered unit vectors (25,000 x 64, 500 clusters), at a cost that is still a small part of an exact scan.
    """
    leaves = config.leaves or max(1, min(n // 16, round(math.sqrt(n))))
    leaves = min(leaves, n // 2)
    search = config.leaves_to_search or max(20, math.ceil(leaves * (0.5 if spilled else 0.75)))
    return leaves, min(search, leaves), config.reorder or 300


class ScannIndex:
    """One ScaNN searcher without docids (it would write them as a pickle)."""

    kind: ClassVar[str] = "scann"
    is_exact: ClassVar[bool] = False

    def __init__(self, searcher: Any, reorder: int) -> None:
        self._searcher = searcher
        self._reorder = reorder

    @classmethod
    def build(cls, vectors: np.ndarray, config: ScannBackend, *, distance: str) -> ScannIndex:
        if distance not in _MEASURES:
            raise ConfigError(f"ScaNN knows no {distance} distance", "use the backend nmslib or exact")
        measure = _MEASURES[distance]
        leaves, search, reorder = derived(config, len(vectors), spilled=distance == "cosine")
        soar = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if measure == "dot_product" and leaves > 1 else {}
        builder = _library().builder(vectors, 10, measure)
        builder = builder.tree(leaves, search, training_sample_size=min(len(vectors), 250_000), **soar)
        threshold = 0.2 if distance == "cosine" else math.nan
        builder = builder.score_ah(2, anisotropic_quantization_threshold=threshold).reorder(reorder)
        with quiet_stderr():
            return cls(builder.build(), reorder)

    @classmethod
    def load(cls, folder: Path, params: dict[str, Any]) -> ScannIndex:
        try:
            with quiet_stderr():
                searcher = _library().load_searcher(str(folder / "scann"))
        except (RuntimeError, ValueError, OSError) as error:
            raise ContractError(f"{folder / 'scann'}: ScaNN cannot load it ({error})", "build the release again") from None
        return cls(searcher, int(params.get("reorder") or 300))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        rows, scores = self._searcher.search_batched_parallel(
            queries, final_num_neighbors=k, pre_reorder_num_neighbors=max(self._reorder, 2 * k)
        )
        rows = rows.astype(np.int64)
        rows[~np.isfinite(scores)] = -1  # the batch is padded where fewer were found
        return rows

    def save(self, folder: Path) -> None:
        target = folder / "scann"
        target.mkdir()
        # Without relative paths a moved folder does not load.
        self._searcher.serialize(str(target), relative_path=True)
