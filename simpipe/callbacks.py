"""Keras callbacks that measure an encoder by what its index would answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from simpipe.classification_metrics import ClassificationMetric, make_classification_metric
from simpipe.errors import ConfigError
from simpipe.index.labels import encode_labels
from simpipe.indexer import Indexer
from simpipe.matchers import ClassificationMatch, make_classification_match
from simpipe.retrieval_metrics import RetrievalMetric

_LOG = logging.getLogger(__name__)


class EvalCallback(keras.callbacks.Callback):
    """At the end of each epoch: embeds targets and queries with the model, and logs classification and retrieval metrics.

    The index is the callback's own: the model's index and calibration stay as they are. Results are in the epoch's
    logs, so that `History`, early stopping and checkpoints see them.

    Args:
      queries: examples asked: an array, or a data set of batches (x, y).
      query_labels: n labels; None where `queries` brings its own.
      targets, target_labels: the examples that are indexed, in the same forms.
      distance: of the index; "auto" is that of the model's index.
      metrics: classification metrics, names or objects, at each of `distance_thresholds`.
      tb_logdir: TensorBoard scalars go to its folder `index`.
      k, matcher: how neighbors become a match.
      distance_thresholds: None for one of infinity: every query counts as matched. With several, the logs' names carry
        the threshold: `binary_accuracy@0.1`.
      known_classes: labels seen in training: metrics are logged twice, as `…_known_classes` and `…_unknown_classes`.
      retrieval_metrics: objects of `simpipe.retrieval_metrics`.

    Raises:
      ConfigError: an unknown metric or matcher, or no query on one side of `known_classes`.
    """

    def __init__(
        self,
        queries: Any,
        query_labels: Any = None,
        targets: Any = None,
        target_labels: Any = None,
        distance: Any = "auto",
        metrics: Sequence[str | ClassificationMetric] = ("binary_accuracy",),
        tb_logdir: str | Path | None = None,
        k: int = 1,
        matcher: str | ClassificationMatch = "match_nearest",
        distance_thresholds: Sequence[float] | None = None,
        known_classes: Any = None,
        retrieval_metrics: Sequence[RetrievalMetric] | None = None,
    ) -> None:
        super().__init__()
        if targets is None:
            raise ConfigError("EvalCallback: no targets", "give the examples to index, with their labels")
        self.queries, self.query_labels = queries, query_labels
        self.targets, self.target_labels = targets, target_labels
        self.distance = distance
        self.evaluation_metrics = [make_classification_metric(metric) for metric in metrics]
        self.k, self.matcher = k, make_classification_match(matcher)
        thresholds = [math.inf] if distance_thresholds is None else np.asarray(distance_thresholds, float).reshape(-1).tolist()
        self.distance_thresholds = thresholds
        self.known_classes = None if known_classes is None else np.asarray(known_classes).reshape(-1)
        self.retrieval_metrics = list(retrieval_metrics or ())
        self._logdir = None if tb_logdir is None else Path(tb_logdir) / "index"
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        results = self.evaluate()
        if logs is not None:
            logs.update(results)
        self._to_tensorboard(results, epoch)
        _LOG.info("epoch %d: %s", epoch + 1, " - ".join(f"{name}: {value:.4f}" for name, value in results.items()))

    def evaluate(self) -> dict[str, float]:
        """The metrics of the model as it is now, by name."""
        model: Any = self.model
        target_vectors, target_labels = model.embed(self.targets, self.target_labels)
        distance = model.indexer.distance if isinstance(self.distance, str) and self.distance == "auto" else self.distance
        indexer = Indexer(target_vectors.shape[1], distance)
        indexer.batch_add(target_vectors, target_labels)
        vectors, labels = model.embed(self.queries, self.query_labels)
        labels = np.asarray(labels).reshape(-1)
        results: dict[str, float] = {}
        for suffix, rows in self._parts(labels):
            results |= {f"{name}{suffix}": value for name, value in self._measure(indexer, vectors[rows], labels[rows])}
        return results

    def _parts(self, labels: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The queries, or those of known and of unknown classes: suffix of the names, rows."""
        if self.known_classes is None:
            return [("", np.arange(len(labels)))]
        known, _ = encode_labels(self.known_classes, len(self.known_classes))
        is_known = np.isin(encode_labels(labels, len(labels))[0].astype(str), known.astype(str))
        parts = [("_known_classes", np.flatnonzero(is_known)), ("_unknown_classes", np.flatnonzero(~is_known))]
        for suffix, rows in parts:
            if not len(rows):
                raise ConfigError(
                    f"EvalCallback: no query of {suffix[1:].replace('_', ' ')}", "check known_classes and the queries"
                )
        return parts

    def _measure(self, indexer: Indexer, vectors: np.ndarray, labels: np.ndarray) -> list[tuple[str, float]]:
        values = indexer.evaluate_classification(
            vectors, labels, self.distance_thresholds, self.evaluation_metrics, self.matcher, self.k
        )
        found = []
        for metric in self.evaluation_metrics:
            for place, threshold in enumerate(self.distance_thresholds):
                name = metric.name if len(self.distance_thresholds) == 1 else f"{metric.name}@{threshold:g}"
                found.append((name, float(values[metric.name][place])))
        if self.retrieval_metrics:
            retrieved = indexer.evaluate_retrieval(vectors, labels, self.retrieval_metrics)
            found += [(name, float(value)) for name, value in retrieved.items()]
        return found

    def _to_tensorboard(self, results: dict[str, float], epoch: int) -> None:
        if self._logdir is None:
            return
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._logdir))
        with self._writer.as_default():
            for name, value in results.items():
                tf.summary.scalar(name, value, step=epoch)
        self._writer.flush()


class SplitValidationLoss(EvalCallback):
    """`EvalCallback` with known classes in fifth place: TensorFlow Similarity's older name, which its pages still list."""

    def __init__(
        self, queries: Any, query_labels: Any, targets: Any, target_labels: Any, known_classes: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(queries, query_labels, targets, target_labels, *args, known_classes=known_classes, **kwargs)
