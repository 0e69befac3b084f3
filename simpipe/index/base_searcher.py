"""What every index answers, whether its partitions lie in a release on disk or in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from simpipe.errors import IncompatibleError, QueryError, ReleaseError
from simpipe.index.distance import bad_rows, between, prepare
from simpipe.index.fan_out import Answered, fan_out
from simpipe.index.matching import Groups, MatchRules
from simpipe.index.merge import TopK, without_self
from simpipe.index.partitions import Partition
from simpipe.index.router import Router
from simpipe.index.rows import names_of, ties_of
from simpipe.index.setting import ALL, SearchSetting
from simpipe.types import Matches, Neighbors

if TYPE_CHECKING:
    from simpipe.index.profile import Profile


class BaseSearcher(ABC):
    """Fan out to partitions, merge, match. Threads may share it.

    Attributes:
      title: what messages call it, such as `release 2026…`.
      dim, distance, encoder: of the indexed vectors; `encoder` is a fingerprint, or `none`.
      partition_rows: rows of each partition that answer, spilled copies among them.
      router: sends queries to partitions.
      calibrated: a calibration made since, which takes the place of the stored one.
    """

    title: str
    dim: int
    distance: str
    encoder: str
    partition_rows: tuple[int, ...]
    router: Router
    calibrated: dict[str, Any] | None = None
    _rules: MatchRules | None = None

    @property
    def items(self) -> int:
        """How many items there are; a spilled one counts once."""
        return sum(self.partition_rows)

    @abstractmethod
    def partition(self, number: int) -> Partition:
        """A partition, loaded or built once."""

    @abstractmethod
    def items_of(self, ids: Sequence[str]) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`.

        Raises:
          QueryError: an id is not there.
        """

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

    def check_encoder(self, fingerprint: str) -> None:
        """Refuses queries of another encoder.

        Raises:
          IncompatibleError: names both fingerprints.
        """
        own = self.encoder
        if fingerprint != own:
            raise IncompatibleError(
                f"the query's encoder {fingerprint[:12]} is not encoder {own[:12]} of {self.title}",
                "embed the query with the release's encoder, or build a release with the new encoder",
            )

    def check_queries(self, vectors: np.ndarray) -> np.ndarray:
        """Queries as the indexes want them: float32[n, dim], prepared for the distance.

        Raises:
          IncompatibleError: another dim.
          QueryError: no 2-d numeric array; NaN, inf, or zero norm under cosine; names the row.
        """
        array = np.asarray(vectors)
        if array.ndim == 1:
            array = array[None, :]
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise QueryError(f"queries have shape {array.shape} and dtype {array.dtype}", "give float32[n, dim]")
        if array.shape[1] != self.dim:
            raise IncompatibleError(
                f"queries have dim {array.shape[1]}, {self.title} has dim {self.dim}",
                "embed the queries with the release's encoder",
            )
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = array.astype(np.float32, copy=False)
        not_finite, zero = bad_rows(array, self.distance)
        for rows, what in ((not_finite, "holds NaN or infinite values"), (zero, "has zero norm, no direction for cosine")):
            if rows.any():
                raise QueryError(f"query row {int(np.argmax(rows))} {what}", "leave such queries out")
        return prepare(array, self.distance)

    # --- how to ask --------------------------------------------------------------------------------------------------

    @property
    def profile(self) -> Profile | None:
        """The search profile, where there is one."""
        return None

    @property
    def default_setting(self) -> SearchSetting:
        """How the index is asked where a call does not say otherwise."""
        return ALL

    def setting_for(
        self, *, target_recall: float | None = None, probes: int | None = None, setting: SearchSetting | None = None
    ) -> SearchSetting:
        """How to ask, from what a call says; at most one of the three.

        Args:
          target_recall: the cheapest setting that was measured to reach it.
          probes: partitions a query, nearest first, the backend as configured.
          setting: as it is.

        Raises:
          QueryError: several are given, probes below 1, no profile, or a target that it does not reach.
        """
        if sum(value is not None for value in (target_recall, probes, setting)) > 1:
            raise QueryError("target_recall, probes and setting exclude each other", "give one of them")
        if setting is not None:
            return setting
        if probes is not None:
            if probes < 1:
                raise QueryError(f"probes is {probes}", "ask at least one partition")
            return SearchSetting(probes=probes)
        if target_recall is None:
            return self.default_setting
        if self.profile is None:
            raise QueryError(f"{self.title} has no search profile", "build it with build.profile.queries above 0, or give probes")
        return self.profile.setting_for(target_recall)

    # --- queries -----------------------------------------------------------------------------------------------------

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        *,
        target_recall: float | None = None,
        probes: int | None = None,
        setting: SearchSetting | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
    ) -> TopK:
        """Merged candidates of a block of queries with `k` columns (fewer: all items), without ids; see `lookup`."""
        _check_k(k)
        queries = self.check_queries(vectors)
        how = ALL if exact else self.setting_for(target_recall=target_recall, probes=probes, setting=setting)
        answer = self._fan_out(queries, min(k, self.items), how, exact, where)
        return TopK(answer.distances, ties_of(answer.tables, answer.place), answer.place)

    def _fan_out(
        self, queries: np.ndarray, k: int, setting: SearchSetting, exact: bool, where: str | Sequence[str | None] | None
    ) -> Answered:
        return fan_out(
            queries,
            k,
            self.ask(queries, k, ALL if exact else setting, where),
            self.partition,
            setting=setting,
            exact=exact,
            copies=sum(self.partition_rows) > self.items,
            ready=self.is_loaded,
        )

    def ask(
        self, queries: np.ndarray, k: int, setting: SearchSetting, where: str | Sequence[str | None] | None = None
    ) -> np.ndarray:
        """The partitions that each query asks: bool[n, partitions]; empty ones never.

        Where those of the setting may hold fewer than k items, all are asked, so that k come back if there are k.

        Args:
          queries: float32[n, dim], prepared.
        """
        rows = np.array(self.partition_rows)
        asked = self.router.ask(queries, setting, [where] * len(queries) if isinstance(where, str) else where)
        if where is None:
            # Copies of an item in two partitions count once.
            needed = k if rows.sum() == self.items else 2 * k
            asked = asked | (asked @ rows < needed)[:, None]
        return asked & (rows > 0)

    def is_loaded(self, number: int) -> bool:
        """Whether a partition answers without being loaded first."""
        del number
        return True

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
    ) -> Neighbors:
        """The k nearest items of each query.

        Args:
          vectors: float32[n, dim] (or [dim]).
          k: neighbors a query; a smaller index answers with what exists.
          query_ids: ids of the queries; where given, an item of the same id is left out.
          target_recall, probes, setting: how to ask, see `setting_for`; none: the release's own default.
          exact: scan everything instead of using the ANN indexes.
          where: a value of the routing column (one for all queries, or one a query): only its partitions are asked.

        Returns:
          Neighbors, nearest first, min(k, items) columns.

        Raises:
          IncompatibleError, QueryError: see `check_queries` and `setting_for`.
          ReleaseError: a file of the release was altered.
        """
        _check_k(k)
        queries = self.check_queries(vectors)
        how = ALL if exact else self.setting_for(target_recall=target_recall, probes=probes, setting=setting)
        answer = self._fan_out(queries, min(k + (query_ids is not None), self.items), how, exact, where)
        neighbors = Neighbors(*names_of(answer.tables, answer.place), answer.distances)
        return neighbors if query_ids is None else without_self(neighbors, np.asarray(query_ids, object), k)

    def lookup_items(
        self,
        ids: Sequence[str],
        k: int = 5,
        *,
        target_recall: float | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
    ) -> Neighbors:
        """The nearest items of indexed items: each item itself first, by id, also where it has exact twins.

        Args:
          ids: items of the release.
          k: neighbors an item, itself included. The others: see `lookup`.

        Raises:
          QueryError: an id is not in the release, or k is below 1.
        """
        _check_k(k)
        vectors = self.vectors_of(ids)
        own = between(vectors, vectors[:, None], self.distance)
        labels = np.asarray(self.items_of(ids).column("label").to_pylist(), object)[:, None]
        mine = Neighbors(np.asarray(list(ids), object)[:, None], labels, own)
        others = self.lookup(vectors, k, query_ids=ids, target_recall=target_recall, exact=exact, where=where)
        return Neighbors(
            *(
                np.concatenate([getattr(mine, name), getattr(others, name)[:, : k - 1]], axis=1)
                for name in ("ids", "labels", "distances")
            )
        )

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

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """The indexed vectors of items: float32[len(ids), dim].

        Raises:
          QueryError: an id is not in the release.
        """
        numbers = self.items_of(ids).column("partition").to_numpy()
        names = np.asarray(list(ids), object)
        out = np.empty((len(names), self.dim), np.float32)
        for number in np.unique(numbers):
            part, places = self.partition(int(number)), np.flatnonzero(numbers == number)
            rows = part.rows_of(names[places])
            if (rows < 0).any():
                missing = names[places][rows < 0][0]
                raise ReleaseError(f"{self.title}: id {missing!r} is in the store but not in its partition", "build again")
            out[places] = part.vectors[rows]
        return out


def _check_k(k: int) -> None:
    if k < 1:
        raise QueryError(f"k is {k}", "ask for at least one neighbor")
