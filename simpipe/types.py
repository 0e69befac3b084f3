"""Small records shared by all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SPLITS = ("train", "index", "query")
INDEXED_SPLITS = ("train", "index")
# The splits that are asked, as `calibrate.queries` and `evaluate.queries` name them.
QUERY_SPLITS = {"held_out": ("query",), "items": INDEXED_SPLITS}
# Names of columns and answers of our own; no metadata column may have one.
RESERVED = frozenset(
    (
        *("id", "label", "input", "source", "image", "vector", "embedding", "digest"),
        *("partition", "file", "row", "query", "rank", "distance"),
    )
)


@dataclass(frozen=True)
class Counts:
    """What a step read, wrote, rejected and left out; `read == written + rejected + excluded` or the step fails."""

    read: int = 0
    written: int = 0
    rejected: int = 0
    excluded: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.written + other.written,
            self.rejected + other.rejected,
            self.excluded + other.excluded,
        )


@dataclass(frozen=True)
class Reject:
    """A record that was left out. `source` says where it stood: file and row or record number."""

    id: str
    source: str
    code: str
    reason: str


@dataclass(frozen=True)
class Neighbors:
    """Nearest items of a block of queries, nearest first.

    Attributes:
      ids: object[n, k], str; None where fewer than k items exist.
      labels: object[n, k], str or None.
      distances: float32[n, k]; +inf where there is no item.
    """

    ids: np.ndarray
    labels: np.ndarray
    distances: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """bool[n, k]: where there is an item."""
        return np.isfinite(self.distances)

    def take(self, rows: np.ndarray | slice) -> Neighbors:
        return Neighbors(self.ids[rows], self.labels[rows], self.distances[rows])

    def first(self, k: int) -> Neighbors:
        """The k nearest of them."""
        return Neighbors(self.ids[:, :k], self.labels[:, :k], self.distances[:, :k])


@dataclass(frozen=True)
class Matches:
    """What a matcher derived from neighbors: one label and distance a query.

    Attributes:
      labels: object[n], str or None (no neighbor at all, or farther than the cutpoint).
      distances: float32[n], the derived distance; +inf without a neighbor.
      neighbors: the neighbors they come from.
      probabilities: float64[n], that the derived label is the right one, whether it was kept or not; 0 without a label. None
        where the calibration has no probability.
      limits: float32[n], the cutpoint of each query.
    """

    labels: np.ndarray
    distances: np.ndarray
    neighbors: Neighbors = field(repr=False)
    probabilities: np.ndarray | None = None
    limits: np.ndarray | None = None


@dataclass(frozen=True)
class Lookup:
    """One neighbor as TensorFlow Similarity's API returns it.

    Attributes:
      rank: from 1, nearest first.
      distance: to the query.
      label: of the item, of the type it was indexed with; None without one.
      embedding: float32[dim], as it is indexed.
      data: what was indexed with the item; None without any.
      id: of the item.
    """

    rank: int
    distance: float
    label: Any = None
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)
    data: Any = field(default=None, repr=False, compare=False)
    id: str | None = None


@dataclass(frozen=True)
class CalibrationResults:
    """What `calibrate` of a model or an indexer returns.

    Attributes:
      cutpoints: by name: name, value (of the calibration metric), distance, and every metric there.
      thresholds: "distance" float32[t], one float64[t] a metric, and "value", the calibration metric again.
    """

    cutpoints: dict[str, dict[str, Any]]
    thresholds: dict[str, np.ndarray]


def keep_where(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A copy of object[...] with None where `keep` is False."""
    kept = values.copy()
    kept[~keep] = None
    return kept
