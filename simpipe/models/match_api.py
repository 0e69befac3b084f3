"""Calibration, matching and evaluation of models: the half of the index API that needs labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simpipe.classification_metrics import ClassificationMetric
from simpipe.errors import ConfigError
from simpipe.matchers import ClassificationMatch
from simpipe.retrieval_metrics import RetrievalMetric
from simpipe.tables import print_columns
from simpipe.types import CalibrationResults

if TYPE_CHECKING:
    from simpipe.indexer import Indexer


class MatchApi:
    """Methods of `IndexApi`, which brings `embed_queries` and `indexer`."""

    if TYPE_CHECKING:

        @property
        def indexer(self) -> Indexer: ...

        def embed_queries(self, x: Any, y: Any = None) -> tuple[np.ndarray, Any]: ...

    def calibrate(
        self,
        x: Any,
        y: Any = None,
        thresholds_targets: Mapping[str, float] | None = None,
        k: int = 1,
        calibration_metric: str | ClassificationMetric = "f1",
        matcher: str | ClassificationMatch = "match_nearest",
        extra_metrics: Sequence[str | ClassificationMetric] = ("precision", "recall"),
        rounding: int = 2,
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> CalibrationResults:
        """Finds distance thresholds on examples that are not indexed, or on indexed ones whose `query_ids` are given.

        See `Indexer.calibrate`; what was indexed without ids is numbered from 0 on, `query_ids=range(len(x))` for the first.
        """
        vectors, labels = self.embed_queries(x, y)
        return self.indexer.calibrate(
            vectors, labels, thresholds_targets, calibration_metric, k, matcher, extra_metrics, rounding, verbose,
            query_ids=query_ids,
        )  # fmt: skip

    def match(
        self,
        x: Any,
        cutpoint: str = "optimal",
        no_match_label: Any = -1,
        k: int | None = None,
        matcher: str | ClassificationMatch | None = None,
        verbose: int = 0,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> Any:
        """The label of each example: that of its match where it lies within the cutpoint, else `no_match_label`.

        Args:
          x: examples.
          cutpoint: a name in the calibration; "all" for every cutpoint.
          no_match_label: any value.
          k, matcher: those of the calibration if None.
          query_ids: see `calibrate`.

        Returns:
          A list of n labels, of the type they were indexed with; a dict of such lists for "all".

        Raises:
          NotCalibratedError: before `calibrate`. ConfigError: no such cutpoint.
        """
        indexer = self.indexer
        if cutpoint != "all" and cutpoint not in indexer.cutpoints:
            raise ConfigError(f"no cutpoint {cutpoint!r}", f"there are: {', '.join(indexer.cutpoints)}")
        matches = indexer.match(self.embed_queries(x)[0], no_match_label, k, matcher, verbose, query_ids=query_ids)
        return matches if cutpoint == "all" else matches[cutpoint]

    def evaluate_retrieval(
        self,
        x: Any,
        y: Any = None,
        retrieval_metrics: Sequence[RetrievalMetric] = (),
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Retrieval metrics by name; see `Indexer.evaluate_retrieval`."""
        vectors, labels = self.embed_queries(x, y)
        results = self.indexer.evaluate_retrieval(vectors, labels, retrieval_metrics, verbose, query_ids=query_ids)
        if verbose:
            print_columns("retrieval", ({"metric": name, "value": float(value)} for name, value in results.items()))
        return results

    def evaluate_classification(
        self,
        x: Any,
        y: Any = None,
        k: int | None = None,
        extra_metrics: Sequence[str | ClassificationMetric] = ("precision", "recall"),
        matcher: str | ClassificationMatch | None = None,
        verbose: int = 1,
        *,
        query_ids: Sequence[str | int] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Metrics at every cutpoint: its name -> name, distance, the calibration metric and the extra ones.

        The neighbors are looked up once for all cutpoints. `k` and `matcher` are those of the calibration if None; `query_ids`
        as in `calibrate`.

        Raises:
          NotCalibratedError: before `calibrate`. EmptyIndexError: nothing is indexed.
        """
        vectors, labels = self.embed_queries(x, y)
        indexer = self.indexer
        cutpoints, calibration = indexer.cutpoints, indexer.searcher.calibration()
        grid = [cut["distance"] for cut in cutpoints.values()]
        values = indexer.evaluate_classification(
            vectors,
            labels,
            grid,
            [*extra_metrics, indexer.get_calibration_metric()],
            matcher or calibration["matcher"],
            k or calibration["k"],
            query_ids=query_ids,
        )
        results: dict[str, dict[str, Any]] = {
            name: {**{metric: series[row : row + 1] for metric, series in values.items()}, "name": name}
            for row, name in enumerate(cutpoints)
        }
        if verbose:
            rows = ({key: value if key == "name" else float(value[0]) for key, value in res.items()} for res in results.values())
            print_columns("classification", ({"name": row.pop("name"), **row} for row in rows))
        return results
