"""Exact search: blocks of matrix products that stay in the cache, and of each block only what passes the best k so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from simpipe.index.backend import NO_SETTINGS, Ladder, check_block
from simpipe.index.blas import blas_threads
from simpipe.index.distance import between

_QUERIES = 512
_LEAST_SHARED = 64  # queries of a block of its own
_CACHE_FLOATS = 1 << 20  # of one block's scores
_LEAST_ROWS, _MOST_ROWS = 1024, 1 << 15
_KEPT = 4 << 20  # candidates held before those that fell behind are dropped
_GATHER_FLOATS = 4 << 20
# Rounding of a matrix product, relative to the largest squares in it: rows this near to the k-th are kept as well, and the
# exact distances computed afterwards decide.
_ROUNDING = 4e-6


class ExactIndex:
    """Scans every row. Needs no files of its own: the partition's vectors are the index.

    Returns all rows that may belong to the k nearest, ties included, so that the caller's rule decides between them.
    Nothing is read before the first search; memory is a few blocks, whatever the number of rows.

    Args:
      vectors: float32[n, dim], or rows of another dtype that slices decode to numbers; may be memory-mapped.
      distance: see `distance.DISTANCES`.
    """

    kind: ClassVar[str] = "exact"
    is_exact: ClassVar[bool] = True
    needs_unit_norm: ClassVar[bool] = True
    supports_update: ClassVar[bool] = False

    def __init__(self, vectors: np.ndarray, distance: str) -> None:
        self._vectors, self._distance = vectors, distance
        self._euclidean = distance in ("euclidean", "squared_euclidean")
        self._known: tuple[np.ndarray | None, float] | None = None
        self._lock = threading.Lock()

    def search(self, queries: np.ndarray, k: int, *, settings: Mapping[str, int] = NO_SETTINGS, threads: int = 1) -> np.ndarray:
        del settings
        return self.candidates(queries, k, threads=threads)

    def candidates(self, queries: np.ndarray, k: int, *, threads: int = 1, most: int | None = None) -> np.ndarray:
        """As `search`; `most` bounds the rows of a query, where not all that tie are wanted."""
        queries = check_block(queries, self._vectors.shape[1])
        k = min(k, len(self._vectors))
        if k < 1 or not len(queries):
            return np.empty((len(queries), 0), np.int64)
        # Threads that take blocks of their own need not wait for each other at each product, as those of BLAS do.
        several = len(queries) >= _LEAST_SHARED * threads
        step = min(_QUERIES, -(-len(queries) // threads)) if several else _QUERIES
        parts = [queries[first : first + step] for first in range(0, len(queries), step)]
        if threads > 1 and several:
            with blas_threads(1), ThreadPoolExecutor(threads) as pool:
                blocks = list(pool.map(lambda part: self._block(part, k, most), parts))
        else:
            with blas_threads(threads):
                blocks = [self._block(part, k, most) for part in parts]
        width = max(block.shape[1] for block in blocks)
        return np.concatenate([np.pad(block, ((0, 0), (0, width - block.shape[1])), constant_values=-1) for block in blocks])

    def ladder(self, k: int) -> Ladder:
        del k
        return ({},)

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    def _rows(self, first: int, last: int) -> np.ndarray:
        rows = np.asarray(self._vectors[first:last], np.float32)
        centre = self._about()[0]
        return rows if centre is None else rows - centre

    def _about(self) -> tuple[np.ndarray | None, float]:
        """(what rows are shifted by, the largest sum of squares of a shifted row).

        Differences don't change when both sides are shifted; far from zero their squares would cancel.
        """
        with self._lock:
            if self._known is None:
                self._known = self._measure()
            return self._known

    def _measure(self) -> tuple[np.ndarray | None, float]:
        if self._distance in ("cosine", "manhattan"):
            return None, 1.0  # unit vectors; sums of absolute values do not cancel
        step, n, centre = _MOST_ROWS, len(self._vectors), None
        firsts = range(0, n, step)
        if self._euclidean:
            total = np.zeros(self._vectors.shape[1])
            for first in firsts:
                total += np.asarray(self._vectors[first : first + step], np.float32).sum(axis=0, dtype=np.float64)
            centre = (total / n).astype(np.float32)
        largest = 0.0
        for first in firsts:
            rows = np.asarray(self._vectors[first : first + step], np.float32)
            rows = rows if centre is None else rows - centre
            largest = max(largest, float(np.einsum("nd,nd->n", rows, rows).max()))
        return centre, largest

    def _block(self, queries: np.ndarray, k: int, most: int | None) -> np.ndarray:
        """All rows whose score is not clearly below the k-th best: int64[q, width], best first, -1 padded."""
        centre, largest = self._about()
        found = self._scan(queries if centre is None else queries - centre, k, largest, most)
        counts = np.bincount(found.query, minlength=len(queries))
        out = np.full((len(queries), int(counts.max())), -1, np.int64)
        out[found.query, _within(counts)] = found.row
        return out

    def _scan(self, queries: np.ndarray, k: int, largest: float, most: int | None) -> _Found:
        n, step = len(self._vectors), min(_MOST_ROWS, max(_LEAST_ROWS, _CACHE_FLOATS // len(queries)))
        squares = np.einsum("nd,nd->n", queries, queries) + np.float32(largest)
        # Scores are larger where nearer; a Euclidean one is minus half the square.
        slack = _ROUNDING * squares * (0.5 if self._euclidean else 1.0)
        best = np.full((len(queries), k), -np.inf, np.float32)
        worst = np.full(len(queries), -np.inf, np.float32)
        room, above = np.empty(len(queries) * min(step, n), np.float32), np.empty(len(queries) * min(step, n), bool)
        parts: list[_Found] = []
        held = 0
        for first in range(0, n, step):
            count = min(step, n - first)
            shape = (len(queries), count)
            scores, passes = (flat[: len(queries) * count].reshape(shape) for flat in (room, above))
            self._score(queries, self._rows(first, first + count), scores)
            if first == 0 and count > k:  # a first threshold, or everything would pass
                worst = self._worst(np.partition(scores, count - k, axis=1)[:, -k:], slack)
            np.greater_equal(scores, worst[:, None], out=passes)
            flat = np.flatnonzero(passes)
            if not len(flat):
                continue
            query, column = np.divmod(flat, count)
            part = _Found(query, column + first, scores.ravel()[flat])
            best = _merge(best, part, k)
            worst = self._worst(best, slack)
            parts.append(part)
            held += len(flat)
            if held > _KEPT:
                parts = [_best_first(parts, worst, most)]
                held = len(parts[0].query)
        return _best_first(parts, worst, most)

    def _score(self, queries: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        if self._distance == "manhattan":
            from scipy.spatial.distance import cdist

            np.negative(cdist(queries, rows, "cityblock"), out=out, casting="same_kind")
            return
        np.matmul(queries, rows.T, out=out)
        if self._euclidean:
            out -= 0.5 * np.einsum("nd,nd->n", rows, rows)

    def _worst(self, best: np.ndarray, slack: np.ndarray) -> np.ndarray:
        kth = best.min(axis=1)
        # A sum of absolute values does not cancel: it is as exact as its size.
        return (kth - (_ROUNDING * np.abs(kth) if self._distance == "manhattan" else slack)).astype(np.float32)


class _Found(NamedTuple):
    """Candidates: int64[m] query and row, float32[m] score."""

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... inside each of consecutive groups of these sizes."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _merge(best: np.ndarray, found: _Found, k: int) -> np.ndarray:
    """The k best scores of each query, after new ones (their queries ascending)."""
    counts = np.bincount(found.query, minlength=len(best))
    touched = np.flatnonzero(counts)
    place = np.cumsum(counts > 0) - 1
    both = np.full((len(touched), k + int(counts.max())), -np.inf, np.float32)
    both[:, :k] = best[touched]
    both[place[found.query], k + _within(counts)] = found.score
    best[touched] = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    return best


def _best_first(parts: list[_Found], worst: np.ndarray, most: int | None) -> _Found:
    """What still reaches `worst`, by query, best first; of each query the first `most`."""
    query, row, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    keep = np.flatnonzero(score >= worst[query])
    keep = keep[np.lexsort((row[keep], -score[keep], query[keep]))]
    if most is not None:
        keep = keep[_within(np.bincount(query[keep], minlength=len(worst))) < most]
    return _Found(query[keep], row[keep], score[keep])


def exact_topk(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, distance: str, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows by their exact distances. Of rows that are equally near at the edge any may come.

    Args:
      vectors: float32[n, dim]; queries: float32[q, dim]; both prepared.
      k: how many. distance: see `distance.DISTANCES`. threads: of the matrix products.

    Returns:
      rows int64[q, k], nearest first, -1 where there are fewer; distances float32[q, k], +inf there.

    Raises:
      QueryError: queries of another shape or dtype.
    """
    index = ExactIndex(vectors, distance)
    rows, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if not len(vectors):
        return rows, distances
    step = max(1, min(_QUERIES * threads, _GATHER_FLOATS // max(2 * k * queries.shape[1], 1)))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        # Best first by the product: those beyond a few more than k are as near as the k-th, up to rounding.
        found = index.candidates(queries[part], k, threads=threads, most=2 * k + 16)
        if not found.size:
            continue
        items = np.asarray(vectors[np.maximum(found, 0)], np.float32)
        near = np.where(found >= 0, between(queries[part], items, distance), np.float32(np.inf))
        order = np.argsort(near, axis=1, kind="stable")[:, :k]
        rows[part, : order.shape[1]] = np.take_along_axis(found, order, axis=1)
        distances[part, : order.shape[1]] = np.take_along_axis(near, order, axis=1)
    return rows, distances
