"""Near duplicates: pairs of items within a distance, and the groups they connect.

Pairs, ids and groups pass from step to step through grouped files, by the hash of an id or of a group, so that memory is
bounded by a block of pairs or a bucket of members at any number of items.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrays import load_array
from simpipe.arrow import pc
from simpipe.components import Spread, bucket_of_key, components_in_rounds, find_in, one_by_one
from simpipe.errors import ContractError
from simpipe.grouped import read_group, writing
from simpipe.groups import SCHEMA, GroupsFile, groups_file
from simpipe.ids import bucket_of, hash_ids
from simpipe.index.answers import Answer

PAIRS = pa.schema([("node", pa.uint64()), ("other", pa.uint64()), ("distance", pa.float32())])
BLOCK = 1 << 22  # pairs that a step holds at once
FILE_ROWS = 1 << 22  # members of a file of groups, about
_ROW_GROUP = 65_536
_BATCH = 65_536
_READ = 1 << 20  # ids
_SIEVE_BITS = 24

_IDS = pa.schema([("key", pa.uint64()), ("id", pa.string())])
_ROOTED = pa.schema([("root", pa.uint64()), ("id", pa.string()), ("distance", pa.float32())])
_NAMED = pa.schema([("representative", pa.string()), ("id", pa.string()), ("distance", pa.float32())])


@dataclass(frozen=True)
class NearPairs:
    """What a block of items adds.

    Attributes:
      pairs: columns node, other (hashes of ids) and distance.
      truncated: items whose last neighbor is within the cutoff: there may be more.
    """

    pairs: pa.Table
    truncated: int


def near_pairs(answer: Answer, cutoff: float) -> NearPairs:
    """Pairs of an item and a neighbor whose distance is at most `cutoff`, compared as float32, as `match` does.

    Args:
      answer: to items, each without itself. cutoff: a distance.
    """
    near = answer.found.distances <= np.float32(cutoff)
    rows, ranks = np.nonzero(near)
    columns = [answer.tie[rows], answer.found.tie[rows, ranks], answer.found.distances[rows, ranks]]
    truncated = int(near[:, -1].sum()) if near.shape[1] else 0
    return NearPairs(pa.table(columns, schema=PAIRS), truncated)


def write_pairs(path: Path, tables: Sequence[pa.Table]) -> int:
    """Writes pairs as an Arrow file; returns how many."""
    table = pa.concat_tables(tables).combine_chunks()
    with (
        files.replacing(path) as temporary,
        pa.OSFile(os.fspath(temporary), "wb") as sink,
        pa.ipc.new_file(sink, PAIRS) as writer,
    ):
        writer.write_table(table)
    return len(table)


@dataclass(frozen=True)
class Groups:
    """Files that were written, and counts: pairs, members, groups, largest."""

    files: tuple[GroupsFile, ...]
    counts: dict[str, int]


def group_items(
    pairs: Sequence[Path],
    store: Sequence[Path],
    folder: Path,
    work: Path,
    *,
    block: int = BLOCK,
    file_rows: int = FILE_ROWS,
    spread: Spread = one_by_one,
) -> Groups:
    """Writes the groups that pairs connect; the same files whatever the order of pairs, the block and the store's files.

    Args:
      pairs: files of `write_pairs`; a pair may stand in them more than once, and in both directions.
      store: Parquet files with the `id` of every item. folder: for the groups. work: for what lies between.
      block: pairs that a step holds at once; file_rows: members of a file, about. spread: runs a step, bucket by bucket.

    Raises:
      ContractError: two ids have one hash, or an item of a pair is not in the store.
    """
    total = sum(len(part) for path in pairs for part in _read_pairs(path))
    buckets = max(1, -(-2 * total // block))
    grouped = work / "pairs.arrow"
    _group_pairs(pairs, grouped, buckets, block)
    forest = components_in_rounds([grouped], work, buckets=buckets, block=block, spread=spread)
    members = _group_ids(grouped, store, work / "ids.arrow", buckets)
    rooted = functools.partial(_root_members, work=work, forest=[str(path) for path in forest], buckets=buckets)
    distinct = sum(spread(rooted, buckets))
    count = max(1, -(-members // file_rows))
    named = functools.partial(_name_groups, work=work, buckets=buckets, count=count)
    groups = sum(spread(named, buckets))
    written, largest, first = [], 0, 0
    sources = [work / f"named-{bucket:05d}.arrow" for bucket in range(buckets)]
    for number in range(count):
        file, sizes = _write_groups(sources, folder, number, count, first)
        written.append(file)
        first, largest = first + len(sizes), max(largest, int(sizes.max(initial=0)))
    counts = {"pairs": distinct, "members": members, "groups": groups, "largest": largest}
    if first != groups or sum(file.rows for file in written) != members:
        raise ContractError(f"{folder}: members were lost on the way: {counts}", "run `simpipe dedupe` again")
    return Groups(tuple(written), counts)


def _read_pairs(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(os.fspath(path)) as source:
        reader = pa.ipc.open_file(source)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _group_pairs(sources: Sequence[Path], path: Path, buckets: int, block: int) -> None:
    """All pairs in both directions, under the bucket of the first end."""

    def write(batches: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(batches, schema=PAIRS)
        both = pa.concat_tables([table, table.select([1, 0, 2]).rename_columns(PAIRS.names)])
        writer.write(both, bucket_of_key(both.column("node").to_numpy(), buckets))

    with writing(path, PAIRS, buckets) as writer:
        held: list[pa.RecordBatch] = []
        for source in sources:
            for batch in _read_pairs(source):
                held.append(batch)
                if 2 * sum(map(len, held)) >= block:
                    write(held)
                    held = []
        write(held)


def _group_ids(pairs: Path, store: Sequence[Path], path: Path, buckets: int) -> int:
    """Ids that may be those of members, under the bucket of their hash; returns the number of members."""
    sieve, members = np.zeros(1 << _SIEVE_BITS, bool), 0
    shift = np.uint64(64 - _SIEVE_BITS)
    for bucket in range(buckets):
        nodes = np.unique(_group([pairs], bucket, buckets, PAIRS).column("node").to_numpy())
        sieve[nodes >> shift] = True
        members += len(nodes)
    with writing(path, _IDS, buckets) as writer:
        for name in store:
            with pq.ParquetFile(name) as file:
                for batch in file.iter_batches(batch_size=_BATCH, columns=["id"]):
                    key = hash_ids(batch.column(0))
                    rows = np.flatnonzero(sieve[key >> shift])
                    ids = batch.column(0).take(pa.array(rows))
                    writer.write(pa.table([key[rows], ids], schema=_IDS), bucket_of_key(key[rows], buckets))
    return members


def _group(paths: Sequence[Path], bucket: int, buckets: int, schema: pa.Schema) -> pa.Table:
    table = read_group(paths, bucket, buckets)
    return schema.empty_table() if table is None else table


def _root_members(bucket: int, *, work: Path, forest: Sequence[str], buckets: int) -> int:
    """Members of a bucket with their id, root and nearest distance, under the bucket of the root.

    Returns:
      How many distinct pairs have their larger end in the bucket.
    """
    pairs = _group([work / "pairs.arrow"], bucket, buckets, PAIRS)
    node, other, distance = (column.to_numpy() for column in pairs.columns)
    order = np.lexsort((other, node))
    node, other, distance = node[order], other[order], distance[order]
    again = np.zeros(len(node), bool)
    again[1:] = (node[1:] == node[:-1]) & (other[1:] == other[:-1])
    nodes, first = np.unique(node, return_index=True)
    nearest = np.minimum.reduceat(distance, first) if len(first) else distance
    root = nodes.copy()
    away = load_array(files.located(forest[bucket]))
    root[find_in(nodes, away[:, 0])] = away[:, 1]
    names, place = _names_of(nodes, _group([work / "ids.arrow"], bucket, buckets, _IDS))
    _check_once(names, np.bincount(place, minlength=len(nodes)), place)
    table = pa.table([root[place], names, nearest[place]], schema=_ROOTED)
    with writing(work / f"rooted-{bucket:05d}.arrow", _ROOTED, buckets) as writer:
        writer.write(table, bucket_of_key(root[place], buckets))
    return int((~again & (node > other)).sum())


def _names_of(nodes: np.ndarray, ids: pa.Table) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Of the ids that passed the sieve, those of nodes: strings [m]; int64[m], their places in `nodes`."""
    names, places = [pa.chunked_array([], pa.string())], [np.empty(0, np.int64)]
    for first in range(0, len(ids), _READ):
        part = ids.slice(first, _READ)
        place = find_in(nodes, part.column("key").to_numpy())
        rows = np.flatnonzero(place >= 0)
        names.append(part.column("id").take(pa.array(rows)))
        places.append(place[rows])
    return pa.chunked_array([chunk for part in names for chunk in part.chunks], pa.string()), np.concatenate(places)


def _check_once(names: pa.ChunkedArray, found: np.ndarray, place: np.ndarray) -> None:
    """Raises ContractError where the hash of a member is the hash of several ids, or of none."""
    if (found > 1).any():
        both = names.take(pa.array(np.flatnonzero(place == np.argmax(found > 1)))).to_pylist()
        raise ContractError(
            f"dedupe: the ids {' and '.join(map(repr, sorted(both)))} have one hash, so their near duplicates are not told apart",
            "give one of them another id",
        )
    if (found == 0).any():
        raise ContractError(
            f"dedupe: {int((found == 0).sum())} items with near duplicates are not in the store of the release",
            "the release does not fit the embeddings: build again",
        )


def _name_groups(bucket: int, *, work: Path, buckets: int, count: int) -> int:
    """Members of a bucket's groups with their representative, under its file; returns the number of groups."""
    paths = [work / f"rooted-{number:05d}.arrow" for number in range(buckets)]
    table = _group(paths, bucket, buckets, _ROOTED).sort_by([("root", "ascending"), ("id", "ascending")])
    first, group = _runs(table.column("root"))
    names = table.column("id").take(pa.array(first)).take(pa.array(group))
    named = pa.table([names, table.column("id"), table.column("distance")], schema=_NAMED)
    with writing(work / f"named-{bucket:05d}.arrow", _NAMED, count) as writer:
        writer.write(named, bucket_of(names, count))
    return len(first)


def _runs(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Of a sorted column: int64[g], where each run of equal values begins; int64[n], the run of each row."""
    new = np.ones(len(column), bool)
    if len(column) > 1:
        new[1:] = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
    return np.flatnonzero(new), np.cumsum(new) - 1


def _write_groups(sources: Sequence[Path], folder: Path, number: int, count: int, first: int) -> tuple[GroupsFile, np.ndarray]:
    """One file of groups, which are numbered from `first`; and their sizes."""
    table = _group(sources, number, count, _NAMED).sort_by([("representative", "ascending"), ("id", "ascending")])
    _, group = _runs(table.column("representative"))
    columns = [table.column("id"), group + first, table.column("representative"), table.column("distance")]
    path = folder / groups_file(number, count)
    with files.replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd", row_group_size=_ROW_GROUP)
    entry = files.entry_of(path, folder)
    return GroupsFile(path=entry.path, rows=len(table), size=entry.size, sha256=entry.sha256), np.bincount(group)
