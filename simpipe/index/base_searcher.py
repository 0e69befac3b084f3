"""What every index answers, whether its partitions lie in a release on disk or in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from simpipe.errors import IncompatibleError, QueryError, ReleaseError
from simpipe.index.attributes import Labels
from simpipe.index.base_matcher import BaseMatcher
from simpipe.index.distance import bad_rows, between, prepare
from simpipe.index.fan_out import Answered, fan_out
from simpipe.index.filtered import Filtered, FilteredSearch
from simpipe.index.filters import Filter, parse_filter
from simpipe.index.gathered import Gathered
from simpipe.index.merge import TopK, without_self
from simpipe.index.partitions import Partition
from simpipe.index.router import Router
from simpipe.index.rows import Rows, names_of, place_of, ties_of
from simpipe.index.selection import Selection, Selections
from simpipe.index.setting import ALL, SearchSetting
from simpipe.index.stored import Vectors
from simpipe.types import Neighbors

if TYPE_CHECKING:
    from simpipe.index.profile import Profile


class BaseSearcher(BaseMatcher):
    """Fan out to partitions, merge, match. Threads may share it.

    Attributes:
      title: what messages call it, such as `release 2026…`.
      dim, distance, encoder: of the indexed vectors; `encoder` is a fingerprint, or `none`.
      partition_rows: rows of each partition that answer, spilled copies among them.
      router: sends queries to partitions.
    """

    title: str
    dim: int
    distance: str
    encoder: str
    partition_rows: tuple[int, ...]
    router: Router

    @property
    def items(self) -> int:
        """How many items there are; a spilled one counts once."""
        return sum(self.partition_rows)

    @abstractmethod
    def partition(self, number: int) -> Partition:
        """A partition, loaded or built once."""

    def rows_and_vectors(self, number: int) -> tuple[Rows, Vectors]:
        """What a scan of a partition needs, hidden rows among it."""
        part = self.partition(number)
        return part.rows, part.vectors

    @abstractmethod
    def items_of(self, ids: Sequence[str]) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`.

        Raises:
          QueryError: an id is not there.
        """

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
        filter: Mapping[str, Any] | Filter | None = None,
    ) -> Neighbors:
        """The k nearest items of each query.

        Args:
          vectors: float32[n, dim] (or [dim]).
          k: neighbors a query; a smaller index answers with what exists.
          query_ids: ids of the queries; where given, an item of the same id is left out.
          target_recall, probes, setting: how to ask, see `setting_for`; none: the release's own default.
          exact: scan everything instead of using the ANN indexes.
          where: a value of the routing column (one for all queries, or one a query): only its partitions are asked.
          filter: only items whose metadata fit, see `filters`; `lookup_filtered` also says how it was answered.

        Returns:
          Neighbors, nearest first, min(k, items) columns.

        Raises:
          IncompatibleError, QueryError: see `check_queries` and `setting_for`.
          ReleaseError: a file of the release was altered.
        """
        if filter is not None:
            ask: dict[str, Any] = {"target_recall": target_recall, "probes": probes, "setting": setting}
            return self.lookup_filtered(vectors, k, filter, query_ids=query_ids, exact=exact, where=where, **ask).neighbors
        _check_k(k)
        queries = self.check_queries(vectors)
        how = ALL if exact else self.setting_for(target_recall=target_recall, probes=probes, setting=setting)
        answer = self._fan_out(queries, min(k + (query_ids is not None), self.items), how, exact, where)
        neighbors = Neighbors(*names_of(answer.tables, answer.place), answer.distances)
        return neighbors if query_ids is None else without_self(neighbors, np.asarray(query_ids, object), k)

    @property
    def selections(self) -> Selections:
        """Which rows fit filters. An index without a store knows labels only."""
        return Selections(
            self.title,
            Labels(lambda number: self.partition(number).rows),
            rows=self.partition_rows,
            hidden=lambda number: self.partition(number).hidden,
        )

    def lookup_filtered(
        self,
        vectors: np.ndarray,
        k: int,
        filter: Mapping[str, Any] | Filter,
        *,
        query_ids: Sequence[str] | None = None,
        own_first: bool = False,
        target_recall: float | None = None,
        probes: int | None = None,
        setting: SearchSetting | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
    ) -> Filtered:
        """The k nearest items of each query among those that fit a filter, and how they were found; see `filtered`.

        Args:
          filter: as `filters.parse_filter` takes it.
          own_first: the queries are the items `query_ids`: each stands first, where it fits. Else it is left out.
          The others: see `lookup`.

        Raises:
          QueryError: also for a filter that does not suit the columns that there are.
        """
        _check_k(k)
        queries, asked = self.check_queries(vectors), parse_filter(filter)
        how = ALL if exact else self.setting_for(target_recall=target_recall, probes=probes, setting=setting)
        if isinstance(where, str):
            where = [where] * len(queries)
        deep, selections = min(k + (query_ids is not None), self.items), self.selections
        selection, trust = selections.select(asked), selections.trust(asked, deep)
        search = FilteredSearch(
            self,
            queries,
            deep,
            selection,
            trust,
            setting=how,
            gathered=lambda: selections.gathered(asked, lambda: Gathered.of(self, selection)),
            where=where,
            wanted=target_recall or 0.0,
        )
        found, tables, about = search.run(exact=exact)
        neighbors = Neighbors(*names_of(tables, found.place), found.distances)
        about = replace(about, short=selection.items < k)
        if query_ids is None:
            return Filtered(neighbors, about)
        others = without_self(neighbors, np.asarray(query_ids, object), k)
        return Filtered(self._with_own(queries, query_ids, others, selection, k) if own_first else others, about)

    def _with_own(self, queries: np.ndarray, ids: Sequence[str], others: Neighbors, selection: Selection, k: int) -> Neighbors:
        """Items before the others, where they fit."""
        items = self.items_of(ids)
        numbers, place = items.column("partition").to_numpy(), np.empty(len(ids), np.int64)
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            place[mine] = place_of(int(number), self.partition(int(number)).rows_of(np.asarray(list(ids), object)[mine]))
        fits = selection.holds(place)
        own = between(queries, queries[:, None], self.distance)[:, 0]
        labels = items.column("label").to_numpy(zero_copy_only=False)
        width, out = others.ids.shape[1], []
        none = np.full(len(ids), None, object), np.full(len(ids), None, object), np.full(len(ids), np.inf, np.float32)
        mine = np.asarray(list(ids), object), labels, own
        for first, rest, last in zip(mine, (others.ids, others.labels, others.distances), none, strict=True):
            both = np.concatenate([first[:, None], rest, last[:, None]], axis=1)
            out.append(np.where(fits[:, None], both[:, :width], both[:, 1 : width + 1]))
        return Neighbors(*out)

    def lookup_items(
        self,
        ids: Sequence[str],
        k: int = 5,
        *,
        target_recall: float | None = None,
        exact: bool = False,
        where: str | Sequence[str | None] | None = None,
        filter: Mapping[str, Any] | Filter | None = None,
    ) -> Neighbors:
        """The nearest items of indexed items: each item itself first, by id, also where it has exact twins.

        Args:
          ids: items of the release.
          k: neighbors an item, itself included (unless it does not fit the filter). The others: see `lookup`.

        Raises:
          QueryError: an id is not in the release, or k is below 1.
        """
        _check_k(k)
        vectors = self.vectors_of(ids)
        if filter is not None:
            how: dict[str, Any] = {"target_recall": target_recall, "exact": exact, "where": where}
            return self.lookup_filtered(vectors, k, filter, query_ids=ids, own_first=True, **how).neighbors
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
