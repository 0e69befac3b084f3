"""What every ANN backend offers, and how one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from simpipe.errors import ContractError, QueryError

if TYPE_CHECKING:
    from simpipe.config.index import Backend as BackendConfig
    from simpipe.config.index import Storage

NO_SETTINGS: Mapping[str, int] = MappingProxyType({})
Ladder = tuple[dict[str, int], ...]


class Backend(Protocol):
    """An index over the rows of one partition.

    Vectors are prepared (`distance.prepare`) and checked before they come here: NaN ruins an NMSLIB index and aborts
    the process in ScaNN. May be asked by several threads at once.

    Attributes:
      kind: its name in the configuration and in `backend.json`.
      is_exact: it returns every row that may belong to the k nearest, ties included.
      needs_unit_norm: under `cosine` it computes dot products: vectors must have unit norm, as `prepare` leaves them.
      supports_update: rows can be added or removed after the build. None offers it: releases are immutable.
    """

    kind: ClassVar[str]
    is_exact: ClassVar[bool]
    needs_unit_norm: ClassVar[bool]
    supports_update: ClassVar[bool]

    def search(self, queries: np.ndarray, k: int, *, settings: Mapping[str, int] = NO_SETTINGS, threads: int = 1) -> np.ndarray:
        """Candidate rows, nearest first as far as the backend knows.

        Args:
          queries: float32[n, dim].
          k: how many, at most.
          settings: how hard to search, see `ladder`; what it leaves out is as configured.
          threads: of this search, where the library can use several.

        Returns:
          int64[n, about k]; -1 where there is none. Distances are computed, and the k nearest cut, afterwards.

        Raises:
          QueryError: queries of another shape or dtype.
        """
        ...

    def ladder(self, k: int) -> Ladder:
        """Settings from cheap to dear, for the search profile to measure. The same keys fit every partition."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the index's files into an existing folder."""
        ...


def check_block(queries: np.ndarray, dim: int) -> np.ndarray:
    """`queries` as C++ code may see them (NMSLIB reads past the end of a row that is too short).

    Returns:
      float32[n, dim], contiguous.

    Raises:
      QueryError: another shape or dtype.
    """
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype != np.float32:
        raise QueryError(f"queries have shape {queries.shape} and dtype {queries.dtype}", f"give float32[n, {dim}]")
    return np.ascontiguousarray(queries)


def build_backend(vectors: np.ndarray, config: BackendConfig, *, distance: str, storage: Storage = "float32") -> Backend:
    """Builds the configured backend; small partitions get an exact scan, which is as fast there.

    Args:
      vectors: float32[n, dim], prepared.
      config: the backend.
      distance: see `distance.DISTANCES`.
      storage: how ScaNN keeps the vectors that it reorders with.

    Raises:
      ConfigError: the backend does not know the distance, or is not installed.
    """
    from simpipe.index.exact import ExactIndex

    if config.kind == "nmslib" and len(vectors) >= config.exact_below:
        from simpipe.index.nmslib_backend import NmslibIndex

        return NmslibIndex.build(vectors, config, distance=distance)
    if config.kind == "scann" and len(vectors) >= max(config.exact_below, 16):
        from simpipe.index.scann_backend import ScannIndex

        return ScannIndex.build(vectors, config, distance=distance, storage=storage)
    if config.kind == "faiss" and len(vectors) >= config.exact_below:
        from simpipe.index.faiss_backend import FaissIndex

        return FaissIndex.build(vectors, config, distance=distance)
    return ExactIndex(vectors, distance)


def load_backend(
    folder: Path, kind: str, vectors: np.ndarray, *, distance: str, params: Mapping[str, Any], storage: Storage = "float32"
) -> Backend:
    """Loads an index whose files were verified.

    Args:
      folder: the partition's folder.
      kind: the backend that built it (a small partition of a ScaNN release is `exact`).
      vectors: the partition's vectors, float32[n, dim].
      distance: from the manifest; NMSLIB would accept another one silently.
      params: the backend's configuration in the manifest.
      storage: as at the build.

    Raises:
      ContractError: the library refuses the files, or they hold other rows than the partition.
    """
    if kind == "exact":
        from simpipe.index.exact import ExactIndex

        return ExactIndex(vectors, distance)
    if kind == "nmslib":
        from simpipe.index.nmslib_backend import NmslibIndex

        return NmslibIndex.load(folder, vectors.shape, distance=distance, params=params)
    if kind == "scann":
        from simpipe.index.scann_backend import ScannIndex

        return ScannIndex.load(folder, vectors.shape, distance=distance, params=params, storage=storage)
    if kind == "faiss":
        from simpipe.index.faiss_backend import FaissIndex

        return FaissIndex.load(folder, vectors.shape, distance=distance, params=params)
    raise ContractError(f"{folder}: unknown backend {kind!r}", "open the release with the simpipe version that built it")


def ladder(config: BackendConfig, n: int, k: int, *, dim: int, distance: str, storage: Storage = "float32") -> Ladder:
    """The ladder of a backend over n items of some dim, without building one; see `Backend.ladder`."""
    if config.kind == "exact" or n < config.exact_below:
        return ({},)
    if config.kind == "nmslib":
        from simpipe.index import nmslib_backend

        return nmslib_backend.ladder(k)
    if config.kind == "scann":
        from simpipe.index import scann_backend

        return scann_backend.ladder(config, n, k, dim=dim, distance=distance, storage=storage)
    from simpipe.index import faiss_backend

    return faiss_backend.ladder(config, n, k)
