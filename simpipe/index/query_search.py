"""Second stage of a job over all queries: a partition, loaded once, answers those that ask it."""

from __future__ import annotations

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
    for number in search.chunks:
        chunk = PreparedChunk.open(work, number)
        for kind in spec.parts if len(chunk) else ():
            rows = chunk.asking(kind.name, search.partition)
            if len(rows):
                part = part or searcher.partition(search.partition)
                lines = _search(part, chunk, rows, kind, ALL if kind.exact else setting, spec.block)
                write_lines(lines_path(work, kind.name, search.partition, number), *lines)
                asked += len(rows)
    return asked


def _search(
    part: Partition, chunk: PreparedChunk, rows: np.ndarray, kind: Part, setting: SearchSetting, block: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Distances and rows of blocks of those that ask. Blocks are full: libraries answer large ones at less CPU a query."""
    found = []
    for first in range(0, len(rows), block):
        asking = rows[first : first + block]
        whole = len(asking) == asking[-1] - asking[0] + 1
        queries = chunk.vectors[asking[0] : asking[-1] + 1] if whole else chunk.vectors[asking]
        candidates = part.candidates(queries, kind.wanted, exact=kind.exact, setting=setting)
        found.append(nearest_rows(*candidates, min(kind.wanted, part.live_rows)))
    return [distances for distances, _ in found], [rows for _, rows in found]
