"""The router sends items to partitions when building, and queries to partitions when asking.

What it decides between are territories: those of centroids that go together, or a value of the routing column. A territory
is one partition; where it holds more than a partition may and cannot be divided by nearness (equal vectors, one value), it is
several, its items go by the hash of their id, and all of them are asked together. A territory without centroids is an empty
slot: it gets no items and is never asked (a partition that was merged away, until a later split takes its number).
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe import files
from simpipe.errors import ConfigError, ContractError, QueryError
from simpipe.ids import hash_ids
from simpipe.index.nearest import Nearest
from simpipe.index.setting import ALL, SearchSetting

ROUTER_FILE = "router.npz"


def _none() -> np.ndarray:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Router:
    """Where items and queries go. `Router(n)` goes by the hash of the id.

    Attributes:
      partitions: how many.
      kind: `hash`, `kmeans`, `packed` or `column`.
      centroids: float32[c, dim], or None (hash, column).
      owner: int32[c], the territory of each centroid, ascending.
      offsets: float32[c], added to squared distances, alike for items and queries (a power diagram).
      splits: int32[territories], partitions of each; they are numbered territory by territory.
      names: of the territories of a column router: its values.
      spill: `none`, `nearest` or `soar`. reach: an item is also put into a second partition that is at most so much farther
        (squared distance, with offsets) than its own.
      trained: partitions that it had when it was trained, where some were divided or merged since; 0: as many as now.
    """

    partitions: int
    kind: str = "hash"
    centroids: np.ndarray | None = None
    owner: np.ndarray = field(default_factory=_none)
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    splits: np.ndarray = field(default_factory=_none)
    names: tuple[str, ...] = ()
    spill: str = "none"
    reach: float = 0.0
    trained: int = 0

    @functools.cached_property
    def _splits(self) -> np.ndarray:
        return self.splits.astype(np.int64) if len(self.splits) else np.array([self.partitions])

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._splits)])

    @functools.cached_property
    def _seated(self) -> np.ndarray:
        """Territories that have centroids, ascending: int64[owners of `_nearest`]."""
        return np.unique(self.owner).astype(np.int64)

    @functools.cached_property
    def _nearest(self) -> Nearest:
        assert self.centroids is not None
        return Nearest(self.centroids, np.searchsorted(self._seated, self.owner), self.offsets)

    def _all_territories(self, of_seated: np.ndarray, empty: Any) -> np.ndarray:
        """Columns of the seated territories with `empty` between them for slots: [n, territories]."""
        if len(self._seated) == len(self._splits):
            return of_seated
        out = np.full((len(of_seated), len(self._splits)), empty, of_seated.dtype)
        out[:, self._seated] = of_seated
        return out

    @property
    def values(self) -> dict[str, range]:
        """The partitions of each value of a column router."""
        return {name: range(self._starts[i], self._starts[i + 1]) for i, name in enumerate(self.names)}

    def territories_of(self, partitions: Sequence[int] | np.ndarray) -> np.ndarray:
        """The territory of each partition: int64[n]."""
        return np.searchsorted(self._starts, np.asarray(partitions, np.int64), side="right") - 1

    @property
    def splits_of(self) -> np.ndarray:
        """Into how many partitions each partition's territory is divided by hash: int64[partitions]."""
        return np.repeat(self._splits, self._splits)

    @property
    def slots(self) -> tuple[int, ...]:
        """Partitions without centroids, of routers that go by nearness: they get no items."""
        if self.centroids is None:
            return ()
        empty = np.setdiff1d(np.arange(len(self._splits)), self._seated)
        return tuple(self._starts[empty].tolist())

    # --- items -------------------------------------------------------------------------------------------------------

    def assign(
        self,
        ids: pa.Array | pa.ChunkedArray,
        vectors: np.ndarray,
        values: pa.Array | pa.ChunkedArray | Sequence[str] | None = None,
    ) -> np.ndarray:
        """The partition of each item: int64[n]. It follows from the item alone, whatever else is in the block.

        Args:
          ids: of the items. vectors: float32[n, dim], prepared.
          values: of the routing column (column router only).

        Raises:
          ConfigError: a value that the router has not been told of.
        """
        return self._partition(ids, self._territory(vectors, values, len(ids)))

    def replicas(self, vectors: np.ndarray, primary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spilled copies: rows int64[m], ascending, and the second partition of each int64[m]; none without spill.

        Args:
          vectors: float32[n, dim], prepared. primary: int64[n], from `assign`.
        """
        return self._spilled(vectors, self.territories_of(primary), primary)[1]

    def route(
        self,
        ids: pa.Array | pa.ChunkedArray,
        vectors: np.ndarray,
        values: pa.Array | pa.ChunkedArray | Sequence[str] | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """What `assign` and `replicas` return, at the cost of one of them."""
        if self.spill == "none" or self.centroids is None:
            return self.assign(ids, vectors, values), (np.zeros(0, np.int64), np.zeros(0, np.int64))
        own, copies = self._spilled(vectors, None, hash_ids(ids))
        return self._partition(ids, own), copies

    def _spilled(
        self, vectors: np.ndarray, own: np.ndarray | None, spread: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        nothing = np.zeros(0, np.int64)
        if self.spill == "none" or self.centroids is None or len(self._seated) == 1:
            return self._territory(vectors, None, len(vectors)) if own is None else own, (nothing, nothing)
        own = None if own is None else np.searchsorted(self._seated, own)
        own, rows, second, _ = self._nearest.spilled(vectors, own, soar=self.spill == "soar", reach=self.reach)
        own, second = self._seated[own], self._seated[second]
        # A divided territory is full of equal vectors: copies of them would find nothing new, and there are many.
        kept = self._splits[own[rows]] == 1
        rows, second = rows[kept], second[kept]
        return own, (rows, self._starts[second] + spread[rows].astype(np.int64) % self._splits[second])

    def _territory(self, vectors: np.ndarray, values: Any, count: int) -> np.ndarray:
        if self.kind == "column":
            if values is None:
                raise ConfigError("the column router needs the values of its column", "pass `values`")
            found = self._value_numbers(values)
            unknown = np.flatnonzero(found < 0)
            if len(unknown):
                value = list(values)[unknown[0]]
                raise ConfigError(f"value {value!r} was not there when the router was made", "build again")
            return found
        return np.zeros(count, np.int64) if self.centroids is None else self._seated[self._nearest.owner_of(vectors)]

    def _partition(self, ids: pa.Array | pa.ChunkedArray, territory: np.ndarray) -> np.ndarray:
        splits = self._splits[territory]
        out = self._starts[territory]
        rows = np.flatnonzero(splits > 1)
        if len(rows):
            chosen = ids if len(rows) == len(ids) else ids.take(pa.array(rows))
            out[rows] += (hash_ids(chosen) % splits[rows].astype(np.uint64)).astype(np.int64)
        return out

    def _value_numbers(self, values: Any) -> np.ndarray:
        """The territory of each value: int64[n], -1 for unknown ones."""
        given = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(list(values), pa.string())
        found: Any = pc.index_in(  # pyright: ignore[reportAttributeAccessIssue]
            given.cast(pa.string()), value_set=pa.array(self.names, pa.string())
        )
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    # --- queries -----------------------------------------------------------------------------------------------------

    def nearness(self, queries: np.ndarray) -> np.ndarray:
        """How much farther each partition's nearest centroid is than the nearest of all: float32[n, partitions].

        Squared distance with offsets; 0 for the nearest, inf for empty slots. All 0 where the router does not go by nearness.

        Args:
          queries: float32[n, dim], prepared.
        """
        if self.centroids is None:
            return np.zeros((len(queries), self.partitions), np.float32)
        return self._spread(self._all_territories(self._nearest.nearness(queries), np.inf))

    def ask(self, queries: np.ndarray, setting: SearchSetting = ALL, where: Sequence[str | None] | None = None) -> np.ndarray:
        """Which partitions each query asks: bool[n, partitions].

        By nearness those within the setting's margin, and of these the nearest `probes`; the nearest one always. A
        territory of several partitions counts as one probe. Hash and column routers ask all.

        Args:
          queries: float32[n, dim], prepared.
          setting: its `probes` and `margin`.
          where: a value of the routing column a query: only that value's partitions are asked, none for an unknown value, all
            for None.

        Raises:
          QueryError: `where` is given, and the router does not go by a column; or has not one value a query.
        """
        if where is not None:
            return self._where(where, len(queries))
        if self.centroids is None:
            return np.ones((len(queries), self.partitions), bool)
        few = setting.probes is not None and setting.probes < len(self._seated)
        if not (few or setting.margin is not None):
            return self._spread(self._all_territories(np.ones((len(queries), len(self._seated)), bool), False))
        near = self._nearest.nearness(queries)
        asked = np.ones(near.shape, bool) if setting.margin is None else near <= max(setting.margin, 0.0)
        if few:
            assert setting.probes is not None
            first = np.argpartition(near, setting.probes - 1, axis=1)[:, : setting.probes]
            nearest = np.zeros(near.shape, bool)
            np.put_along_axis(nearest, first, True, axis=1)
            asked &= nearest
        return self._spread(self._all_territories(asked, False))

    def _where(self, where: Sequence[str | None], count: int) -> np.ndarray:
        if self.kind != "column":
            raise QueryError(f"`where` needs a release routed by a column; this one goes by {self.kind}", "leave `where` out")
        if len(where) != count:
            raise QueryError(f"`where` has {len(where)} values for {count} queries", "give one a query")
        found = self._value_numbers(where)
        asked = found[:, None] == np.arange(len(self.names))
        asked[np.asarray(where, object) == None] = True  # noqa: E711  element by element
        return self._spread(asked)

    def _spread(self, of_territories: np.ndarray) -> np.ndarray:
        if len(self._splits) == self.partitions:
            return of_territories
        return np.repeat(of_territories, self._splits, axis=1)

    # --- file --------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Writes one `.npz` without pickles; the same router gives the same bytes."""
        about = {"partitions": self.partitions, "kind": self.kind, "names": list(self.names)}
        about |= {"spill": self.spill, "reach": self.reach}
        if self.trained:
            about["trained"] = self.trained
        arrays: dict[str, Any] = {"owner": self.owner, "offsets": self.offsets, "splits": self.splits}
        if self.centroids is not None:
            arrays["centroids"] = self.centroids
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path, partitions: int | None = None) -> Router:
        """Reads what `save` wrote.

        Args:
          path: of the file. partitions: how many it has to have.

        Raises:
          ContractError: it is damaged, or has another number of partitions.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                about = json.loads(data["about"].tobytes())
                arrays = {name: data[name] for name in ("centroids", "owner", "offsets", "splits") if name in data}
            router = cls(**arrays, **{**about, "names": tuple(about["names"])})
            wrong = router._starts[-1] != router.partitions or partitions not in (None, router.partitions)
            if router.centroids is not None and (np.diff(router.owner) < 0).any():
                raise ValueError("owners of centroids are not ascending")
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise ContractError(f"{path}: no router ({error})", "restore or rebuild the release") from error
        if wrong:
            raise ContractError(f"{path}: {router.partitions} partitions, expected {partitions}", "rebuild the release")
        return router


def sample_rows(ids: pa.Array | pa.ChunkedArray, *, share: float, seed: int) -> np.ndarray:
    """Which rows a routing sample holds: bool[n]; decided id by id, so that file order does not matter."""
    return hash_ids(ids, seed=seed + 7).astype(np.float64) < share * 2.0**64
