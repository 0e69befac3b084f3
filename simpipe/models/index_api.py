"""The index API of models: examples in, neighbors and labels out. The work is `simpipe.indexer`'s; this half embeds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from simpipe.embeddings import NO_ENCODER
from simpipe.errors import ConfigError, EmptyIndexError, IncompatibleError
from simpipe.indexer import Indexer
from simpipe.models.match_api import MatchApi
from simpipe.models.saving import index_root, save_model
from simpipe.training.encoder import fingerprint_of
from simpipe.types import Lookup

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)


class IndexApi(MatchApi):
    """A mixin, before `keras.Model` in the bases, with TensorFlow Similarity's methods.

    Wherever examples are asked for, `x` is an array, a list or a tensor [n, ...], or a `tf.data.Dataset` or
    `keras.utils.PyDataset` of batches `x` or `(x, y)`, which then bring their own labels.
    """

    # --- the index ---------------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        distance: Any = "auto",
        embedding_output: int | None = None,
        kv_store: str = "memory",
        search: Any = "linear",
        evaluator: str = "memory",
        stat_buffer_size: int = 1000,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.compile`, and `create_index` with an empty index.

        Args:
          optimizer, loss, metrics, loss_weights, weighted_metrics, run_eagerly, steps_per_execution, **kwargs: Keras'.
          distance: "auto" takes that of the first loss that has one, and cosine where none has.
          embedding_output, kv_store, search, evaluator, stat_buffer_size: see `create_index`.

        Raises:
          ConfigError: a distance or search that no index knows.
        """
        base: Any = super()
        base.compile(
            optimizer=optimizer,
            loss=loss,
            metrics=metrics,
            loss_weights=loss_weights,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            **kwargs,
        )
        self.create_index(distance, search, kv_store, evaluator, embedding_output, stat_buffer_size)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Keras', with the settings of the index."""
        base: Any = super()
        config = base.get_compile_config()
        return config and {**config, **self.__dict__.get("_index_settings", {})}

    def create_index(
        self,
        distance: Any = "auto",
        search: Any = "linear",
        kv_store: str = "memory",
        evaluator: str = "memory",
        embedding_output: int | None = None,
        stat_buffer_size: int = 1000,
    ) -> None:
        """Gives the model an empty index; `compile` does so too.

        Args:
          distance: a name, an alias, an object of `simpipe.distances`, or "auto" (see `compile`).
          search: "linear" (exact), "nmslib", "scann", or an object of `simpipe.search`.
          kv_store, evaluator: only "memory".
          embedding_output: which output of a model with several holds the embeddings; the first if None.
          stat_buffer_size: how many of the last lookups the statistics look at.

        Raises:
          ConfigError: a value that is not offered.
        """
        model: Any = self
        sizes = model.embedding_sizes
        if sizes and embedding_output is not None and not 0 <= embedding_output < len(sizes):
            raise ConfigError(f"embedding_output is {embedding_output}, the model has {len(sizes)} outputs", "count from 0")
        head = embedding_output if embedding_output is not None else 0 if len(sizes) > 1 else None
        # A model of its own `call` tells its size with its first embeddings; the index waits for them.
        size = sizes[head or 0] if sizes else self.__dict__.get("_size_seen")
        if size is None:
            self._indexer: Indexer | None = None
            self._index_settings: dict[str, Any] = {
                "distance": distance,
                "search": search,
                "embedding_output": embedding_output,
                "stat_buffer_size": stat_buffer_size,
            }
            return
        named = _distance_of(getattr(self, "loss", None)) if isinstance(distance, str) and distance == "auto" else distance
        self._indexer = Indexer(size, named, search, kv_store, evaluator, head, stat_buffer_size)
        self._index_settings = {
            "distance": self._indexer.distance,
            "search": self._indexer.backend.model_dump(mode="json"),
            "embedding_output": embedding_output,
            "stat_buffer_size": stat_buffer_size,
        }

    @property
    def indexer(self) -> Indexer:
        """The model's index on embeddings.

        Raises:
          ConfigError: the model has none yet.
        """
        found = self.__dict__.get("_indexer")
        if found is None:
            settings = self.__dict__.get("_index_settings", {})
            self.create_index(**settings)
            found = self._indexer
        if found is None:
            raise ConfigError("the model has no index yet: its output shape is not known", "index some examples first")
        return found

    def index(
        self,
        x: Any,
        y: Any = None,
        data: Any = None,
        build: bool = True,
        verbose: int = 1,
        *,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Embeds examples and adds them to the index.

        Args:
          x: examples.
          y: n labels: integers of any width, or strings; None for none.
          data: anything to keep beside each item, such as its image: arrays, numbers, text, lists and dicts of them.
          build, verbose: kept for compatibility; the search index is built when first asked.
          ids: names of the items; None numbers them on.

        Raises:
          QueryError: an embedding is NaN or zero, an id is taken, labels of another kind than before.
          IncompatibleError: the model was trained since the index got its first items.
        """
        vectors, labels = self.embed(x, y)
        self._bind()
        payload = np.asarray(data) if hasattr(data, "numpy") else data
        self.indexer.batch_add(vectors, labels, payload, build, verbose, ids=ids)
        _LOG.info("indexed %d examples, %d in all", len(vectors), self.indexer.size())

    def index_single(
        self, x: Any, y: Any = None, data: Any = None, build: bool = True, verbose: int = 1, *, id: str | None = None
    ) -> None:
        """Embeds one example (without a batch axis) and adds it; see `index`."""
        payload = None if data is None else [np.asarray(data) if hasattr(data, "numpy") else data]
        label = None if y is None else [np.asarray(y).reshape(-1)[0] if np.ndim(y) else y]
        self.index(np.asarray(x)[None], label, payload, build, verbose, ids=None if id is None else [id])

    def reset_index(self) -> None:
        """Empties the index; its calibration goes too."""
        self.indexer.reset()

    def index_size(self) -> int:
        """How many items the index holds."""
        return self.indexer.size()

    def index_summary(self) -> None:
        """Prints what the index holds and how fast it answered."""
        self.indexer.print_stats()

    def to_data_frame(self, num_items: int = 0) -> pd.DataFrame:
        """The items as a pandas data frame (ids, embeddings, labels, data); 0 means all of them."""
        return self.indexer.to_data_frame(num_items)

    # --- queries -----------------------------------------------------------------------------------------------------

    def embed(self, x: Any, y: Any = None) -> tuple[np.ndarray, Any]:
        """Embeddings float32[n, dim] of examples, and their labels: `y`, or those of a data set's batches."""
        model: Any = self
        if not (hasattr(x, "element_spec") or isinstance(x, keras.utils.PyDataset)):
            inputs = x if isinstance(x, Mapping) else np.asarray(x)
            if not _length(inputs):
                return np.zeros((0, self.indexer.embedding_size), np.float32), y
            return self._embeddings(model.predict(inputs, verbose=0)), y
        vectors, labels = [], []
        for batch in _batches(x):
            inputs, label, _ = keras.utils.unpack_x_y_sample_weight(batch)
            vectors.append(self._embeddings(model.predict_on_batch(inputs)))
            labels.append(label)
        if not vectors:
            raise EmptyIndexError("the data set has no batches", "give one with examples")
        if y is None and all(label is not None for label in labels):
            y = np.concatenate([np.asarray(label) for label in labels])
        return np.concatenate(vectors), y

    def _embeddings(self, predictions: Any) -> np.ndarray:
        """Of a model's predictions the output that holds the embeddings: float32[n, dim]."""
        indexer = self.__dict__.get("_indexer")
        head = (
            indexer.embedding_output if indexer is not None else self.__dict__.get("_index_settings", {}).get("embedding_output")
        )
        outputs = list(predictions.values()) if isinstance(predictions, dict) else predictions
        if head is None and isinstance(outputs, list):
            head = 0
        vectors = np.asarray(outputs if head is None else outputs[head], np.float32)
        self._size_seen = vectors.shape[-1]
        return vectors

    def embed_queries(self, x: Any, y: Any = None) -> tuple[np.ndarray, Any]:
        """`embed`, refused where the index holds embeddings of other weights: their distances have no meaning.

        Raises:
          IncompatibleError: names both encoders.
        """
        if self.indexer.size() and self.__dict__.get("_bound_at") != self._steps_trained():
            self._bind()
        return self.embed(x, y)

    def _bind(self) -> None:
        """Remembers which weights the index's embeddings come from; refuses to mix those of two encoders.

        Raises:
          IncompatibleError: names both encoders.
        """
        fingerprint = fingerprint_of(self)  # type: ignore[arg-type]
        indexer = self.indexer
        if not indexer.size():
            indexer.encoder = fingerprint
        elif indexer.encoder not in (NO_ENCODER, fingerprint):
            raise IncompatibleError(
                f"the index holds embeddings of encoder {indexer.encoder[:12]}, the model is now {fingerprint[:12]}",
                "the model was trained since: call reset_index() and index all examples again",
            )
        self._bound_at = self._steps_trained()

    def _steps_trained(self) -> int:
        """Tells training since without looking at the weights."""
        optimizer = getattr(self, "optimizer", None)
        return int(np.asarray(keras.ops.convert_to_numpy(optimizer.iterations))) if optimizer is not None else 0

    def lookup(self, x: Any, k: int = 5, verbose: int = 1, *, query_ids: Sequence[str | int] | None = None) -> list[list[Lookup]]:
        """The k nearest items of each example, nearest first; fewer where fewer exist.

        Raises:
          EmptyIndexError: nothing is indexed.
        """
        return self.indexer.batch_lookup(self.embed_queries(x)[0], k, verbose, query_ids=query_ids)

    def single_lookup(self, x: Any, k: int = 5) -> list[Lookup]:
        """The k nearest items of one example (without a batch axis)."""
        return self.lookup(np.asarray(x)[None], k)[0]

    # --- disk --------------------------------------------------------------------------------------------------------

    def save_index(self, filepath: str | Path, compression: bool = True, overwrite: bool = True) -> None:
        """Writes the index as a release under the root `filepath`: `simpipe lookup --root` opens it.

        Raises:
          EmptyIndexError: nothing to save. IncompatibleError: the model was trained since it indexed.
        """
        self._bind()
        self.indexer.save(filepath, compression, overwrite)

    def load_index(self, filepath: str | Path, verbose: int = 1) -> None:
        """Opens a release in the place of the model's index.

        Args:
          filepath: what `save_index` or `save` got, a root (its live release answers), or a release's own folder.
          verbose: kept for compatibility.

        Raises:
          ReleaseError: nothing is published there, or a file was altered. IncompatibleError: another encoder or dim.
        """
        loaded = Indexer.load(index_root(filepath))
        loaded.check_dim(self.indexer.embedding_size)
        if loaded.encoder != NO_ENCODER:
            loaded.searcher.check_encoder(fingerprint_of(self))  # type: ignore[arg-type]
        loaded.embedding_output = self.indexer.embedding_output
        self._indexer = loaded
        self._bound_at = self._steps_trained()

    def save(
        self,
        filepath: str | Path,
        save_index: bool = True,
        compression: bool = True,
        overwrite: bool = True,
        include_optimizer: bool = True,
        **kwargs: Any,
    ) -> None:
        """Saves the model and, where it holds items, its index; see `simpipe.models.saving`.

        Args:
          filepath: a folder (`model.keras` and `index/` go into it), or a `.keras` file (the index goes into the folder
            of the same name with the ending `.index`).
          save_index: False leaves the index out. compression: kept for compatibility.
          overwrite: False refuses to replace anything.
          include_optimizer, **kwargs: Keras'.
        """
        base: Any = super()
        save_model(base.save, filepath, overwrite=overwrite, include_optimizer=include_optimizer, **kwargs)
        indexer = self.__dict__.get("_indexer")
        if save_index and indexer is not None and indexer.size():
            self.save_index(index_root(filepath, saving=True), compression, overwrite)


def _distance_of(losses: Any) -> Any:
    """The distance of the first loss that has one; cosine where none has."""
    if isinstance(losses, Mapping):
        losses = list(losses.values())
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        distance = getattr(loss, "distance", None)
        if distance is not None:
            return distance
    return "cosine"


def _batches(x: Any) -> Iterator[Any]:
    """Batches of a `tf.data.Dataset` or a `PyDataset`, each once."""
    if hasattr(x, "element_spec"):
        yield from x
    else:
        yield from (x[step] for step in range(len(x)))


def _length(inputs: Any) -> int:
    return len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
