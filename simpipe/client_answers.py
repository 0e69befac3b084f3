"""Answers of a server as the records that a searcher returns, with what only a server says beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.errors import SimpipeError
from simpipe.types import Matches, Neighbors

_OWN = frozenset(("rank", "id", "label", "distance", "probability", "within"))


@dataclass(frozen=True)
class ServedNeighbors(Neighbors):
    """Neighbors from a server; as many columns as the longest answer has.

    Attributes:
      release: that answered. distance: its distance.
      queries: names of the queries, object[n]: their ids, or `row 0` and so on.
      query_labels: of queries that are items, object[n].
      metadata: the columns that were asked for, one row a neighbor, in the order of `neighbors_table`; None: none were.
      probabilities: float64[n, k] that the label is the right one, where a cutpoint was named, NaN where there is no neighbor.
      within: bool[n, k], where a cutpoint was named: not beyond it.
      filter: how a filter was answered, as the server says it, one record a request.
    """

    release: str = ""
    distance: str = ""
    queries: np.ndarray = field(default_factory=lambda: np.empty(0, object), repr=False)
    query_labels: np.ndarray = field(default_factory=lambda: np.empty(0, object), repr=False)
    metadata: pa.Table | None = field(default=None, repr=False)
    probabilities: np.ndarray | None = field(default=None, repr=False)
    within: np.ndarray | None = field(default=None, repr=False)
    filter: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ServedMatches(Matches):
    """Matches from a server. `neighbors` are as many as were asked for.

    Attributes:
      release: that answered. cutpoint, matcher: by which.
      filter: how a filter was answered, one record a request.
    """

    release: str = ""
    cutpoint: str = ""
    matcher: str | None = None
    filter: tuple[dict[str, Any], ...] = ()


def neighbors_in(answer: dict[str, Any], *, metadata: bool | Sequence[str] = False) -> ServedNeighbors:
    """The neighbors in an answer.

    Args:
      answer: a JSON object. metadata: what was asked for.

    Raises:
      SimpipeError: it is no such answer.
    """
    try:
        results = answer["results"]
        found = [result["neighbors"] for result in results]
        lengths = np.array([len(row) for row in found], np.int64)
        there = np.arange(lengths.max(initial=0)) < lengths[:, None]
        flat = list(chain.from_iterable(found))
        return ServedNeighbors(
            _spread([one["id"] for one in flat], there, object, None),
            _spread([one["label"] for one in flat], there, object, None),
            _spread([one["distance"] for one in flat], there, np.float32, np.inf),
            release=answer["release"],
            distance=answer["distance"],
            queries=np.array([result["query"] for result in results], object),
            query_labels=np.array([result["label"] for result in results], object),
            metadata=_metadata(flat, metadata),
            probabilities=_given(flat, "probability", there, np.float64, np.nan),
            within=_given(flat, "within", there, bool, False),
            filter=(answer["filter"],) if answer.get("filter") is not None else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(error) from None


def matches_in(answer: dict[str, Any], *, metadata: bool | Sequence[str] = False) -> ServedMatches:
    """The matches in an answer; see `neighbors_in`."""
    neighbors = neighbors_in(answer, metadata=metadata)
    try:
        found = [result["match"] for result in answer["results"]]
        likely = [one["probability"] for one in found]
        return ServedMatches(
            np.array([one["label"] for one in found], object),
            np.array([np.inf if one["distance"] is None else one["distance"] for one in found], np.float32),
            neighbors,
            None if None in likely else np.array(likely, np.float64),
            np.array([one["cutpoint_distance"] for one in found], np.float32),
            release=neighbors.release,
            cutpoint=found[0]["cutpoint"],
            matcher=found[0].get("matcher"),
            filter=neighbors.filter,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _broken(error) from None


def join_neighbors(parts: Sequence[ServedNeighbors]) -> ServedNeighbors:
    """The neighbors of consecutive queries, from one release."""
    first = parts[0]
    if len(parts) == 1:
        return first
    tables = [part.metadata for part in parts if part.metadata is not None]
    return ServedNeighbors(
        _stacked([part.ids for part in parts], None),
        _stacked([part.labels for part in parts], None),
        _stacked([part.distances for part in parts], np.inf),
        release=first.release,
        distance=first.distance,
        queries=np.concatenate([part.queries for part in parts]),
        query_labels=np.concatenate([part.query_labels for part in parts]),
        metadata=pa.concat_tables(tables, promote_options="permissive") if tables else None,
        probabilities=_stacked_given([part.probabilities for part in parts], np.nan),
        within=_stacked_given([part.within for part in parts], False),
        filter=tuple(chain.from_iterable(part.filter for part in parts)),
    )


def join_matches(parts: Sequence[ServedMatches]) -> ServedMatches:
    """The matches of consecutive queries, from one release."""
    likely = [part.probabilities for part in parts if part.probabilities is not None]
    return ServedMatches(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.distances for part in parts]),
        join_neighbors([part.neighbors for part in parts if isinstance(part.neighbors, ServedNeighbors)]),
        np.concatenate(likely) if len(likely) == len(parts) else None,
        np.concatenate([part.limits for part in parts if part.limits is not None]),
        release=parts[0].release,
        cutpoint=parts[0].cutpoint,
        matcher=parts[0].matcher,
        filter=tuple(chain.from_iterable(part.filter for part in parts)),
    )


def _stacked(blocks: Sequence[np.ndarray], missing: Any) -> np.ndarray:
    """Blocks [n, k] one below the other, as wide as the widest."""
    width = max(block.shape[1] for block in blocks)
    return np.concatenate([np.pad(block, ((0, 0), (0, width - block.shape[1])), constant_values=missing) for block in blocks])


def _stacked_given(blocks: Sequence[np.ndarray | None], missing: Any) -> np.ndarray | None:
    there = [block for block in blocks if block is not None]
    return _stacked(there, missing) if there else None


def _spread(values: list[Any], there: np.ndarray, dtype: Any, missing: Any) -> np.ndarray:
    """Values one after the other at the places bool[n, k]."""
    out = np.full(there.shape, missing, dtype)
    held = np.empty(len(values), dtype)
    held[:] = values
    out[there] = held
    return out


def _given(flat: list[dict[str, Any]], name: str, there: np.ndarray, dtype: Any, missing: Any) -> np.ndarray | None:
    if not any(name in one for one in flat[:1]):
        return None
    return _spread([missing if one[name] is None else one[name] for one in flat], there, dtype, missing)


def _metadata(flat: list[dict[str, Any]], asked: bool | Sequence[str]) -> pa.Table | None:
    if asked is False:
        return None
    names = list(asked) if not isinstance(asked, bool) else [name for name in (flat[0] if flat else ()) if name not in _OWN]
    return pa.table({name: pa.array([one.get(name) for one in flat]) for name in names})


def _broken(error: Exception) -> SimpipeError:
    said = f"{type(error).__name__}: {error}"
    return SimpipeError(f"the server's answer is not as expected ({said})", "use the same version of simpipe on both sides")
