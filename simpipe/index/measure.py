"""What one partition tells the search profile: its exact neighbors of sampled queries, and which of them each setting finds.

Made while the partition is built, so that recall costs no second reading of the data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.index.distance import between
from simpipe.index.exact import exact_topk
from simpipe.index.partitions import Partition
from simpipe.index.setting import SearchSetting

PROBE_FILE = "probe.npz"
_WARM = 32  # queries asked first: a search after loading is slower than those that follow


def measure_file(number: int) -> str:
    """`measures/00003.npz`, relative to the release."""
    return f"measures/{number:05d}.npz"


@dataclass(frozen=True)
class Probe:
    """The sampled queries, as every partition asks them.

    Attributes:
      vectors: float32[q, dim], prepared. own: uint64[q], hash of the id where the query is an item (it does not find itself).
      nearness: float32[q, partitions], see `Router.nearness`. reach: pairs beyond this nearness are not searched.
      settings: of the backend, from cheap to dear. k: neighbors a query. routing: CPU seconds a query that routing takes.
      source: `queries` (held out) or `items`.
    """

    vectors: np.ndarray
    own: np.ndarray
    nearness: np.ndarray
    reach: float
    settings: tuple[Mapping[str, int], ...]
    k: int
    routing: float
    source: str

    def save(self, path: Path) -> None:
        about = {"reach": self.reach, "settings": [dict(each) for each in self.settings], "k": self.k}
        about |= {"routing": self.routing, "source": self.source}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, vectors=self.vectors, own=self.own, nearness=self.nearness, about=text)

    @classmethod
    def load(cls, path: Path) -> Probe:
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(data["about"].tobytes())
            arrays = {name: data[name] for name in ("vectors", "own", "nearness")}
        return cls(**arrays, **{**about, "settings": tuple(about["settings"])})


@dataclass(frozen=True)
class PartitionMeasure:
    """One partition's answers to the sampled queries.

    Attributes:
      distances: float32[q, k], exact, nearest first, +inf padded. tie: uint64[q, k], hashes of those items' ids.
      asked: int32[m], queries that were searched with each setting.
      found: bool[settings, m, k]: whether the setting's answer holds the j-th exact neighbor.
      cost: float64[settings], CPU seconds a query.
    """

    distances: np.ndarray
    tie: np.ndarray
    asked: np.ndarray
    found: np.ndarray
    cost: np.ndarray

    def save(self, path: Path) -> None:
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> PartitionMeasure:
        with np.load(path, allow_pickle=False) as data:
            return cls(**{item.name: data[item.name] for item in fields(cls)})

    def without(self, hidden: np.ndarray) -> PartitionMeasure:
        """The measure without items that do not answer any more.

        What came after them moves up. The neighbors beyond the k-th were not kept: a query that loses some has fewer here.

        Args:
          hidden: uint64[h], hashes of their ids.
        """
        gone = np.isin(self.tie, hidden) & np.isfinite(self.distances)
        if not gone.any():
            return self
        order = np.argsort(gone, axis=1, kind="stable")
        gone = np.take_along_axis(gone, order, axis=1)
        distances = np.where(gone, np.float32(np.inf), np.take_along_axis(self.distances, order, axis=1))
        tie = np.where(gone, np.uint64(0), np.take_along_axis(self.tie, order, axis=1))
        found = np.take_along_axis(self.found, order[self.asked][None], axis=2) & ~gone[self.asked]
        return PartitionMeasure(distances, tie, self.asked, found, self.cost)


def measure_partition(part: Partition, vectors: np.ndarray, tie: np.ndarray, probe: Probe, *, number: int) -> PartitionMeasure:
    """Asks one partition exactly and with each setting.

    Args:
      part: the loaded partition. vectors: float32[n, dim], its items before they were stored. tie: uint64[n], their ids' hashes.
      probe: the queries. number: the partition's.
    """
    k, wanted = probe.k, probe.k + bool(probe.own.any())
    rows, _ = exact_topk(vectors, probe.vectors, wanted, distance=part.distance)
    exact, exact_tie = _distances(probe, vectors, rows, part.distance), np.where(rows >= 0, tie[rows], 0) if len(tie) else None
    distances, ties = _without_own(exact, exact_tie, probe.own, k)
    asked = np.flatnonzero(probe.nearness[:, number] <= probe.reach).astype(np.int32)
    settings = probe.settings
    found = np.zeros((len(settings), len(asked), k), bool)
    cost = np.zeros(len(settings))
    if len(asked) and len(vectors):
        queries = probe.vectors[asked]
        for row, backend in enumerate(settings):
            top, cost[row] = _timed(part, queries, wanted, SearchSetting(backend=backend))
            got, got_tie = _without_own(top.distances, top.tie, probe.own[asked], k)
            found[row] = _holds(distances[asked], ties[asked], got, got_tie)
    return PartitionMeasure(distances, ties, asked, found, cost)


def _timed(part: Partition, queries: np.ndarray, k: int, setting: SearchSetting) -> tuple[Any, float]:
    part.search(queries[:_WARM], k, setting=setting)
    started = time.thread_time()
    top = part.search(queries, k, setting=setting)
    return top, (time.thread_time() - started) / len(queries)


def _distances(probe: Probe, vectors: np.ndarray, rows: np.ndarray, distance: str) -> np.ndarray:
    if not len(vectors):
        return np.full(rows.shape, np.inf, np.float32)
    return np.where(rows >= 0, between(probe.vectors, vectors[np.maximum(rows, 0)], distance), np.float32(np.inf))


def _without_own(distances: np.ndarray, tie: np.ndarray | None, own: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest but for the query's own item: float32[n, k] and uint64[n, k], padded."""
    tie = np.zeros(distances.shape, np.uint64) if tie is None else tie
    far = np.where((tie == own[:, None]) & (own[:, None] != 0), np.float32(np.inf), distances)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    out, out_tie = np.full((len(far), k), np.inf, np.float32), np.zeros((len(far), k), np.uint64)
    out[:, : order.shape[1]] = np.take_along_axis(far, order, axis=1)
    out_tie[:, : order.shape[1]] = np.take_along_axis(tie, order, axis=1)
    return out, np.where(np.isfinite(out), out_tie, np.uint64(0))


def _holds(exact: np.ndarray, exact_tie: np.ndarray, got: np.ndarray, got_tie: np.ndarray) -> np.ndarray:
    """bool[n, k]: the answer holds the j-th exact neighbor, or one as near in its place."""
    there = np.isfinite(exact)
    same = (exact_tie[:, :, None] == got_tie[:, None, :]) & np.isfinite(got)[:, None, :]
    equal = exact[:, :, None] == got[:, None, :]
    # Of equally near items any may stand for any other, but each for one only.
    before = np.tril(exact[:, :, None] == exact[:, None, :], k=-1).sum(axis=2)
    return there & (same.any(axis=2) | (equal.sum(axis=2) > before))
