"""Which queries the report shows, asked of the release once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.config import Config
from simpipe.data.examples import DatasetInfo
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.ids import hash_ids
from simpipe.index.searcher import Searcher
from simpipe.matchers import match_labels
from simpipe.report.cards import CUTPOINT, labels_of, mistakes_of, query_cards, with_pictures
from simpipe.report.model import QueryCard
from simpipe.report.parts import ClassRow, Mistakes
from simpipe.types import QUERY_SPLITS, Neighbors, keep_where

_POOL = 500  # sampled queries among which those to show are found
_SHOWN_CLASSES, _SHOWN_MISTAKES = 6, 2  # worst classes with pictures, and wrong queries of each


def sample_rows(
    embeddings: Path,
    info: EmbeddingsInfo,
    splits: tuple[str, ...],
    *,
    rows: int,
    seed: int,
    labels: list[str] | None = None,
    vectors: bool = True,
) -> pa.Table:
    """Up to `rows` rows of some splits, picked by the hash of the id: the same ones at each run. Files come one by one.

    Args:
      labels: only items with one of these labels. vectors: False: columns id and label only.
    """
    columns = ["id", "label", *(["embedding"] if vectors else [])]
    filters = None if labels is None else [("label", "in", labels)]
    best: pa.Table = pa.table({"id": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    for file in info.of_splits(*splits):
        table = pq.read_table(files.inside(embeddings, file.path), columns=columns, filters=filters)
        table = table.replace_schema_metadata(None)
        best = pa.concat_tables([best, table]) if len(best) else table
        order = np.argsort(hash_ids(best.column("id"), seed=seed + 11), kind="stable")[:rows]
        best = best.take(order)
    return best


@dataclass(frozen=True)
class ShownQueries:
    """Queries that the report shows with their neighbors.

    Attributes:
      examples: the folder of the examples, for pictures; dataset: what it holds. None for ready-made vectors.
    """

    config: Config
    searcher: Searcher
    calibration: dict[str, Any]
    embeddings: Path
    info: EmbeddingsInfo
    examples: Path | None
    dataset: DatasetInfo | None

    @property
    def splits(self) -> tuple[str, ...]:
        """Of the queries that evaluation asked."""
        return QUERY_SPLITS[self.config.evaluate.queries]

    @property
    def limit(self) -> np.float32:
        cutpoints = self.calibration["cutpoints"]
        return np.float32(cutpoints[CUTPOINT]["distance"]) if cutpoints else np.float32(np.inf)

    def match(self, table: pa.Table) -> tuple[Neighbors, np.ndarray, np.ndarray]:
        """Neighbors, derived labels and distances, searched and compared as `BaseSearcher.match` does it."""
        k = self.calibration["k"]
        neighbors = self.searcher.lookup(
            vectors_of(table), self.calibration.get("depth", k), query_ids=table.column("id").to_pylist()
        )
        return neighbors, *match_labels(neighbors.first(k), self.calibration["matcher"])

    def queries(self, indexed: set[str]) -> list[QueryCard]:
        """Some queries: up to a third that the matcher gets wrong, found in a sample, then any."""
        wanted, depth = self.config.report.queries, self.config.report.neighbors
        pool = sample_rows(self.embeddings, self.info, self.splits, rows=max(_POOL, wanted), seed=self.config.seed)
        if not len(pool):
            return []
        labels = np.asarray(pool.column("label").to_pylist(), object)
        _, matched, distances = self.match(pool)
        wrong = np.flatnonzero((labels != None) & (matched != labels))[: wanted // 3]  # noqa: E711  element by element
        others = np.setdiff1d(np.arange(len(pool)), wrong)[: wanted - len(wrong)]
        rows = np.concatenate([wrong, others])
        table = pool.take(rows)
        names = table.column("id").to_pylist()
        neighbors = self.searcher.lookup(vectors_of(table), depth, query_ids=names)
        matches = keep_where(matched[rows], distances[rows] <= self.limit)
        cards = query_cards(names, labels[rows].tolist(), neighbors, matches, limit=self.limit, depth=depth, indexed=indexed)
        return with_pictures(cards, self.pictures(cards))

    def mistakes(self, worst: Sequence[ClassRow]) -> list[Mistakes]:
        """Wrong queries of the worst classes, each with its nearest wrong item."""
        wanted = [row.label for row in worst[:_SHOWN_CLASSES]]
        if not wanted:
            return []
        table = sample_rows(self.embeddings, self.info, self.splits, rows=_POOL, seed=self.config.seed, labels=wanted)
        if not len(table):
            return []
        names, labels = table.column("id").to_pylist(), table.column("label").to_pylist()
        neighbors, matched, distances = self.match(table)
        wrong = np.flatnonzero(matched != np.asarray(labels, object))
        near = distances[wrong] <= self.limit
        rows = [*wrong[near].tolist(), *wrong[~near].tolist()]  # what the cutpoint lets through comes first
        found = mistakes_of(wanted, names, labels, neighbors, rows, each=_SHOWN_MISTAKES, limit=self.limit)
        pictures = self.pictures([card for each in found for card in each.cards])
        return [replace(each, cards=with_pictures(each.cards, pictures)) for each in found]

    def pictures(self, cards: Sequence[QueryCard]) -> dict[str, np.ndarray]:
        """Pictures of queries and neighbors by id, where examples are pictures."""
        if self.examples is None or self.dataset is None or not self.dataset.input.is_picture:
            return {}
        from simpipe.data.pictures import fetch_inputs

        known = labels_of(cards)
        return fetch_inputs(self.examples, self.dataset, list(known), known)
