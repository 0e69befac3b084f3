"""TensorFlow Similarity's names of search frameworks, as settings of an index's backend. No search of its own lives here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from simpipe.config.index import Backend, ExactBackend, FaissBackend, NmslibBackend, ScannBackend
from simpipe.errors import ConfigError


class Search:
    """A search framework: `backend` is the setting it stands for."""

    backend: Backend


class LinearSearch(Search):
    """Exact search by matrix products. Arguments of TensorFlow Similarity (`distance`, `dim`) are not needed any more."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.backend = ExactBackend(kind="exact")


class NMSLibSearch(Search):
    """HNSW by NMSLIB. The index's distance decides the space.

    Args:
      method: only "hnsw".
      index_params: `M`, `efConstruction`. query_params: `efSearch` (or `ef`).

    Raises:
      ConfigError: another method.
    """

    def __init__(
        self,
        *_: Any,
        method: str = "hnsw",
        index_params: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        **__: Any,
    ) -> None:
        if method != "hnsw":
            raise ConfigError(f"NMSLibSearch: method {method!r} is not offered", "use 'hnsw', or LinearSearch() for exact search")
        index, query = dict(index_params or {}), dict(query_params or {})
        fields = {
            "m": index.get("M"),
            "ef_construction": index.get("efConstruction"),
            "ef": query.get("efSearch", query.get("ef")),
        }
        self.backend = NmslibBackend(kind="nmslib", **{name: int(value) for name, value in fields.items() if value is not None})


class ScannSearch(Search):
    """ScaNN with its settings derived from the number of items (`leaves`, `leaves_to_search`, `reorder`, `exact_below`)."""

    def __init__(self, **settings: Any) -> None:
        self.backend = ScannBackend(kind="scann", **settings)


class FaissSearch(Search):
    """FAISS (`pip install simpipe[faiss]`). The index's distance decides the metric.

    Args:
      algo: "flat" (exact, without FAISS), "hnsw", "ivf".
      m: links of HNSW. nlist: inverted lists; nprobe: lists searched (or efSearch).

    Raises:
      ConfigError: another algorithm ("ivfpq" is not offered).
    """

    def __init__(
        self,
        *_: Any,
        algo: str = "hnsw",
        m: int | None = None,
        nlist: int | None = None,
        nprobe: int | None = None,
        **__: Any,
    ) -> None:
        if algo == "flat":
            self.backend = ExactBackend(kind="exact")
        elif algo in ("hnsw", "ivf"):
            fields = {"m": m, "lists": nlist, "effort": nprobe}
            given = {name: int(value) for name, value in fields.items() if value is not None}
            self.backend = FaissBackend(kind="faiss", index=algo, **given)
        else:
            raise ConfigError(f"FaissSearch: algo {algo!r} is not offered", "use 'hnsw', 'ivf' or 'flat'")


_FROM_JSON: TypeAdapter[Backend] = TypeAdapter(Backend)
_BY_NAME: dict[str, type[Search]] = {
    "linear": LinearSearch,
    "exact": LinearSearch,
    "nmslib": NMSLibSearch,
    "scann": ScannSearch,
    "faiss": FaissSearch,
}


def make_search(search: Any) -> Backend:
    """The backend of a name (`linear`, `nmslib`, `scann`, `faiss`), a `Search`, or a backend's configuration (object or JSON).

    Raises:
      ConfigError: there is no such search.
    """
    if isinstance(search, (ExactBackend, NmslibBackend, ScannBackend, FaissBackend)):
        return search
    if isinstance(search, Search):
        return search.backend
    if isinstance(search, Mapping):
        return _FROM_JSON.validate_python(dict(search))
    if not isinstance(search, str) or search not in _BY_NAME:
        raise ConfigError(f"search {search!r} is unknown", f"use one of {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[search]().backend
