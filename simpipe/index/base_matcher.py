"""What every index derives from neighbors: matches, by the calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.index.filters import Filter
from simpipe.index.matching import Groups, MatchRules
from simpipe.index.setting import SearchSetting
from simpipe.types import Matches, Neighbors


class BaseMatcher(ABC):
    """Matches from the neighbors that `lookup` finds.

    Attributes:
      title: what messages call the index.
      calibrated: a calibration made since, which takes the place of the stored one.
    """

    title: str
    calibrated: dict[str, Any] | None = None
    _rules: MatchRules | None = None

    @abstractmethod
    def lookup(
        self,
        vectors: np.ndarray,
        k: int = 5,
        *,
        query_ids: Sequence[str] | None = None,
        target_recall: float | None = None,
        probes: int | None = None,
        setting: SearchSetting | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
        filter: Mapping[str, Any] | Filter | None = None,
    ) -> Neighbors:
        """See `BaseSearcher.lookup`."""

    @abstractmethod
    def calibration(self) -> dict[str, Any]:
        """What `cutpoints.json` holds.

        Raises:
          ReleaseError: not calibrated.
        """

    @property
    def cutpoints(self) -> dict[str, dict[str, Any]]:
        """Cutpoints by name, from calibration.

        Raises:
          ReleaseError: not calibrated.
        """
        return self.calibration()["cutpoints"]

    def group_cutpoints(self) -> pa.Table | None:
        """Cutpoints of groups: value, cutpoint, distance and metrics; None where calibration made none."""
        return None

    @property
    def rules(self) -> MatchRules:
        """How neighbors become matches.

        Raises:
          ReleaseError: not calibrated.
        """
        record = self.calibration()
        if self._rules is None or self._rules.record is not record:
            self._rules = MatchRules(record, self.title, self.group_cutpoints)
        return self._rules

    def match(
        self,
        vectors: np.ndarray,
        cutpoint: str = "optimal",
        *,
        query_ids: Sequence[str] | None = None,
        target_recall: float | None = None,
        probes: int | None = None,
        setting: SearchSetting | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
        filter: Mapping[str, Any] | Filter | None = None,
        matcher: str | None = None,
        by_group: bool = False,
        groups: Groups | None = None,
    ) -> Matches:
        """One label and distance a query: the matcher's answer where it lies within a cutpoint, else None.

        Neighbors are searched as deep as in calibration, and each matcher looks at its first k of them.

        Args:
          vectors: float32[n, dim] (or [dim]).
          cutpoint, matcher, by_group, groups: see `match_found`.
          query_ids and the others: see `lookup`. Cutpoints were calibrated with the release's default setting.

        Raises:
          QueryError: see `match_found`. ReleaseError: not calibrated.
        """
        depth = self.rules.depth
        self.rules.rule(matcher).limit(cutpoint)  # before the search
        # One more, as calibration asks for it: an ANN index may find others if it is asked for fewer.
        neighbors = self.lookup(
            vectors,
            depth + (query_ids is None),
            query_ids=query_ids,
            target_recall=target_recall,
            probes=probes,
            setting=setting,
            exact=exact,
            where=where,
            filter=filter,
        )
        return self.match_found(neighbors.first(depth), cutpoint, matcher=matcher, by_group=by_group, groups=groups)

    def match_found(
        self,
        neighbors: Neighbors,
        cutpoint: str = "optimal",
        *,
        matcher: str | None = None,
        by_group: bool = False,
        groups: Groups | None = None,
    ) -> Matches:
        """The second half of `match`, of neighbors that were found already.

        Args:
          neighbors: of n queries, as `lookup` gives them for `rules.depth` + 1 neighbors, own items left out.
          cutpoint: a name in `cutpoints`.
          matcher: another calibrated one, such as `match_majority_vote@5`; None: the first one.
          by_group: use the group's own cutpoint (`calibrate.by`) where it has one, else the overall one. By `label`, the group
            is the derived label.
          groups: by a metadata column, the queries' values of it, one for all or one a query (None: not known); implies
            `by_group`.

        Raises:
          QueryError: no such cutpoint, matcher or grouping. ReleaseError: not calibrated.
        """
        return self.rules.apply(neighbors, cutpoint, matcher=matcher, by_group=by_group, groups=groups)
