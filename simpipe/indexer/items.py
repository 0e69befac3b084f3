"""Items of an index: adding, looking up, saving, loading, statistics."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from simpipe import memory_release
from simpipe.cutpoints import THRESHOLDS, read_thresholds
from simpipe.embeddings import NO_ENCODER
from simpipe.errors import ConfigError, EmptyIndexError, IncompatibleError, QueryError, ReleaseError
from simpipe.files import local
from simpipe.index.distance import canonical_name
from simpipe.index.labels import LabelKind, decode_labels, encode_labels
from simpipe.index.memory import MemoryIndex
from simpipe.index.searcher import Searcher, open_release
from simpipe.releases import LIVE_JSON
from simpipe.search import make_search
from simpipe.tables import print_columns
from simpipe.types import CalibrationResults, Lookup, Neighbors

if TYPE_CHECKING:
    import pandas as pd


class ItemIndex:
    """Items and their search index; `Indexer` adds calibration, matching and evaluation.

    Args:
      embedding_size: length of the embeddings.
      distance: a name, an alias, or an object of `simpipe.distances`; cosine scales vectors to length one.
      search: `linear` (exact), `nmslib`, `scann`, or an object of `simpipe.search`.
      kv_store, evaluator: only "memory"; items reach the disk by `save`, as a release.
      embedding_output: which output of a model with several holds the embeddings.
      stat_buffer_size: how many of the last lookups `stats` looks at.

    Raises:
      ConfigError: a value that is not offered.
    """

    def __init__(
        self,
        embedding_size: int,
        distance: Any = "cosine",
        search: Any = "linear",
        kv_store: str = "memory",
        evaluator: str = "memory",
        embedding_output: int | None = None,
        stat_buffer_size: int = 1000,
    ) -> None:
        for name, value in (("kv_store", kv_store), ("evaluator", evaluator)):
            if value != "memory":
                raise ConfigError(f"{name} {value!r} is not offered", "leave it out: save_index writes a release to disk")
        self.embedding_size = embedding_size
        self.distance = canonical_name(distance)
        self.backend = make_search(search)
        self.embedding_output = embedding_output
        self.stat_buffer_size = stat_buffer_size
        self.encoder = NO_ENCODER  # fingerprint of the model that made the embeddings
        self.reset()

    @property
    def is_calibrated(self) -> bool:
        try:
            return bool(self.searcher.cutpoints)
        except ReleaseError:
            return False

    def reset(self) -> None:
        """Forgets items, calibration and statistics."""
        self.searcher: MemoryIndex | Searcher = MemoryIndex(self.embedding_size, distance=self.distance, backend=self.backend)
        self.calibration: CalibrationResults | None = None
        self._label_kind: LabelKind | None = None
        self._seconds: deque[float] = deque(maxlen=self.stat_buffer_size)
        self._lookups = 0

    # --- items -------------------------------------------------------------------------------------------------------

    def add(
        self, prediction: Any, label: Any = None, data: Any = None, build: bool = True, verbose: int = 1, *, id: str | None = None
    ) -> str:
        """Adds one item: prediction float[dim] or float[1, dim]. Returns its id; see `batch_add`."""
        labels = None if label is None else [np.asarray(label).reshape(-1)[0] if np.ndim(label) else label]
        payload = None if data is None else [data]
        ids = None if id is None else [id]
        return self.batch_add(np.atleast_2d(self._head(prediction)), labels, payload, build, verbose, ids=ids)[0]

    def batch_add(
        self,
        predictions: Any,
        labels: Any = None,
        data: Sequence[Any] | np.ndarray | None = None,
        build: bool = True,
        verbose: int = 1,
        *,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Adds items, or none of them.

        Args:
          predictions: float[n, dim]; of a model with several outputs the list of them.
          labels: n integers (of any width) or strings; None for none.
          data: anything to keep beside each item, such as its image.
          build: kept for compatibility: the search index is built when first asked after items came.
          verbose: kept for compatibility.
          ids: names of the items; None numbers them on.

        Returns:
          Their ids.

        Raises:
          QueryError: NaN or zero vectors, ids that are taken, labels of another kind than before. IncompatibleError: another dim.
        """
        vectors = np.asarray(self._head(predictions))
        encoded, kind = self._encode(labels, len(vectors))
        index = self._in_memory()
        names = index.add(vectors, encoded, ids=ids, data=None if data is None else list(data))
        self._label_kind = kind or self._label_kind
        return names.tolist()

    def _encode(self, labels: Any, n: int) -> tuple[np.ndarray, LabelKind | None]:
        encoded, kind = encode_labels(labels, n)
        if kind and self._label_kind and kind != self._label_kind:
            raise QueryError(f"labels are of kind {kind}, those of the index of kind {self._label_kind}", "use one kind")
        return encoded, kind

    def _head(self, predictions: Any) -> Any:
        if isinstance(predictions, (list, tuple)) and self.embedding_output is not None:
            return predictions[self.embedding_output]
        return predictions

    def _in_memory(self) -> MemoryIndex:
        """The index as one that can grow: a release that was opened is read into memory."""
        if isinstance(self.searcher, Searcher):
            self.searcher = memory_release.read_into_memory(self.searcher, self.backend)
        return self.searcher

    def build_index(self, verbose: int = 1, **_: Any) -> None:
        """Builds the search index now instead of at the first lookup."""
        if isinstance(self.searcher, MemoryIndex) and self.size():
            self.searcher.partition(0)

    def size(self) -> int:
        """How many items there are."""
        return self.searcher.items

    # --- queries -----------------------------------------------------------------------------------------------------

    def neighbors(self, predictions: Any, k: int = 5, *, query_ids: Sequence[str | int] | None = None) -> Neighbors:
        """The k nearest items of each query as arrays; see `BaseSearcher.lookup`.

        Raises:
          EmptyIndexError: nothing is indexed. QueryError, IncompatibleError: see `check_queries`.
        """
        if not self.size():
            raise EmptyIndexError("the index is empty", "index some examples first")
        vectors = np.asarray(self._head(predictions))
        if query_ids is not None and len(query_ids) != len(vectors):
            raise QueryError(f"{len(query_ids)} query_ids for {len(vectors)} queries", "give one id a query")
        began = time.perf_counter()
        found = self.searcher.lookup(vectors, k, query_ids=None if query_ids is None else [str(name) for name in query_ids])
        self._seconds.append((time.perf_counter() - began) / max(len(vectors), 1))
        self._lookups += len(vectors)
        return found

    def batch_lookup(
        self, predictions: Any, k: int = 5, verbose: int = 1, *, query_ids: Sequence[str | int] | None = None
    ) -> list[list[Lookup]]:
        """The k nearest items of each query as objects, nearest first; fewer where fewer exist."""
        found = self.neighbors(predictions, k, query_ids=query_ids)
        valid = found.valid
        ids = found.ids[valid].tolist()
        labels = decode_labels(found.labels[valid], self._label_kind)
        unique, inverse = np.unique(np.array(ids, str), return_inverse=True)
        vectors = self.searcher.vectors_of(unique.tolist()) if len(unique) else np.empty((0, self.embedding_size), np.float32)
        data = self._data_of(unique.tolist())
        ranks = np.broadcast_to(np.arange(1, valid.shape[1] + 1), valid.shape)[valid].tolist()
        made = [
            Lookup(rank, distance, label, vectors[place], data[place], name)
            for rank, distance, label, place, name in zip(
                ranks, found.distances[valid].tolist(), labels, inverse.tolist(), ids, strict=True
            )
        ]
        bounds = [0, *np.cumsum(valid.sum(axis=1)).tolist()]
        return [made[begin:end] for begin, end in itertools.pairwise(bounds)]

    def single_lookup(self, prediction: Any, k: int = 5) -> list[Lookup]:
        """The k nearest items of one query, float[dim] or float[1, dim]."""
        return self.batch_lookup(np.atleast_2d(self._head(prediction)), k)[0]

    def _data_of(self, ids: list[str]) -> list[Any]:
        if isinstance(self.searcher, MemoryIndex):
            return self.searcher.data_of(ids)
        return memory_release.data_of(self.searcher, ids)

    # --- disk --------------------------------------------------------------------------------------------------------

    def save(
        self, path: str | Path, compression: bool = True, overwrite: bool = True, *, encoder_folder: str | None = None
    ) -> None:
        """Writes a release under the root `path` and makes it live; `simpipe lookup --root` opens it.

        Args:
          path: a folder. compression: kept for compatibility; the store is always compressed.
          overwrite: False refuses a root where something is live.
          encoder_folder: where the model lies, relative to `path`.

        Raises:
          EmptyIndexError: nothing to save. ConfigError: something is live and may not be replaced.
          QueryError: data that is neither an array nor JSON.
        """
        if not self.size():
            raise EmptyIndexError("the index is empty: nothing to save", "index some examples first")
        root = local(path)
        if not overwrite and (root / LIVE_JSON).exists():
            raise ConfigError(f"{root}: holds an index already", "pass overwrite=True, or another path")
        thresholds = self.calibration.thresholds if self.calibration else {}
        about = memory_release.About(self.encoder, encoder_folder, self._label_kind, thresholds)
        memory_release.save_release(self._in_memory(), root, about)

    @classmethod
    def load(cls, path: str | Path, verbose: int = 1) -> Self:
        """Opens the live release of a root, or a release's own folder: one that `save` wrote, or one of the pipeline.

        Raises:
          ReleaseError: nothing is published, or a file was altered.
        """
        searcher = open_release(path)
        loaded = cls(searcher.dim, distance=searcher.distance)
        loaded.searcher = searcher
        loaded.backend = make_search(searcher.manifest.backend)
        loaded.encoder = searcher.encoder
        provenance = searcher.manifest.provenance
        loaded._label_kind = "int" if provenance.get("labels") == "int" else "string"
        if searcher.manifest.has(THRESHOLDS) and searcher.cutpoints:
            loaded.calibration = results_of(searcher.calibration(), read_thresholds(searcher.file(THRESHOLDS)))
        return loaded

    def check_dim(self, size: int) -> None:
        """Raises IncompatibleError where a model's embeddings have another length."""
        if size != self.embedding_size:
            raise IncompatibleError(
                f"the model's embeddings have dim {size}, {self.searcher.title} has dim {self.embedding_size}",
                "load the index that was made with this model",
            )

    # --- what it looks like ------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Number of items and lookups, and seconds a query over the last lookups: min, max, avg, median, stddev."""
        seconds = np.array(self._seconds or [0.0])
        measured = {"min": seconds.min(), "max": seconds.max(), "avg": seconds.mean(), "median": np.median(seconds)}
        performance = {name: float(value) for name, value in {**measured, "stddev": seconds.std()}.items()}
        return {"num_items": self.size(), "num_lookups": self._lookups, "query_performance": performance}

    def print_stats(self) -> None:
        """Prints what the index holds and how fast it answered."""
        about = {"distance": self.distance, "search": self.backend.kind, "embedding size": self.embedding_size}
        measured = self.stats()
        calibrated = ", ".join(self.searcher.cutpoints) if self.is_calibrated else "no"
        rows = {**about, "items": measured["num_items"], "lookups": measured["num_lookups"], "cutpoints": calibrated}
        rows |= {f"seconds a query, {name}": f"{value:.6f}" for name, value in measured["query_performance"].items()}
        print_columns("index", ({"what": name, "value": value} for name, value in rows.items()))

    def to_data_frame(self, num_items: int = 0) -> pd.DataFrame:
        """Items as a pandas data frame: ids, embeddings, labels, data. `num_items` 0 means all.

        Raises:
          ConfigError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ConfigError("to_data_frame needs pandas", "pip install pandas") from None
        index = self._in_memory()
        end = num_items or None
        ids, labels, vectors = (column[:end] for column in index.columns())
        decoded: Any = decode_labels(labels, self._label_kind)
        if None in decoded:
            decoded = pd.Series(decoded, dtype=object)  # pandas would make fractions of integers beside a missing one
        return pd.DataFrame({"ids": ids, "embeddings": list(vectors), "labels": decoded, "data": index.data[:end]})


def results_of(record: dict[str, Any], thresholds: Mapping[str, np.ndarray]) -> CalibrationResults:
    """The calibration as TensorFlow Similarity's users know it, from what a release holds."""
    cutpoints = {name: {key: value for key, value in cut.items() if key != "metric"} for name, cut in record["cutpoints"].items()}
    return CalibrationResults(cutpoints, {**thresholds, "value": thresholds[record["metric"]].copy()})
