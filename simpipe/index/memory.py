"""An index in memory: a release of one partition that grows, before or instead of being written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.config.index import Backend
from simpipe.embeddings import NO_ENCODER
from simpipe.errors import IncompatibleError, NotCalibratedError, QueryError
from simpipe.index.base_searcher import BaseSearcher
from simpipe.index.distance import bad_rows, prepare
from simpipe.index.partitions import Partition, in_memory
from simpipe.index.router import Router
from simpipe.index.rows import Rows


class MemoryIndex(BaseSearcher):
    """Items of one partition in memory. The ANN index is built when first asked after items came.

    Args:
      dim: length of the vectors.
      distance: see `index.distance`.
      backend: of the ANN index.
    """

    title = "the index in memory"
    encoder = NO_ENCODER

    def __init__(self, dim: int, *, distance: str, backend: Backend) -> None:
        self.dim, self.distance, self.backend = dim, distance, backend
        self.router = Router(1)
        self._rows = 0
        self._lock = threading.Lock()
        self._ids: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self._data: list[Any] = []
        self._taken: set[str] | None = None  # ids, once the user gives some; running numbers need no check
        self._built: Partition | None = None
        self._order = np.empty(0, np.int64)

    @property
    def partition_rows(self) -> tuple[int, ...]:  # type: ignore[override]  # grows
        return (self._rows,)

    def add(
        self, vectors: np.ndarray, labels: np.ndarray, *, ids: Sequence[str] | None = None, data: Sequence[Any] | None = None
    ) -> np.ndarray:
        """Adds items, or none of them.

        Args:
          vectors: float[n, dim].
          labels: object[n], str or None.
          ids: distinct strings; None numbers the items on.
          data: anything, one value an item.

        Returns:
          Their ids, object[n].

        Raises:
          QueryError: NaN, infinite or zero vectors (row named), an id that is taken, another number of ids or data.
          IncompatibleError: another dim.
        """
        vectors = self._checked(vectors)
        for what, values in (("ids", ids), ("data", data)):
            if values is not None and len(values) != len(vectors):
                raise QueryError(f"{len(values)} {what} for {len(vectors)} items", f"give one value of {what} an item")
        names = self._take_ids(ids, len(vectors))
        self._ids.append(names)
        self._labels.append(np.asarray(labels, object))
        self._vectors.append(vectors)
        self._data += data if data is not None else [None] * len(vectors)
        self._rows += len(vectors)
        self._built = None
        return names

    def _take_ids(self, ids: Sequence[str] | None, n: int) -> np.ndarray:
        if ids is None and self._taken is None:
            return np.arange(self._rows, self._rows + n).astype(str).astype(object)
        taken = self._taken if self._taken is not None else set(self.columns()[0].tolist())
        if ids is None:
            numbers = (str(number) for number in itertools.count(self._rows))
            names = list(itertools.islice((name for name in numbers if name not in taken), n))
        else:
            names = [str(name) for name in ids]
        fresh = set(names)
        if len(fresh) < len(names) or fresh & taken:
            seen = set(taken)
            again = next(name for name in names if name in seen or seen.add(name))
            raise QueryError(f"id {again!r} names two items", "give every item an id of its own, or reset the index first")
        self._taken = taken | fresh
        return np.array(names, object)

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        array = np.asarray(vectors, np.float32)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise IncompatibleError(f"vectors have shape {array.shape}, the index holds dim {self.dim}", "embed with one model")
        not_finite, zero = bad_rows(array, self.distance)
        for rows, what in ((not_finite, "holds NaN or infinite values"), (zero, "has zero norm, no direction for cosine")):
            if rows.any():
                raise QueryError(f"the vector of row {int(np.argmax(rows))} {what}", "leave such examples out, or mend the model")
        return prepare(array, self.distance)

    def partition(self, number: int) -> Partition:
        with self._lock:
            if self._built is None:
                ids, labels, vectors = self.columns()
                rows, self._order = Rows.sort(ids, labels)
                self._built = in_memory(rows, vectors[self._order], self.backend, distance=self.distance)
            return self._built

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids object[n], labels object[n] and prepared vectors float32[n, dim], in the order in which they came."""
        if len(self._ids) != 1:
            self._ids = [np.concatenate([np.empty(0, object), *self._ids])]
            self._labels = [np.concatenate([np.empty(0, object), *self._labels])]
            self._vectors = [np.concatenate([np.empty((0, self.dim), np.float32), *self._vectors])]
        return self._ids[0], self._labels[0], self._vectors[0]

    def positions_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Where items stand in `columns`: int64[n].

        Raises:
          QueryError: an id is not there.
        """
        rows = self.partition(0).rows_of(np.asarray(ids, object))
        if (rows < 0).any():
            raise QueryError(f"id {list(ids)[int(np.argmax(rows < 0))]!r} is not in {self.title}", "index it first")
        return self._order[rows]

    def data_of(self, ids: Sequence[str] | np.ndarray) -> list[Any]:
        """What was indexed with items."""
        return [self._data[place] for place in self.positions_of(ids)]

    @property
    def data(self) -> list[Any]:
        """What was indexed with each item, in the order in which they came."""
        return self._data

    def items_of(self, ids: Sequence[str]) -> pa.Table:
        places = self.positions_of(ids)
        labels = pa.array(self.columns()[1][places], pa.string())
        return pa.table({"id": pa.array(list(ids), pa.string()), "label": labels, "partition": np.zeros(len(places), np.int32)})

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        return self.columns()[2][self.positions_of(ids)]

    def calibration(self) -> dict[str, Any]:
        if self.calibrated is None:
            raise NotCalibratedError(f"{self.title} is not calibrated", "call calibrate(x, y) with examples that are not indexed")
        return self.calibrated
