"""What a calibration job adds up over blocks of answered queries, and how it reaches a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrow import pc
from simpipe.calibration.groups import GroupCounts
from simpipe.calibration.pairs import MAX_DISTINCT, PairCounts
from simpipe.index.answers import Answer
from simpipe.matchers import match_labels

LABEL = "label"
_PAIRS = ("distances", "hits", "total", "open")
_GROUPS = ("code", *_PAIRS, "unmatched", "unmatched_open")


@dataclass(frozen=True)
class CountSpec:
    """What is counted.

    Attributes:
      matchers: name and k of each.
      by: `label` (of the match) or a metadata column (of the query): counts by value as well, of the first matcher.
      max_distinct: see `PairCounts`.
    """

    matchers: tuple[tuple[str, int], ...]
    by: str | None = None
    max_distinct: int = MAX_DISTINCT


def matcher_key(matcher: str, k: int) -> str:
    """What a matcher is called in files: `match_nearest@1`."""
    return f"{matcher}@{k}"


@dataclass(frozen=True)
class CalibrationCounts:
    """Counts over queries; they merge in any order.

    Attributes:
      pairs: by matcher, see `matcher_key`. groups: of the first matcher, where asked for.
      queries: all. labelled: those that count. open_set: those among them whose label is not in the index.
    """

    pairs: Mapping[str, PairCounts] = field(default_factory=dict)
    groups: GroupCounts | None = None
    queries: int = 0
    labelled: int = 0
    open_set: int = 0

    @classmethod
    def merge(cls, parts: Iterable[CalibrationCounts], *, max_distinct: int = MAX_DISTINCT) -> CalibrationCounts:
        parts = list(parts)
        names = dict.fromkeys(name for part in parts for name in part.pairs)
        pairs = {
            name: PairCounts.merge([part.pairs[name] for part in parts if name in part.pairs], max_distinct=max_distinct)
            for name in names
        }
        groups = [part.groups for part in parts if part.groups is not None]
        return cls(
            pairs,
            GroupCounts.merge(groups, max_distinct=max_distinct) if groups else None,
            *(sum(getattr(part, name) for part in parts) for name in ("queries", "labelled", "open_set")),
        )

    @property
    def size(self) -> int:
        """Rows that are held."""
        return sum(len(pairs.distances) for pairs in self.pairs.values()) + (len(self.groups.code) if self.groups else 0)

    def save(self, path: Path) -> None:
        about: dict[str, Any] = {name: getattr(self, name) for name in ("queries", "labelled", "open_set")}
        arrays = {f"pairs.{name}.{part}": getattr(pairs, part) for name, pairs in self.pairs.items() for part in _PAIRS}
        about["pairs"] = {name: [pairs.unmatched, pairs.unmatched_open, pairs.dropped_bits] for name, pairs in self.pairs.items()}
        if self.groups is not None:
            about["groups"] = self.groups.dropped_bits
            about["values"] = self.groups.values.to_pylist()
            arrays |= {f"groups.{part}": getattr(self.groups, part) for part in _GROUPS}
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> CalibrationCounts:
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(data["about"].tobytes())
            pairs = {
                name: PairCounts(*(data[f"pairs.{name}.{part}"] for part in _PAIRS), *numbers)
                for name, numbers in about["pairs"].items()
            }
            groups = None
            if "groups" in about:
                values = pa.array(about["values"], pa.large_string())
                groups = GroupCounts(values, *(data[f"groups.{part}"] for part in _GROUPS), dropped_bits=about["groups"])
        return cls(pairs, groups, about["queries"], about["labelled"], about["open_set"])


class Accumulator:
    """Adds counts part by part: small ones wait, and are merged when there are as many rows of them as were merged already.

    So n pairs cost O(n log n), and what comes out is the same as of one merge of all parts.
    """

    _LEAST = 1 << 18

    def __init__(self, max_distinct: int = MAX_DISTINCT) -> None:
        self._max_distinct = max_distinct
        self._merged = CalibrationCounts()
        self._waiting: list[CalibrationCounts] = []
        self._rows = 0

    def add(self, parts: Sequence[CalibrationCounts]) -> Accumulator:
        self._waiting += parts
        self._rows += sum(part.size for part in parts)
        if self._rows > max(self._merged.size, self._LEAST) or len(self._waiting) > self._LEAST:
            self.result()
        return self

    def result(self) -> CalibrationCounts:
        """Everything so far."""
        if self._waiting:
            self._merged = CalibrationCounts.merge([self._merged, *self._waiting], max_distinct=self._max_distinct)
            self._waiting, self._rows = [], 0
        return self._merged


def count_answer(answer: Answer, spec: CountSpec, known_labels: pa.Array | Iterable[str]) -> CalibrationCounts:
    """Counts of one block of answered queries.

    Args:
      answer: with labels of neighbors; as deep as the largest k.
      spec: what is counted.
      known_labels: labels that indexed items carry.
    """
    labels = answer.queries.column(LABEL)
    known: Any = known_labels if isinstance(known_labels, pa.Array) else pa.array(sorted(known_labels), pa.string())
    rows = np.flatnonzero(np.asarray(labels.is_valid()))
    own = answer.labels[rows]
    strangers = ~np.asarray(pc.is_in(labels.cast(pa.large_string()), value_set=known.cast(pa.large_string())))[rows]
    pairs: dict[str, PairCounts] = {}
    groups = None
    for matcher, k in spec.matchers:
        matched, distances = match_labels(answer.found.neighbors(k).take(rows), matcher)
        hits = np.asarray(matched == own, bool)
        counted = PairCounts.of(distances, hits, open_set=strangers, max_distinct=spec.max_distinct)
        if spec.by and not pairs:
            values = pa.array(matched, pa.large_string()) if spec.by == LABEL else answer.queries.column(spec.by).take(rows)
            groups = GroupCounts.of(values, distances, hits, open_set=strangers, max_distinct=spec.max_distinct)
        pairs[matcher_key(matcher, k)] = counted
    return CalibrationCounts(pairs, groups, len(answer), len(rows), int(np.count_nonzero(strangers)))
