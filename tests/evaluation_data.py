"""Answered blocks made by hand or at random, and parts of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from simpipe.evaluators import EvaluationRules, EvaluationSums, LabelItems
from simpipe.ids import hash_ids
from simpipe.index.answers import Answer, Found
from simpipe.types import keep_where

ITEMS = {"c0": 1, "c1": 2, "c2": 6, "c3": 20, "c4": 9}
RULES = EvaluationRules(
    k=5, recall_at=(1, 3), max_r=5, matcher="match_majority_vote", match_k=3, optimal=0.3, slices=("color", "year"), partitions=4
)
_ITEMS = 60
_LABELS = np.array([f"c{i % 5}" if i % 11 else None for i in range(_ITEMS)], object)
_PARTITION = np.random.default_rng(9).integers(0, 4, _ITEMS)
_TIES = hash_ids([f"i{i}" for i in range(_ITEMS)])


def found_of(distances: np.ndarray, rows: np.ndarray) -> Found:
    """Found items by their rows int64[n, k], -1 for none."""
    there, at = rows >= 0, np.maximum(rows, 0)
    labels = keep_where(_LABELS[at], there)
    place = np.where(there, (_PARTITION[at] << 32) | at, -1)
    return Found(distances, place, np.where(there, _TIES[at], np.uint64(0)), None, labels)


def random_answer(n: int, *, seed: int = 0, deep: bool = False, lose: int | None = None) -> Answer:
    """Queries with and without label, of indexed classes and of another; distances tie often.

    Args:
      lose: items of this partition are never found, and nothing comes in their place. deep: with a deeper search.
    """
    rng = np.random.default_rng(seed)
    distances = (rng.integers(0, 12 if lose is None else 10_000, (n, _ITEMS)) / (16 if lose is None else 10_001)).astype(
        np.float32
    )
    order = np.argsort(distances, axis=1, kind="stable")
    exact = found_of(np.take_along_axis(distances, order, axis=1)[:, :8], order[:, :8])
    if lose is None:
        seen = np.where(rng.random(distances.shape) < 0.8, distances, np.float32(np.inf))
    else:
        seen = np.where(lose == _PARTITION, np.float32(np.inf), distances)
    order = np.argsort(seen, axis=1, kind="stable")
    near = np.take_along_axis(seen, order, axis=1)
    order = np.where(np.isfinite(near), order, -1)
    labels = rng.choice(np.array(["c0", "c1", "c2", "c3", "c4", "new", None], object), n)
    ids = pa.array([f"q{i}" for i in range(n)])
    queries = pa.table(
        {
            "id": ids,
            "label": pa.array(labels, pa.string()),
            "color": pa.array(rng.choice(np.array(["red", "blue", None], object), n), pa.string()),
            "year": pa.array(rng.integers(2001, 2003, n)),
        }
    )
    rows = np.flatnonzero(rng.random(n) < 0.6)
    return Answer(
        queries,
        hash_ids(ids),
        found_of(near[:, :8], order[:, :8]),
        rows,
        Found(*(getattr(exact, name)[rows] for name in ("distances", "place", "tie")), None, exact.labels[rows]),  # type: ignore[index]
        found_of(near[:, :12], order[:, :12]) if deep else None,
    )


def answer_of(found, true, *, places: dict[str, int], labels: list, of: dict[str, str]) -> Answer:
    """An answer from lists of (item, distance) of each query; `places`: partitions of items, `of`: their labels."""

    def made(lists) -> Found:
        names = np.array([[name for name, _ in row] for row in lists], object)
        number = np.array([[places[name] for name in row] for row in names], np.int64)
        tie = np.where(number >= 0, hash_ids(names.ravel().tolist()).reshape(names.shape), np.uint64(0))
        place = np.where(number >= 0, (number << 32) | 7, -1)
        distances = np.array([[distance for _, distance in row] for row in lists], np.float32)
        return Found(distances, place, tie, None, np.array([[of.get(name) for name in row] for row in names], object))

    ids = pa.array([f"q{i}" for i in range(len(labels))])
    queries = pa.table({"id": ids, "label": pa.array(labels, pa.string())})
    return Answer(queries, hash_ids(ids), made(found), np.arange(len(labels)), made(true))


def _take(found: Found | None, rows: np.ndarray) -> Found | None:
    if found is None:
        return None
    return Found(*(getattr(found, name)[rows] for name in ("distances", "place", "tie")), None, found.labels[rows])  # type: ignore[index]


def parts_of(answer: Answer, cuts: list[int], rows: np.ndarray | None = None) -> list[Answer]:
    """Parts of so many queries, and the rest; or the part of some rows."""
    edges = np.minimum(np.cumsum([0, *cuts, len(answer)]), len(answer))
    wanted = [np.arange(first, last) for first, last in pairwise(edges.tolist())] if rows is None else [rows]
    return [_part(answer, rows) for rows in wanted]


def _part(answer: Answer, rows: np.ndarray) -> Answer:
    asked = np.flatnonzero(np.isin(rows, answer.exact_rows))
    lines = np.searchsorted(answer.exact_rows, rows[asked])
    return replace(
        answer,
        queries=answer.queries.take(pa.array(rows, pa.int64())),
        tie=answer.tie[rows],
        found=_take(answer.found, rows),
        exact_rows=asked,
        exact=_take(answer.exact, lines),
        deep=_take(answer.deep, rows),
    )


def same(one: EvaluationSums, other: EvaluationSums) -> bool:
    """Equal, to the bit."""
    return all(
        np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
        for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def items_of(items: dict[str, int]) -> LabelItems:
    """Indexed items a label."""
    return LabelItems(pa.array(list(items), pa.string()), np.array(list(items.values()), np.int64))
