"""What a calibration says about a match, applied as it was made: matcher, cutpoint, probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.errors import QueryError
from simpipe.matchers import match_labels
from simpipe.probability import Probability
from simpipe.types import Matches, Neighbors, keep_where

Groups = str | Sequence[str | int | None]


@dataclass(frozen=True)
class MatchRule:
    """A calibrated matcher.

    Attributes:
      name: such as `match_majority_vote@5`.
      matcher, k: it looks at the first k neighbors.
      cutpoints: by name. probability: of its distances; None where none was fitted.
    """

    name: str
    matcher: str
    k: int
    cutpoints: dict[str, dict[str, Any]]
    probability: Probability | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> MatchRule:
        fitted = record.get("probability")
        probability = None if fitted is None else Probability.from_json(fitted)
        name = f"{record['matcher']}@{record['k']}"
        return cls(name, record["matcher"], record["k"], record["cutpoints"], probability)

    def limit(self, cutpoint: str) -> np.float32:
        """The distance of a cutpoint.

        Raises:
          QueryError: there is no such cutpoint.
        """
        if cutpoint not in self.cutpoints:
            raise QueryError(f"no cutpoint {cutpoint!r}", f"there are: {', '.join(self.cutpoints) or 'none'}")
        return np.float32(self.cutpoints[cutpoint]["distance"])


class MatchRules:
    """The matchers of a calibration.

    Args:
      record: what `cutpoints.json` holds, of this version or an earlier one.
      title: of the release, for messages.
      groups: gives the table of `cutpoints_by.parquet`; called once, when first needed.
    """

    def __init__(self, record: Mapping[str, Any], title: str, groups: Callable[[], pa.Table | None]) -> None:
        self.record = record
        self.depth: int = record.get("depth", record["k"])
        self._title, self._groups = title, groups
        self._first = MatchRule.of(record)
        further = record.get("matchers") or {}
        self._rules = {self._first.name: self._first} | {name: MatchRule.of(each) for name, each in further.items()}
        by = record.get("by")
        self._by: str | None = None if by is None else by["column"]
        self._limits: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def rule(self, matcher: str | None = None) -> MatchRule:
        """The rule of a matcher such as `match_majority_vote@5`; None: the first one.

        Raises:
          QueryError: it was not calibrated.
        """
        if matcher is None:
            return self._first
        if matcher not in self._rules:
            raise QueryError(f"matcher {matcher!r} is not calibrated", f"there are: {', '.join(self._rules)}")
        return self._rules[matcher]

    def apply(
        self,
        neighbors: Neighbors,
        cutpoint: str,
        *,
        matcher: str | None = None,
        by_group: bool = False,
        groups: Groups | None = None,
    ) -> Matches:
        """See `BaseSearcher.match_found`."""
        rule = self.rule(matcher)
        labels, distances = match_labels(neighbors.first(rule.k), rule.matcher)
        limits = np.full(len(labels), rule.limit(cutpoint), np.float32)
        if by_group or groups is not None:
            limits = self._of_groups(self._asked(rule, labels, groups), cutpoint, limits)
        probabilities = None
        if rule.probability is not None:
            unlabelled = labels == None  # noqa: E711  element by element
            probabilities = np.where(np.asarray(unlabelled, bool), 0.0, rule.probability.of(distances))
        # The comparison of the calibration: float32 against float32, the threshold itself is near.
        return Matches(keep_where(labels, distances <= limits), distances, neighbors, probabilities, limits)

    def _asked(self, rule: MatchRule, labels: np.ndarray, groups: Groups | None) -> np.ndarray:
        """The group of each query, object[n] of str or None."""
        if self._by is None:
            raise QueryError(f"{self._title} has no cutpoints by group", "set calibrate.by, and calibrate again")
        if rule is not self._first:
            raise QueryError(
                f"cutpoints by {self._by} are of matcher {self._first.name}, not of {rule.name}", "leave out one of both"
            )
        if self._by == "label":
            if groups is not None:
                raise QueryError(f"{self._title} has cutpoints by label, which is that of the match", "leave out the group")
            return labels
        if groups is None:
            raise QueryError(f"the group of the queries is not given: a value of {self._by}", f"there are: {self._known()}")
        if isinstance(groups, str):
            return np.full(len(labels), groups, object)
        if len(groups) != len(labels):
            raise QueryError(f"{len(groups)} groups for {len(labels)} queries", f"give one value of {self._by} a query")
        return pa.array(groups).cast(pa.string()).to_numpy(zero_copy_only=False)

    def _table(self) -> pa.Table:
        table = self._groups()
        if table is None:
            raise QueryError(f"{self._title} has no cutpoints by group", "set calibrate.by, and calibrate again")
        return table

    def _known(self) -> str:
        values = pc.unique(self._table().column("value")).sort().to_pylist()
        return ", ".join(map(str, values[:20])) + (f" and {len(values) - 20:,} more" if len(values) > 20 else "") or "none"

    def has_own(self, group: str, cutpoint: str) -> bool:
        """Whether a group has a cutpoint of its own of this name."""
        return bool(np.isin(group, self._own(cutpoint)[0]))

    def _own(self, cutpoint: str) -> tuple[np.ndarray, np.ndarray]:
        """Groups, sorted object[g] of str, and their cutpoints of a name: float32[g]."""
        if cutpoint not in self._limits:
            table = self._table()
            table = table.filter(pc.equal(table.column("cutpoint"), cutpoint))
            values = table.column("value").to_numpy().astype(object)
            order = np.argsort(values)
            self._limits[cutpoint] = values[order], table.column("distance").to_numpy().astype(np.float32)[order]
        return self._limits[cutpoint]

    def _of_groups(self, groups: np.ndarray, cutpoint: str, overall: np.ndarray) -> np.ndarray:
        """Cutpoints of groups, float32[n]; `overall` where a group has none of its own."""
        values, distances = self._own(cutpoint)
        if not len(values):
            return overall
        known = np.asarray(groups != None, bool)  # noqa: E711  element by element
        # Not a hash table of all values for each block: there may be a million of them, and one query.
        place = np.searchsorted(values, np.where(known, groups, "")).clip(max=len(values) - 1)
        own = known & np.asarray(values[place] == groups, bool)
        return np.where(own, distances[place], overall)
