"""What every ANN backend offers, and how one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from simpipe.errors import ContractError

if TYPE_CHECKING:
    from simpipe.config.index import Backend as BackendConfig


class Backend(Protocol):
    """An index over the rows of one partition.

    Vectors are prepared (`distance.prepare`) and checked before they come here: NaN ruins an NMSLIB index and aborts
    the process in ScaNN.
    """

    kind: ClassVar[str]
    is_exact: ClassVar[bool]

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Candidate rows, nearest first as far as the backend knows.

        Args:
          queries: float32[n, dim].
          k: how many, at most.

        Returns:
          int64[n, about k]; -1 where there is none. Distances are computed, and the k nearest cut, afterwards.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes the index's files into an existing folder."""
        ...


def build_backend(vectors: np.ndarray, config: BackendConfig, *, distance: str) -> Backend:
    """Builds the configured backend over float32[n, dim]; small partitions get an exact scan where it is as fast."""
    from simpipe.index.exact import ExactIndex

    if config.kind == "nmslib" and len(vectors) > 0:
        from simpipe.index.nmslib_backend import NmslibIndex

        return NmslibIndex.build(vectors, config, distance=distance)
    if config.kind == "scann" and len(vectors) >= max(config.exact_below, 16):
        from simpipe.index.scann_backend import ScannIndex

        return ScannIndex.build(vectors, config, distance=distance)
    return ExactIndex(vectors, distance)


def load_backend(folder: Path, kind: str, vectors: np.ndarray, *, distance: str, params: dict[str, Any]) -> Backend:
    """Loads an index whose files were verified.

    Args:
      folder: the partition's folder.
      kind: the backend that built it (a small partition of a ScaNN release is `exact`).
      vectors: the partition's vectors, float32[n, dim].
      distance: from the manifest; NMSLIB would accept another one silently.
      params: the backend's configuration in the manifest.
    """
    if kind == "exact":
        from simpipe.index.exact import ExactIndex

        return ExactIndex(vectors, distance)
    if kind == "nmslib":
        from simpipe.index.nmslib_backend import NmslibIndex

        return NmslibIndex.load(folder, distance=distance, ef=int(params["ef"]))
    if kind == "scann":
        from simpipe.index.scann_backend import ScannIndex

        return ScannIndex.load(folder, params)
    raise ContractError(f"{folder}: unknown backend {kind!r}", "open the release with the simpipe version that built it")
