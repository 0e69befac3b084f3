"""First stage of a job over all queries: rows are checked one by one, prepared and routed, chunk by chunk."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.groups import GroupsInfo, Members
from simpipe.ids import hash_ids
from simpipe.index.distance import prepare
from simpipe.index.query import QuerySpec
from simpipe.index.query_work import write_chunk
from simpipe.index.routing import sample_rows
from simpipe.index.searcher import Searcher
from simpipe.index.setting import ALL
from simpipe.query_files import QueryRows, Source, check_rows, read_tables
from simpipe.types import Counts, Reject

_EXACT_SEED = 101
_SHARE_SEED = 102


@dataclass
class _Chunk:
    """What of a chunk has been prepared so far; `bits`: of each search, bool[partitions, queries]."""

    tables: list[pa.Table] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    asks: dict[str, list[np.ndarray]] = field(default_factory=dict)


def prepare_source(searcher: Searcher, spec: QuerySpec, source: Source) -> tuple[Counts, list[Reject]]:
    """Prepares the chunks of a source, see `query_work`.

    Returns:
      Counts (written: queries that are asked; excluded: not drawn, or represented by another item), and rejected rows, one by
      one.

    Raises:
      ReleaseError: a file of the release was altered.
    """
    rejects: list[Reject] = []
    excluded = written = 0
    chunks = {chunk.number: _Chunk() for chunk in source.chunks}
    current = source.chunks[0].number
    for table, first, chunk in read_tables(source, spec.columns):
        if chunk.number != current:
            _write(spec, current, chunks.pop(current), searcher)
            current = chunk.number
        rows, bad = check_rows(
            table, source, first, spec.columns, dim=searcher.dim, distance=searcher.distance, stored=_Stored(searcher)
        )
        kept = _kept(spec, rows.ids)
        if not kept.all():
            excluded += int(np.count_nonzero(~kept))
            rows = rows.take(np.flatnonzero(kept))
        rejects += bad
        written += len(rows.ids)
        _add(chunks[current], searcher, spec, rows)
    for number, chunk in chunks.items():
        _write(spec, number, chunk, searcher)
    return Counts(written + len(rejects) + excluded, written, len(rejects), excluded), rejects


def _kept(spec: QuerySpec, ids: pa.Array) -> np.ndarray:
    """bool[n]: the queries that the job asks."""
    kept = sample_rows(ids, share=spec.share, seed=_SHARE_SEED) if spec.share < 1 else np.ones(len(ids), bool)
    return kept if spec.groups is None else kept & ~_members(spec.groups).find(ids)[0]


@functools.lru_cache(maxsize=1)
def _members(groups: str) -> Members:
    """Read once a process."""
    return Members.load(files.located(groups), GroupsInfo.load(files.located(groups)))


def _add(chunk: _Chunk, searcher: Searcher, spec: QuerySpec, rows: QueryRows) -> None:
    vectors = prepare(rows.vectors, searcher.distance)
    columns = {f"column:{name}": rows.table.column(name) for name in spec.columns}
    about = {"id": rows.ids, "label": rows.labels, "tie": pa.array(hash_ids(rows.ids)), "own": pa.array(rows.own)}
    chunk.tables.append(pa.table({**about, **columns}))
    chunk.vectors.append(vectors)
    setting = spec.setting_for(searcher)
    for part in spec.parts:
        if part.name == "exact":
            asked = np.ones((1, len(rows.ids)), bool)
            if spec.exact_share < 1:
                asked[0] = sample_rows(rows.ids, share=spec.exact_share, seed=_EXACT_SEED)
        else:
            how = ALL if part.exact else setting
            asked = searcher.ask(vectors, min(part.wanted, searcher.items), how).T
        chunk.asks.setdefault(part.name, []).append(asked)


def _write(spec: QuerySpec, number: int, chunk: _Chunk, searcher: Searcher) -> None:
    vectors = np.concatenate(chunk.vectors) if chunk.vectors else np.empty((0, searcher.dim), np.float32)
    table = (
        pa.concat_tables(chunk.tables, promote_options="default") if chunk.tables else pa.table({"id": pa.array([], pa.string())})
    )
    asks = {name: np.packbits(np.concatenate(parts, axis=1), axis=1) for name, parts in chunk.asks.items()}
    write_chunk(files.located(spec.work), number, table, vectors, asks, block=spec.block)


class _Stored:
    """Indexed items as queries: a block of ids is looked for in one partition after the other, by hash."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def __call__(self, ids: pa.Array) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        searcher, hashes = self._searcher, hash_ids(ids)
        vectors = np.zeros((len(ids), searcher.dim), np.float32)
        labels = np.full(len(ids), None, object)
        left = np.arange(len(ids))
        for number in self._partitions():
            if not len(left):
                break
            table = searcher.rows(number)
            rows = table.rows_of(ids.take(pa.array(left)), hashes[left])
            here = rows >= 0
            hidden = searcher.hidden(number)
            if hidden is not None:
                here &= ~np.isin(rows, hidden)
            if here.any():
                vectors[left[here]] = searcher.stored_vectors(number)[rows[here]]
                labels[left[here]] = table.take_labels(rows[here])
            left = left[~here]
        known = np.ones(len(ids), bool)
        known[left] = False
        return vectors, pa.array(labels, pa.string()), known

    def _partitions(self) -> Iterable[int]:
        return (number for number, rows in enumerate(self._searcher.partition_rows) if rows)
