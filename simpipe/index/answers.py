"""Answers to a block of queries, as jobs over all queries pass them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from simpipe.types import Neighbors


@dataclass(frozen=True)
class Found:
    """The nearest items of n queries, nearest first, own items left out.

    Attributes:
      distances: float32[n, k]; +inf where there is none.
      place: int64[n, k], partition << 32 | row; -1 where there is none. An item in several partitions has one of its places.
      tie: uint64[n, k], hash of the item's id; 0 where there is none.
      ids, labels: object[n, k], str or None; None as a whole where the job does not ask for them.
    """

    distances: np.ndarray
    place: np.ndarray
    tie: np.ndarray
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None

    @property
    def partition(self) -> np.ndarray:
        """int64[n, k]; -1 where there is none."""
        return self.place >> 32

    def neighbors(self, k: int | None = None) -> Neighbors:
        """The first k (None: all) as neighbors; what the job did not ask for is None."""
        none = np.full(self.distances.shape, None, object)
        ids, labels = (none if values is None else values for values in (self.ids, self.labels))
        return Neighbors(ids[:, :k], labels[:, :k], self.distances[:, :k])


@dataclass(frozen=True)
class Answer:
    """An answered block of n queries.

    Attributes:
      queries: columns id, label (null where unknown) and the metadata columns that the job asks for; n rows.
      tie: uint64[n], hashes of the queries' ids.
      found: by the indexes, as `lookup` asks them.
      exact_rows: int64[m], the queries that were searched exactly as well, ascending. exact: their neighbors (m rows).
      deep: by a search of its own, deeper one; None where the job asks for none.
    """

    queries: pa.Table
    tie: np.ndarray
    found: Found
    exact_rows: np.ndarray
    exact: Found | None = None
    deep: Found | None = None

    @property
    def ids(self) -> np.ndarray:
        """object[n] of str."""
        return self.queries.column("id").to_numpy(zero_copy_only=False)

    @property
    def labels(self) -> np.ndarray:
        """object[n] of str or None."""
        return self.queries.column("label").to_numpy(zero_copy_only=False)

    def __len__(self) -> int:
        return len(self.queries)
