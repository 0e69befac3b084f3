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
from simpipe.index.merge import TopK, merge_lines, stack_lines, without_self
from simpipe.index.partitions import Partition
from simpipe.index.rows import ROW_MASK, Rows, names_of, place_of, same_ids, ties_of
from simpipe.index.searcher import Searcher, open_release
from simpipe.index.setting import SearchSetting
from simpipe.types import Neighbors


@dataclass(frozen=True)
class QuerySpec:
    """A job over all queries.

    Attributes:
      release: the release's folder. files: Parquet files of queries.
      k: neighbors a query. exact: search exactly as well. block: queries a block.
      probes: partitions a query asks; None: as `setting` says.
      work: where finished partitions leave a mark, for progress.
      setting: how partitions are asked; None (and no `probes`): the release's default, as `lookup` asks.
    """

    release: str
    files: tuple[str, ...]
    k: int
    exact: bool
    block: int
    probes: int | None = None
    work: str = ""
    setting: SearchSetting | None = None

    def setting_for(self, searcher: Searcher) -> SearchSetting:
        """How this job asks partitions."""
        return searcher.setting_for(probes=self.probes, setting=self.setting)


@dataclass(frozen=True)
class Candidates:
    """What a partition found, with the names, to be merged elsewhere.

    Attributes:
      distances: float32[m, k]; +inf where there is none. tie: uint64[m, k].
      ids: large_string[m * k], null where there is none. labels: the same, or a dictionary.
    """

    distances: np.ndarray
    tie: np.ndarray
    ids: pa.Array
    labels: pa.Array

    @classmethod
    def of(cls, part: Partition, found: TopK) -> Candidates:
        rows = np.where(found.place < 0, -1, found.place & ROW_MASK).ravel()
        places = pa.array(rows, mask=rows < 0)
        labels = part.rows.labels.take(places)
        if pa.types.is_dictionary(labels.type):  # a partition's whole dictionary would travel with each block
            labels = labels.dictionary_decode()
        return cls(found.distances, found.tie, part.rows.ids.take(places), labels)


@dataclass(frozen=True)
class Partial:
    """What one partition knows of one query block: the rows that asked it and their candidates; exact ones for all rows."""

    rows: np.ndarray
    found: Candidates
    exact: Candidates | None


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
    setting = spec.setting_for(searcher)
    for file, path in enumerate(spec.files):
        for block in iterate_blocks(Path(path), spec.block):
            queries = searcher.check_queries(block.vectors)
            rows = np.flatnonzero(searcher.ask(queries, wanted, setting)[:, number])
            if not len(rows) and not spec.exact:
                continue
            part = searcher.partition(number)
            exact = Candidates.of(part, part.search(queries, wanted, exact=True)) if spec.exact else None
            found = Candidates.of(part, part.search(queries[rows], wanted, setting=setting))
            yield (file, block.first_row), Partial(rows, found, exact)


def merge_partials(spec: QuerySpec, key: tuple[int, int], partials: Iterable[Partial]) -> Answer:
    """The answer of one block from the partial answers of all partitions, in any order."""
    file, first = key
    ids, labels = _names(Path(spec.files[file]), first, spec.block)
    parts = list(partials)
    found = _merged([(part.rows, part.found) for part in parts], ids, spec.k)
    everyone = np.arange(len(ids))
    exact = [(everyone, part.exact) for part in parts if part.exact is not None]
    return Answer(ids, labels, found, _merged(exact, ids, spec.k) if spec.exact else None)


def _merged(parts: list[tuple[np.ndarray, Candidates]], ids: np.ndarray, k: int) -> Neighbors:
    tables: dict[int, Rows] = {}
    places: list[np.ndarray] = []
    for number, (_, part) in enumerate(parts):
        flat = np.arange(part.distances.size).reshape(part.distances.shape)
        places.append(place_of(number, np.where(np.isfinite(part.distances), flat, -1)))
        tables[number] = Rows(part.ids, part.labels, part.tie.ravel())
    width = min(k + 1, sum(part.distances.shape[1] for _, part in parts))
    if not width:
        return Neighbors(*(np.empty((len(ids), 0), kind) for kind in (object, object, np.float32)))
    place = stack_lines(places)
    distances, place = merge_lines(
        np.concatenate([rows for rows, _ in parts]),
        stack_lines([part.distances for _, part in parts]),
        place,
        len(ids),
        width,
        tie=lambda lines, place=place: ties_of(tables, place[lines]),
        same=functools.partial(same_ids, tables),
    )
    return without_self(Neighbors(*names_of(tables, place), distances), ids, k)


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
