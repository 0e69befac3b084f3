"""A client of `simpipe serve`: what a searcher answers, from a server."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.client_answers import ServedMatches, ServedNeighbors, join_matches, join_neighbors, matches_in, neighbors_in
from simpipe.client_http import Http
from simpipe.client_pieces import Value, ask_in_pieces
from simpipe.errors import QueryError
from simpipe.index.distance import bad_rows

_QUERIES, _IMAGES = 1024, 64  # of a request
_BYTES = 8 << 20  # of a request
_DIGITS = 13  # bytes of a number in JSON
Picture = bytes | str | Path


class Client:
    """A server of `simpipe serve`. Threads may share it.

    Args:
      url: such as `http://127.0.0.1:8080`.
      timeout: seconds to wait for one request; the server has a limit of its own.
      patience: seconds that a request is sent again for while the server is busy or changes its release; None: `timeout`.
      transport: in the place of the network, for tests.

    Raises:
      QueryError: that is no address.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        patience: float | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        waits = timeout if patience is None else patience
        self._http, self._timeout = Http(url, timeout=timeout, patience=waits, transport=transport), timeout

    @property
    def url(self) -> str:
        return self._http.url

    def close(self) -> None:
        """Gives connections back."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def lookup(
        self,
        vectors: np.ndarray | None = None,
        k: int = 5,
        *,
        ids: Sequence[str] | None = None,
        images: Sequence[Picture] | None = None,
        names: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        cutpoint: str | None = None,
        target_recall: float | None = None,
        exact: bool = False,
        where: str | None = None,
        metadata: bool | Sequence[str] = False,
        release: str | None = None,
    ) -> ServedNeighbors:
        """The k nearest items of each query; numbers are those of `Searcher.lookup` to the bit.

        Many queries go as several requests; all of them are answered by one release.

        Args:
          vectors: float32[n, dim] (or [dim]). ids: items, each its own nearest neighbor. images: PNG or JPEG, files or their
            bytes. One of the three.
          k: neighbors a query.
          names: of vectors or images, for the answer.
          filter: only items whose metadata fit, see docs/filters.md.
          cutpoint: each neighbor is told within it or not.
          target_recall, exact, where: see `Searcher.lookup`.
          metadata: of neighbors: all columns, or these.
          release: id, tag or `previous`; None: the live one.

        Raises:
          QueryError, IncompatibleError, NotFoundError: what the server says of the query.
          QueueFullError, NotReadyError, DeadlineError: it does not answer (any more).
        """
        options = {"k": k, "filter": filter, "cutpoint": cutpoint, "target_recall": target_recall, "exact": exact}
        options |= {"where": where, "metadata": _asked(metadata), "release": release}
        queries = _queries(vectors, ids, images, names)
        return join_neighbors(self._ask("lookup", queries, options, lambda answer: neighbors_in(answer, metadata=metadata)))

    def match(
        self,
        vectors: np.ndarray | None = None,
        cutpoint: str = "optimal",
        *,
        ids: Sequence[str] | None = None,
        images: Sequence[Picture] | None = None,
        names: Sequence[str] | None = None,
        k: int = 5,
        filter: Mapping[str, Any] | None = None,
        matcher: str | None = None,
        group: str | None = None,
        by_label: bool = False,
        target_recall: float | None = None,
        exact: bool = False,
        where: str | None = None,
        metadata: bool | Sequence[str] = False,
        release: str | None = None,
    ) -> ServedMatches:
        """The label of each query, None where it lies beyond the cutpoint; numbers are those of `Searcher.match` to the bit.

        Args:
          vectors, ids, images, names: see `lookup`; an item that asks for itself is left out.
          cutpoint, matcher: see `Searcher.match`. group: use the cutpoint of this value of the column `calibrate.by`.
          by_label: use the cutpoint of the label that was derived.
          k: neighbors that come with the answer. The others: see `lookup`.

        Raises:
          As `lookup`; SimpipeError: the release is not calibrated.
        """
        options = {"k": k, "cutpoint": cutpoint, "filter": filter, "matcher": matcher, "group": group, "by_label": by_label}
        options |= {"target_recall": target_recall, "exact": exact, "where": where}
        options |= {"metadata": _asked(metadata), "release": release}
        queries = _queries(vectors, ids, images, names)
        return join_matches(self._ask("match", queries, options, lambda answer: matches_in(answer, metadata=metadata)))

    def answers(
        self,
        verb: str,
        options: Mapping[str, Any],
        *,
        vectors: np.ndarray | None = None,
        ids: Sequence[str] | None = None,
        images: Sequence[Picture] | None = None,
    ) -> list[dict[str, Any]]:
        """What the server says to `lookup` or `match`, as it says it: one object a request.

        Args:
          verb: one of the two. options: as the server names them. vectors, ids, images: see `lookup`.
        """
        return self._ask(verb, _queries(vectors, ids, images, None), options, lambda answer: answer)

    def items(self, ids: Sequence[str], *, release: str | None = None) -> pa.Table:
        """Label, partition and metadata of items: a table in the order of `ids`; one request an id.

        Raises:
          NotFoundError: one is not there.
        """
        rows: list[dict[str, Any]] = []
        for name in ids:
            found = self._http.get(f"/v1/items/{quote(name, safe='')}", release=release)
            release = found.pop("release", release)  # all of them from one
            rows.append(_flat(found))
        return pa.Table.from_pylist(rows)

    def sample(self, limit: int = 24, *, label: str | None = None, release: str | None = None) -> pa.Table:
        """Some items to try: those with the lowest hashes of their ids, of one label where it is given."""
        found = self._http.get("/v1/items", limit=limit, label=label, release=release)["items"]
        return pa.Table.from_pylist([_flat(item) for item in found])

    def picture(self, item: str, *, release: str | None = None) -> bytes:
        """The PNG file of an item.

        Raises:
          NotFoundError: it has none.
        """
        params = {} if release is None else {"release": release}
        return self._http.send("GET", f"/v1/items/{quote(item, safe='')}/picture", params=params).content

    def release(self, release: str | None = None) -> dict[str, Any]:
        """What there is to know of a release: items, dim, distance, cutpoints, thresholds, metrics, metadata columns."""
        return self._http.get("/v1/release", release=release)

    def releases(self) -> list[dict[str, Any]]:
        """All releases of the server's root, newest first."""
        return self._http.get("/v1/releases")["releases"]

    def _ask(
        self, verb: str, queries: _Queries, options: Mapping[str, Any], read: Callable[[dict[str, Any]], Value]
    ) -> list[Value]:
        """What is kept of the answers, in the order of the queries, all from one release."""
        said = {name: value for name, value in options.items() if value is not None and value is not False}
        said["timeout"] = self._timeout

        def post(first: int, stop: int) -> dict[str, Any]:
            names = {} if queries.names is None else {"names": list(queries.names[first:stop])}
            return self._http.post(f"/v1/{verb}", {**said, **names, queries.kind: queries.asking[first:stop]})

        return ask_in_pieces(len(queries.asking), queries.most, post, read)


@dataclass(frozen=True)
class _Queries:
    """What asks: `kind` is the name in the request, `most` how many go in one."""

    kind: str
    asking: Any
    names: Sequence[str] | None
    most: int


def _queries(
    vectors: np.ndarray | None, ids: Sequence[str] | None, images: Sequence[Picture] | None, names: Sequence[str] | None
) -> _Queries:
    """The queries of a call.

    Raises:
      QueryError: not exactly one kind of them, none at all, or as many names as there are no queries.
    """
    given = [name for name, value in (("vectors", vectors), ("ids", ids), ("images", images)) if value is not None]
    if len(given) != 1:
        raise QueryError(f"{' and '.join(given) or 'nothing'} asks", "give exactly one of vectors, ids and images")
    if isinstance(ids, str) or isinstance(images, (str, bytes, Path)):
        raise QueryError(f"{given[0]} is a single one", "give a list")
    most, named = _QUERIES, names
    if vectors is not None:
        asking: Any = _checked(vectors)
        most = max(1, _BYTES // (_DIGITS * max(asking.shape[1], 1)))
    elif ids is not None:
        asking = list(ids)
    else:
        asking = [_encoded(image) for image in images or ()]
        most = max(1, min(_IMAGES, _BYTES // max(map(len, asking), default=1)))
        named = [f"row {row}" if isinstance(one, bytes) else str(one) for row, one in enumerate(images or ())]
    if not len(asking):
        raise QueryError("no query is given", "give one at least")
    if names is not None and (ids is not None or len(names) != len(asking)):
        raise QueryError(f"{len(names)} names for {len(asking)} {given[0]}", "give one name a vector or image")
    if named is None and ids is None:
        named = [f"row {row}" for row in range(len(asking))]
    return _Queries(given[0], asking, named if names is None else names, min(most, _QUERIES))


def _checked(vectors: np.ndarray) -> np.ndarray:
    """Queries as float32[n, dim] in one piece of memory; the release's dim is the server's to check."""
    array = np.asarray(vectors)
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise QueryError(f"queries have shape {array.shape} and dtype {array.dtype}", "give float32[n, dim]")
    with np.errstate(over="ignore"):  # what overflows is refused below
        array = np.ascontiguousarray(array, np.float32)
    bad, _ = bad_rows(array, "euclidean")
    if bad.any():
        raise QueryError(f"query row {int(np.argmax(bad))} holds NaN or infinite values", "leave such queries out")
    return array


def _encoded(image: Picture) -> str:
    if not isinstance(image, bytes):
        try:
            image = files.located(image).read_bytes()
        except OSError as error:
            raise QueryError(f"{image}: cannot be read ({error.strerror or error})", "give a PNG or JPEG file") from None
    return base64.b64encode(image).decode()


def _asked(metadata: bool | Sequence[str]) -> bool | list[str]:
    return metadata if isinstance(metadata, bool) else list(metadata)


def _flat(item: dict[str, Any]) -> dict[str, Any]:
    """An item as a row: metadata as columns of their own."""
    return {**{name: value for name, value in item.items() if name != "metadata"}, **(item.get("metadata") or {})}
