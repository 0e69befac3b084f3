"""What an index answers with its labels: calibration, matching, evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simpipe.calibration import Target
from simpipe.calibration import calibrate as pick_cutpoints
from simpipe.classification_metrics import ClassificationMetric, make_classification_metric
from simpipe.cutpoints import calibration_record
from simpipe.errors import NotCalibratedError
from simpipe.evaluation import evaluate_classification, evaluate_retrieval, pairs_of
from simpipe.index.distance import prepare
from simpipe.index.labels import decode_labels
from simpipe.indexer.items import ItemIndex, results_of
from simpipe.matchers import ClassificationMatch, make_classification_match, match_labels
from simpipe.retrieval_metrics import RetrievalMetric
from simpipe.tables import print_columns
from simpipe.types import CalibrationResults, Neighbors, keep_where

_LOG = logging.getLogger(__name__)
_SAME = 1e-4  # relative length of the difference up to which a vector counts as a copy: float32 noise of a model


class Indexer(ItemIndex):
    """An index with its calibration; see `ItemIndex` for the arguments.

    Names and arguments are TensorFlow Similarity's. Search, store, matchers and calibration are those of the pipeline:
    an indexer holds a release of one partition in memory, or a release on disk that it opened.
    """

    @property
    def cutpoints(self) -> dict[str, dict[str, Any]]:
        """Raises NotCalibratedError before `calibrate`."""
        return self._calibrated()["cutpoints"]

    def _calibrated(self) -> dict[str, Any]:
        if not self.is_calibrated:
            raise NotCalibratedError("the index is not calibrated", "call calibrate(x, y) with examples that are not indexed")
        return self.searcher.calibration()

    def get_calibration_metric(self) -> ClassificationMetric:
        """The metric that the index was calibrated on."""
        return make_classification_metric(self._calibrated()["metric"])

    def calibrate(
        self,
        predictions: Any,
        target_labels: Any,
        thresholds_targets: Mapping[str, float] | None = None,
        calibration_metric: str | ClassificationMetric = "f1",
        k: int = 1,
        matcher: str | ClassificationMatch = "match_nearest",
        extra_metrics: Sequence[str | ClassificationMetric] = ("precision", "recall"),
        rounding: int = 2,
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> CalibrationResults:
        """Finds distance thresholds: the best of the calibration metric (`optimal`), and one for each target.

        An example that is indexed finds itself, at distance 0 and with the right label: with random labels f1 would be 1.
        Calibrate with others, or with `query_ids`, so that each leaves its own item out.

        Args:
          predictions: float[n, dim], embeddings of examples that are not indexed, or of indexed ones with `query_ids`.
          target_labels: n labels of the index's kind.
          thresholds_targets: name of a cutpoint -> wanted value of the calibration metric.
          calibration_metric, extra_metrics: names or objects.
          k, matcher: how neighbors become a match; `match` uses the same.
          rounding: digits shown where `verbose`; nothing is rounded in the results.
          query_ids: ids of the examples; an item of the same id is left out of its own neighbors. Items that were indexed
            without ids are numbered from 0 on: `query_ids=range(n)` for the first n.

        Raises:
          EmptyIndexError: nothing is indexed. SimpipeError: no example has a label. ConfigError: an unknown metric.
        """
        found = self._to_match(predictions, k, query_ids=query_ids)
        labels, _ = self._encode(target_labels, len(found.ids))
        if query_ids is None:
            self._warn_of_copies(predictions, found)
        chosen, made = make_classification_metric(calibration_metric), make_classification_match(matcher)
        targets = [Target(name, chosen.name, float(value)) for name, value in (thresholds_targets or {}).items()]
        result = pick_cutpoints(pairs_of(found, labels, made), metric=chosen, targets=targets, metrics=extra_metrics)
        record = calibration_record(
            result, matcher=made.name, k=k, metric=chosen.name, targets=thresholds_targets or {}, queries=len(labels)
        )
        self.calibration = results_of(record, result.thresholds)
        self.searcher.calibrated = record
        if verbose:
            print_columns("cutpoints", self.calibration.cutpoints.values(), digits=rounding)
        return self.calibration

    def _to_match(self, predictions: Any, k: int, *, query_ids: Sequence[str | int] | None, depth: int = 0) -> Neighbors:
        """The k nearest, searched as deep as in calibration and always for one more: a backend may find others otherwise."""
        wanted = max(k, depth) + (query_ids is None)
        return self.neighbors(predictions, wanted, query_ids=query_ids).first(k)

    def _warn_of_copies(self, predictions: Any, found: Neighbors) -> None:
        copies = int(self._copies(predictions, found).sum())
        if copies * 2 > len(found.ids):
            _LOG.warning(
                "%d of %d calibration examples are indexed themselves: the threshold will be too small. "
                "Calibrate with examples that are not indexed, or pass query_ids.",
                copies,
                len(found.ids),
            )

    def _copies(self, predictions: Any, found: Neighbors) -> np.ndarray:
        """bool[n]: is the nearest neighbor the query itself, as far as float32 can tell."""
        same = np.zeros(len(found.ids), bool)
        if not found.valid.shape[1]:
            return same
        queries = prepare(np.asarray(self._head(predictions), np.float32), self.distance)
        squares = np.einsum("nd,nd->n", queries, queries)
        # What a copy's distance can be at the most; the few that are so near are compared themselves.
        limits = {"cosine": 1e-6, "euclidean": 1e-2 * np.sqrt(squares), "squared_euclidean": 1e-4 * squares}
        rows = np.flatnonzero(found.valid[:, 0] & (found.distances[:, 0] <= limits.get(self.distance, np.inf)))
        if len(rows):
            unique, inverse = np.unique(found.ids[rows, 0].astype(str), return_inverse=True)
            nearest = self.searcher.vectors_of(unique.tolist())[inverse]
            same[rows] = np.linalg.norm(queries[rows] - nearest, axis=1) <= _SAME * np.sqrt(np.maximum(squares[rows], 1e-24))
        return same

    def match(
        self,
        predictions: Any,
        no_match_label: Any = -1,
        k: int | None = None,
        matcher: str | ClassificationMatch | None = None,
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> dict[str, list[Any]]:
        """The label of each query at every cutpoint.

        Args:
          predictions: float[n, dim].
          no_match_label: for a query whose match is farther than the cutpoint.
          k, matcher: those of the calibration if None.
          query_ids: see `calibrate`.

        Returns:
          cutpoint -> n labels, of the type they were indexed with.

        Raises:
          NotCalibratedError: before `calibrate`.
        """
        calibration = self._calibrated()
        found = self._to_match(predictions, k or calibration["k"], query_ids=query_ids, depth=self.searcher.rules.depth)
        labels, distances = match_labels(found, calibration["matcher"] if matcher is None else matcher)
        results = {}
        for name, cutpoint in calibration["cutpoints"].items():
            near = distances <= np.float32(cutpoint["distance"])  # the comparison of the calibration, to the bit
            results[name] = decode_labels(keep_where(labels, near), self._label_kind, no_match_label)
        return results

    # --- evaluation --------------------------------------------------------------------------------------------------

    def evaluate_retrieval(
        self,
        predictions: Any,
        target_labels: Any,
        retrieval_metrics: Sequence[RetrievalMetric],
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Retrieval metrics by name.

        Metrics with `drop_closest_lookup` leave the query's own item out: by id with `query_ids`; without them the
        nearest neighbor, where its vector is the query's (up to float32 noise).
        """
        k = 1 + max(metric.k for metric in retrieval_metrics)
        found = self.neighbors(predictions, k)
        labels, _ = self._encode(target_labels, len(found.ids))
        own = np.zeros(found.ids.shape, bool)
        if query_ids is not None:
            own = np.asarray(found.ids == np.array([str(name) for name in query_ids], object)[:, None], bool)
        elif any(metric.drop_closest_lookup for metric in retrieval_metrics) and found.ids.shape[1]:
            own[:, 0] = self._copies(predictions, found)
        values = evaluate_retrieval(found, own, labels, retrieval_metrics)
        return {name: np.asarray(value) for name, value in values.items()}

    def evaluate_classification(
        self,
        predictions: Any,
        target_labels: Any,
        distance_thresholds: Sequence[float] | np.ndarray,
        metrics: Sequence[str | ClassificationMetric] = ("f1",),
        matcher: str | ClassificationMatch = "match_nearest",
        k: int = 1,
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Metrics at each of t distance thresholds: name -> float64[t], and "distance". `query_ids`: see `calibrate`."""
        depth = self.searcher.rules.depth if self.is_calibrated else k
        found = self._to_match(predictions, k, query_ids=query_ids, depth=depth)
        labels, _ = self._encode(target_labels, len(found.ids))
        return evaluate_classification(found, labels, distance_thresholds, metrics=metrics, matcher=matcher)
