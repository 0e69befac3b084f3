"""A block of queries to records of their neighbors and matches, as `simpipe.queries.answer` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.index.searcher import Searcher
from simpipe.serve.jobs import Job
from simpipe.types import Matches, Neighbors

_PROBED, _ONE_IN = 16, 16  # queries of a block whose partitions are counted; smaller blocks of which it is done in one


@dataclass(frozen=True)
class Block:
    """Queries that are searched together: vectors float32[n, dim] with names, or (without vectors) ids of items."""

    names: list[str]
    vectors: np.ndarray | None


@dataclass(frozen=True)
class Records:
    """A record a query; how a filter was answered; partitions asked a query, mean."""

    results: list[dict[str, Any]]
    filter: Mapping[str, Any] | None = None
    probes: float | None = None


def search_block(searcher: Searcher, block: Block, job: Job) -> Records:
    """Records of a block.

    Args:
      job: whose verb, k and options all of the block share.

    Raises:
      SimpipeError: what the library says of queries or options.
    """
    options = job.options
    ask = _Ask(searcher, block, options)
    if job.verb == "match":
        return _matched(ask, job.k)
    limit = _limit(searcher, options)
    found, about = ask.lookup(job.k, own_first=True)
    return Records(_records(searcher, block.names, ask.labels, found, options, limit), about, ask.probes(job.k))


class _Ask:
    """Searches for one block.

    Attributes:
      labels: of the queries that are items; None of others.
    """

    def __init__(self, searcher: Searcher, block: Block, options: Mapping[str, Any]) -> None:
        self.searcher, self.names, self.options = searcher, block.names, options
        self._how = {name: options[name] for name in ("target_recall", "exact", "where") if options.get(name) is not None}
        self._own = block.names if block.vectors is None else None
        self.labels: list[str | None] = [None] * len(block.names)
        if block.vectors is None:
            self.labels = searcher.items_of(block.names, ["label"]).column("label").to_pylist()
        self._vectors = block.vectors

    def lookup(self, k: int, *, own_first: bool = False) -> tuple[Neighbors, Mapping[str, Any] | None]:
        """The k nearest of each query, and how a filter was answered. An item that asks is left out, or stands `own_first`."""
        searcher, wanted, own = self.searcher, self.options.get("filter"), self._own
        if wanted is None and own is not None and own_first:
            return searcher.lookup_items(own, k, **self._how), None
        if self._vectors is None:
            self._vectors = searcher.vectors_of(self.names)
        if wanted is None:
            return searcher.lookup(self._vectors, k, query_ids=own, **self._how), None
        own_first = own_first and own is not None
        found = searcher.lookup_filtered(self._vectors, k, wanted, query_ids=own, own_first=own_first, **self._how)
        return found.neighbors, found.about.to_json()

    def probes(self, k: int) -> float | None:
        """Partitions asked a query, mean of some queries of some blocks: routing them again costs, if little.

        None where that is not looked at, or where a filter or its own exact scan decides.
        """
        vectors = self._vectors
        if vectors is None or not len(vectors) or self.options.get("filter") is not None or self._how.get("exact"):
            return None
        if len(vectors) < _PROBED and vectors[0].view(np.uint32)[0] % _ONE_IN:  # as good as by chance
            return None
        searcher, step = self.searcher, -(-len(vectors) // _PROBED)
        setting = searcher.setting_for(target_recall=self._how.get("target_recall"))
        asked = searcher.ask(searcher.check_queries(vectors[::step]), k, setting, self._how.get("where"))
        return float(asked.sum(axis=1).mean())

    def matches(self, cutpoint: str, **which: Any) -> Matches:
        """As `BaseSearcher.match`."""
        depth = self.searcher.rules.depth
        found, _ = self.lookup(depth + (self._own is None))
        return self.searcher.match_found(found.first(depth), cutpoint, **which)


def _limit(searcher: Searcher, options: Mapping[str, Any]) -> tuple[np.float32, Any] | None:
    """The cutpoint that a lookup names: its distance, and the probability of distances."""
    if options.get("cutpoint") is None:
        return None
    rule = searcher.rules.rule(options.get("matcher"))
    return rule.limit(options["cutpoint"]), rule.probability


def _matched(ask: _Ask, k: int) -> Records:
    searcher, options = ask.searcher, ask.options
    cutpoint, matcher, group = options.get("cutpoint") or "optimal", options.get("matcher"), options.get("group")
    rule = searcher.rules.rule(matcher)
    rule.limit(cutpoint)  # before anything is searched
    matches = ask.matches(cutpoint, matcher=matcher, by_group=bool(options.get("by_label")), groups=group)
    # As a lookup of k finds them; matchers look as deep as in calibration.
    found, filtered = ask.lookup(k)
    about: dict[str, Any] = {"matcher": rule.name}
    if group is not None:
        about |= {"group": group, "group_cutpoint": searcher.rules.has_own(group, cutpoint)}
    results = _records(searcher, ask.names, ask.labels, found, options, None)
    lines = zip(results, _match_records(matches, cutpoint, about), strict=True)
    return Records([{"query": None, "label": None, "match": match, **record} for record, match in lines], filtered, ask.probes(k))


def _match_records(matches: Matches, cutpoint: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    assert matches.limits is not None
    there = np.isfinite(matches.distances).tolist()
    likely = [None] * len(there) if matches.probabilities is None else matches.probabilities.tolist()
    lines = zip(matches.labels.tolist(), matches.distances.tolist(), there, matches.limits.tolist(), likely, strict=True)
    return [
        {
            "label": label,
            "distance": distance if found else None,
            "cutpoint": cutpoint,
            "cutpoint_distance": limit,
            "probability": probability,
            **about,
        }
        for label, distance, found, limit, probability in lines
    ]


def _records(
    searcher: Searcher,
    names: list[str],
    labels: list[str | None],
    found: Neighbors,
    options: Mapping[str, Any],
    limit: tuple[np.float32, Any] | None,
) -> list[dict[str, Any]]:
    valid = found.valid
    ends = np.cumsum(valid.sum(axis=1)).tolist()
    ranks = np.broadcast_to(np.arange(1, valid.shape[1] + 1), valid.shape)[valid].tolist()
    flat_labels = found.labels[valid].tolist()
    distances = found.distances[valid]
    columns = zip(ranks, found.ids[valid].tolist(), flat_labels, distances.tolist(), strict=True)
    flat = [{"rank": rank, "id": name, "label": label, "distance": distance} for rank, name, label, distance in columns]
    if limit is not None:
        within = (distances <= limit[0]).tolist()
        likely = _probabilities(distances, flat_labels, limit[1])
        for neighbor, inside, probability in zip(flat, within, likely, strict=True):
            neighbor |= {"within": inside, "probability": probability}
    for neighbor, more in zip(flat, _metadata(searcher, found, options.get("metadata")), strict=False):
        neighbor |= more
    first, results = 0, []
    for name, label, stop in zip(names, labels, ends, strict=True):
        results.append({"query": name, "label": label, "neighbors": flat[first:stop]})
        first = stop
    return results


def _probabilities(distances: np.ndarray, labels: list[str | None], probability: Any) -> list[float | None]:
    """Of each neighbor, that it is of the query's label; 0 without a label, None where none was fitted."""
    if probability is None:
        return [None] * len(labels)
    return [0.0 if label is None else value for label, value in zip(labels, probability.of(distances).tolist(), strict=True)]


def _metadata(searcher: Searcher, found: Neighbors, wanted: Any) -> list[dict[str, Any]]:
    """Metadata of each neighbor; columns of bytes can't be shown."""
    if not wanted:
        return []
    columns = None if wanted is True else list(wanted)
    if columns is None and not searcher.manifest.metadata:
        return []
    table = searcher.metadata(found, columns)
    return table.select(shown(table.schema)).to_pylist()


def shown(schema: pa.Schema) -> list[str]:
    """Columns that JSON can hold."""
    return [field.name for field in schema if not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))]
