"""Second stage of a job over all queries: a partition, loaded once, answers those that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simpipe import files
from simpipe.index.merge import nearest_rows
from simpipe.index.partitions import Partition
from simpipe.index.query import Part, QuerySpec, Search
from simpipe.index.query_work import PreparedChunk, lines_path, write_lines
from simpipe.index.searcher import Searcher
from simpipe.index.setting import ALL, SearchSetting


def search_partition(searcher: Searcher, spec: QuerySpec, search: Search) -> int:
    """Writes what a partition finds for the queries of some chunks that ask it.

    Returns:
      How many asked it.

    Raises:
      ReleaseError: a file of the release was altered.
    """
    work, setting = files.located(spec.work), spec.setting_for(searcher)
    asked, part = 0, None
    for kind in spec.parts:
        for together in _asking(spec, search, kind):
            part = part or searcher.partition(search.partition)
            queries = np.concatenate([vectors for _, vectors in together])
            distances, rows = _search(part, queries, kind, ALL if kind.exact else setting, spec.block)
            first = 0
            for number, vectors in together:
                lines = slice(first, first + len(vectors))
                write_lines(lines_path(work, kind.name, search.partition, number), distances[lines], rows[lines])
                first += len(vectors)
            asked += first
    return asked


def _asking(spec: QuerySpec, search: Search, kind: Part) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Queries float32[m, dim] of chunks that ask the partition: at a time as many chunks as fill a block.

    Held-out queries of many items lie thinly in many files: chunk by chunk a scan of the partition would serve few of them.
    """
    together: list[tuple[int, np.ndarray]] = []
    for number in search.chunks:
        chunk = PreparedChunk.open(files.located(spec.work), number)
        rows = chunk.asking(kind.name, search.partition) if len(chunk) else ()
        if len(rows):
            together.append((number, chunk.vectors[rows]))
        if sum(len(vectors) for _, vectors in together) >= spec.block:
            yield together
            together = []
    if together:
        yield together


def _search(
    part: Partition, queries: np.ndarray, kind: Part, setting: SearchSetting, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances float32[n, k] and rows int64[n, k]. Blocks are large, and alike: libraries answer such at less CPU a query."""
    k = min(kind.wanted, part.live_rows)
    distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    step = -(-len(queries) // -(-len(queries) // block))
    for first in range(0, len(queries), step):
        lines = slice(first, first + step)
        candidates = part.candidates(queries[lines], kind.wanted, exact=kind.exact, setting=setting)
        distances[lines], rows[lines] = nearest_rows(*candidates, k)
    return distances, rows
