"""Third stage of a job over all queries: what partitions found for a block is merged, and the queries' own items go."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrow import pc
from simpipe.index.answers import Answer, Found
from simpipe.index.merge import merge_lines, stack_lines
from simpipe.index.query import Part, QuerySpec
from simpipe.index.query_work import NO_ROW, PreparedChunk, lines_path, read_lines
from simpipe.index.rows import ROW_BITS, Rows, ids_at, labels_of, names_of, same_ids, ties_of
from simpipe.index.searcher import Searcher


@dataclass(frozen=True)
class Lines:
    """What one partition found: a line float32[m, k] and int64[m, k] of each query int64[m] that asked it; row -1 for none."""

    partition: int
    queries: np.ndarray
    distances: np.ndarray
    rows: np.ndarray


def merge_chunk(searcher: Searcher, spec: QuerySpec, number: int) -> Iterator[Answer]:
    """The answers to a chunk, block by block, from the files of all partitions."""
    chunk = PreparedChunk.open(files.located(spec.work), number)
    if not len(chunk):
        return
    found = {part.name: _Reader(chunk, part, searcher) for part in spec.parts}
    first = 0
    for table in chunk.blocks():
        last = first + len(table)
        parts: dict[str, Found] = {}
        exact_rows = np.empty(0, np.int64)
        for name, reader in found.items():
            rows = np.arange(len(table))
            lines = reader.lines(first, last)
            asking = table
            if name == "exact":
                rows = exact_rows = reader.drawn(first, last)
                asking = table.take(pa.array(rows))
                back = np.zeros(len(table), np.int64)
                back[rows] = np.arange(len(rows))
                lines = [Lines(each.partition, back[each.queries], each.distances, each.rows) for each in lines]
            parts[name] = merge_block(searcher, asking, lines, reader.part, names=spec.names)
        queries = pa.table(
            {"id": table.column("id"), "label": table.column("label")}
            | {name: table.column(f"column:{name}") for name in spec.columns}
        )
        tie = table.column("tie").to_numpy()
        yield Answer(queries, tie, parts["found"], exact_rows, parts.get("exact"), parts.get("deep"))
        first = last


def merge_block(searcher: Searcher, queries: pa.Table, lines: list[Lines], part: Part, *, names: frozenset[str]) -> Found:
    """The nearest items of n queries over the partitions that they asked, each without its own item.

    Args:
      searcher: of the release: its rows name what was found.
      queries: columns id, tie and own (whether an item of this id is the query itself).
      lines: of each partition that was asked, queries in [0, n). part: the search. names: see `QuerySpec`.
    """
    n, width = len(queries), min(part.wanted, searcher.items)
    k = min(part.wanted - 1, searcher.items)
    distances, place = np.full((n, width), np.inf, np.float32), np.full((n, width), -1, np.int64)
    tables = {each.partition: searcher.rows(each.partition) for each in lines}
    if lines:
        copies = sum(searcher.partition_rows) > searcher.items
        places = stack_lines([np.where(each.rows < 0, -1, each.rows | (each.partition << ROW_BITS)) for each in lines])
        distances, place = merge_lines(
            np.concatenate([each.queries for each in lines]),
            stack_lines([each.distances for each in lines]),
            places,
            n,
            width,
            tie=functools.partial(_ties, tables, lines, places.shape[1]),
            same=functools.partial(same_ids, tables) if copies else None,
            copies=copies,
        )
    tie = ties_of(tables, place)
    own = _own(queries, tables, place, tie)
    if own.any():
        order = np.argsort(own, axis=1, kind="stable")
        distances, place, tie = (
            np.take_along_axis(np.where(own, none, values), order, axis=1)
            for values, none in ((distances, np.float32(np.inf)), (place, np.int64(-1)), (tie, np.uint64(0)))
        )
    distances, place, tie = distances[:, :k], place[:, :k], tie[:, :k]
    ids, labels = names_of(tables, place) if "ids" in names else (None, None)
    if "labels" not in names:
        labels = None
    elif labels is None:
        labels = labels_of(tables, place)
    return Found(distances, place, tie, ids, labels)


def _ties(tables: Mapping[int, Rows], lines: list[Lines], width: int, chosen: np.ndarray) -> np.ndarray:
    """Hashes uint64[r, width] of lines int64[r] among all, ascending; partition by partition, so that nothing is sorted."""
    out = np.zeros((len(chosen), width), np.uint64)
    bounds = np.searchsorted(chosen, np.cumsum([0, *(len(each.queries) for each in lines)]))
    start = 0
    for each, first, last in zip(lines, bounds, bounds[1:], strict=False):
        rows = each.rows[chosen[first:last] - start]
        out[first:last, : rows.shape[1]] = np.where(rows < 0, np.uint64(0), tables[each.partition].tie[np.maximum(rows, 0)])
        start += len(each.queries)
    return out


def _own(queries: pa.Table, tables: Mapping[int, Rows], place: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """bool[n, k]: which neighbors are the query itself, by id."""
    has_id = queries.column("own").to_numpy()
    own = (tie == queries.column("tie").to_numpy()[:, None]) & (place >= 0) & has_id[:, None]
    line, column = np.nonzero(own)
    if len(line):
        ids = queries.column("id").combine_chunks().take(pa.array(line)).cast(pa.large_string())
        own[line, column] = pc.equal(ids_at(tables, place[line, column]), ids).to_numpy(zero_copy_only=False)
    return own


class _Reader:
    """The lines of one search of a chunk, in the order of its queries."""

    def __init__(self, chunk: PreparedChunk, part: Part, searcher: Searcher) -> None:
        self.part = part
        self._bits = chunk.asks(part.name)
        holding = [number for number, rows in enumerate(searcher.partition_rows) if rows]
        each_alike = part.name == "exact"
        asked = [0 if each_alike else number for number in holding]
        self._line = dict(zip(holding, asked, strict=True))
        self._at = dict.fromkeys(holding, 0)
        paths = {number: lines_path(chunk.work, part.name, number, chunk.number) for number in holding}
        self._lines = {number: read_lines(path) for number, path in paths.items() if self._bits[self._line[number]].any()}

    def _block(self, first: int, last: int) -> np.ndarray:
        """bool[partitions or 1, last - first]."""
        bits = np.unpackbits(self._bits[:, first // 8 : -(-last // 8)], axis=1)
        return bits[:, first % 8 : first % 8 + last - first].view(bool)

    def drawn(self, first: int, last: int) -> np.ndarray:
        """Queries of a block that an exact search takes."""
        return np.flatnonzero(self._block(first, last)[0])

    def lines(self, first: int, last: int) -> list[Lines]:
        """What partitions found for queries [first, last), which follow those of the call before."""
        asked, found = self._block(first, last), []
        for number, lines in self._lines.items():
            queries = np.flatnonzero(asked[self._line[number]])
            if len(queries):
                at = self._at[number]
                distances, rows = lines[:, at : at + len(queries)]
                self._at[number] = at + len(queries)
                rows = np.where(rows == NO_ROW, -1, rows.astype(np.int64))
                found.append(Lines(number, queries, distances.view(np.float32), rows))
        return found
