"""Query fan-out as pure functions: query blocks x partitions, partial answers merged block by block.

One work item is a partition: its index is loaded once and all query blocks pass through it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe.embeddings import iterate_blocks
from simpipe.index.merge import TopK, merge_topk, without_self
from simpipe.index.searcher import Searcher, open_release
from simpipe.types import Neighbors


@dataclass(frozen=True)
class QuerySpec:
    """A job over all queries.

    Attributes:
      release: the release's folder. files: Parquet files of queries.
      k: neighbors a query. exact: search exactly as well. block: queries a block.
      probes: partitions a query asks; None: all.
      work: where finished partitions leave a mark, for progress.
    """

    release: str
    files: tuple[str, ...]
    k: int
    exact: bool
    block: int
    probes: int | None = None
    work: str = ""


@dataclass(frozen=True)
class Partial:
    """What one partition knows of one query block: the rows that asked it and their candidates."""

    rows: np.ndarray
    found: TopK
    exact: TopK | None


@dataclass(frozen=True)
class Answer:
    """A finished query block: ids and labels object[n], neighbors by ANN and by exact search."""

    ids: np.ndarray
    labels: np.ndarray
    found: Neighbors
    exact: Neighbors | None


def search_partition(searcher: Searcher, spec: QuerySpec, number: int) -> Iterator[tuple[tuple[int, int], Partial]]:
    """Partial answers of one partition to every query block, keyed by (file, first row)."""
    wanted = spec.k + 1  # the query's own item may be among them
    for file, path in enumerate(spec.files):
        for block in iterate_blocks(Path(path), spec.block):
            queries = searcher.check_queries(block.vectors)
            rows = np.flatnonzero(searcher.router.probes(queries, spec.probes)[:, number])
            part = searcher.partition(number)
            exact = part.search(queries, wanted, exact=True) if spec.exact else None
            if len(rows) or exact is not None:
                yield (file, block.first_row), Partial(rows, part.search(queries[rows], wanted), exact)


def merge_partials(spec: QuerySpec, key: tuple[int, int], partials: Iterable[Partial]) -> Answer:
    """The answer of one block from the partial answers of all partitions, in any order."""
    file, first = key
    ids, labels = _names(Path(spec.files[file]), first, spec.block)
    n = len(ids)
    found, exact = [TopK.empty(n, 0)], [TopK.empty(n, 0)]
    for partial in partials:
        found.append(partial.found.scatter(partial.rows, n))
        if partial.exact is not None:
            exact.append(partial.exact)
    return Answer(ids, labels, _neighbors(found, ids, spec.k), _neighbors(exact, ids, spec.k) if spec.exact else None)


def _neighbors(parts: list[TopK], ids: np.ndarray, k: int) -> Neighbors:
    top = without_self(merge_topk(parts, k + 1), ids, k)
    return Neighbors(top.ids, top.labels, top.distances)


@functools.lru_cache(maxsize=2)
def _columns(path: str, modified: int) -> pa.Table:
    """Ids and labels of a file, kept for its blocks."""
    return pq.read_table(path, columns=["id", "label"])


def _names(path: Path, first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    table = _columns(str(path), path.stat().st_mtime_ns).slice(first, rows)
    return table.column("id").to_numpy(zero_copy_only=False), table.column("label").to_numpy(zero_copy_only=False)


def answer_all(spec: QuerySpec) -> Iterator[Answer]:
    """The same job without Beam: all blocks, in order."""
    searcher = open_release(spec.release)
    partials: dict[tuple[int, int], list[Partial]] = {}
    for about in searcher.manifest.partitions:
        if about.rows:
            for key, partial in search_partition(searcher, spec, about.partition):
                partials.setdefault(key, []).append(partial)
    for key in sorted(partials):
        yield merge_partials(spec, key, partials[key])
