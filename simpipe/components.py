"""Connected components of pairs of keys: in memory, or in rounds over files, where no step holds more than a bucket.

The rounds alternate the operations small-star and large-star of Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii,
"Connected Components in MapReduce and Beyond" (SoCC 2014), as passes over grouped files. An edge is written as (node, other) with
node > other; a bucket holds the edges of its nodes. Each pass runs bucket by bucket and streams the bucket's edges; what it
holds is a block of edges and one number for each of the bucket's nodes, however many neighbors a node has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrays import load_array
from simpipe.grouped import GroupedWriter, read_group, writing

EDGES = pa.schema([("node", pa.uint64()), ("other", pa.uint64())])
Spread = Callable[[Callable[[int], int], int], list[int]]


def components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected components of an undirected graph.

    Args:
      edges: uint64[m, 2]; in any order, repeated ones and loops allowed.

    Returns:
      uint64[n], the nodes, ascending; uint64[n], the smallest node of each one's component.
    """
    from scipy.sparse import coo_matrix  # here, since whoever only finds keys needs none of it
    from scipy.sparse.csgraph import connected_components

    nodes, places = np.unique(edges, return_inverse=True)
    ends = places.reshape(-1, 2)
    ones = np.ones(len(ends), np.int8)
    graph = coo_matrix((ones, (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)  # nodes ascend, so the first of a label is its smallest
    return nodes, nodes[first[label]]


def forest(*edges: np.ndarray) -> np.ndarray:
    """The fewest edges that connect what `edges` connect: uint64[f, 2], (node, smallest node of its component).

    Forests merge: `forest(forest(a), forest(b))` equals `forest(a, b)`, and never has more rows than there are nodes.
    """
    nodes, root = components(np.concatenate([np.empty((0, 2), np.uint64), *edges]))
    away = nodes != root
    return np.stack([nodes[away], root[away]], axis=1)


def bucket_of_key(keys: np.ndarray, buckets: int) -> np.ndarray:
    """int64[n] in [0, buckets); keys are hashes already."""
    return (keys % np.uint64(buckets)).astype(np.int64)


def one_by_one(step: Callable[[int], int], count: int) -> list[int]:
    """Runs `step` for each number below `count`: the `Spread` of a single process."""
    return [step(number) for number in range(count)]


def components_in_rounds(
    given: Sequence[Path], folder: Path, *, buckets: int, block: int, spread: Spread = one_by_one
) -> list[Path]:
    """Components of edges that are in files; the same as `components` of them.

    Args:
      given: grouped files of edges (columns node, other), each under the bucket of `node`. Rows whose node is not the larger end
        are skipped, so an edge may be given in both directions.
      folder: for the passes' files.
      buckets: groups of the files. block: edges that a step holds at once.
      spread: runs a pass, bucket by bucket.

    Returns:
      An `.npy` file a bucket, uint64[n, 2]: the bucket's nodes that are not the smallest of their component, ascending, and the
      smallest one.
    """
    paths: list[str] = [str(path) for path in given]
    old: list[str] = []
    number = 0
    while True:
        names = {
            kind: [str(folder / f"{kind}-{number:03d}-{bucket:05d}") for bucket in range(buckets)]
            for kind in ("small", "low", "turned", "large")
        }
        shared = {"buckets": buckets, "block": block}
        spread(functools.partial(_small_star, given=paths, out=names["small"], **shared), buckets)
        lowest = functools.partial(_lowest, given=names["small"], low=names["low"], out=names["turned"], **shared)
        several = sum(spread(lowest, buckets))
        large = functools.partial(_large_star, given=names["turned"], low=names["low"], out=names["large"], **shared)
        moved = sum(spread(large, buckets))
        for path in (*old, *names["small"], *names["turned"]):
            files.located(path).unlink()
        result = [files.located(f"{name}.npy") for name in names["low"]]
        if not several and not moved:  # every node has one edge, to a node that has none: stars
            for path in names["large"]:
                files.located(path).unlink()
            return result
        for path in result:
            path.unlink()
        paths, old, number = names["large"], names["large"], number + 1


def _stream(paths: Sequence[str], bucket: int, buckets: int, block: int) -> Iterator[np.ndarray]:
    """Blocks of a bucket's edges: uint64[m, 2]. The files are mapped, not read as a whole."""
    table = read_group([files.located(path) for path in paths], bucket, buckets)
    if table is None:
        return
    for first in range(0, len(table), block):
        part = table.slice(first, block)
        yield np.stack([part.column(name).to_numpy() for name in EDGES.names], axis=1)


def _write(writer: GroupedWriter, edges: np.ndarray, by: int, buckets: int) -> None:
    """Adds edges under the bucket of their end number `by`."""
    writer.write(pa.table(list(edges.T), schema=EDGES), bucket_of_key(edges[:, by], buckets))


def _ends(parts: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each node with its smallest and largest other end: uint64[n], ascending, uint64[n], uint64[n]."""
    none = np.empty(0, np.uint64)
    nodes, low, high = none, none, none
    for edges in parts:
        node, smallest = np.concatenate([nodes, edges[:, 0]]), np.concatenate([low, edges[:, 1]])
        largest = np.concatenate([high, edges[:, 1]])
        order = np.argsort(node, kind="stable")
        nodes, first = np.unique(node[order], return_index=True)
        low = np.minimum.reduceat(smallest[order], first) if len(first) else none
        high = np.maximum.reduceat(largest[order], first) if len(first) else none
    return nodes, low, high


def find_in(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where `values` stand in `keys` (ascending, distinct): int64[n]; -1 where they do not."""
    if not len(keys):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[place] == values, place, -1)


def _small_star(bucket: int, *, given: Sequence[str], out: Sequence[str], buckets: int, block: int) -> int:
    """All smaller neighbors of a node are connected to the smallest of them instead."""

    def parts() -> Iterator[np.ndarray]:
        for edges in _stream(given, bucket, buckets, block):
            yield edges[edges[:, 0] > edges[:, 1]]

    nodes, low, _ = _ends(parts())
    with writing(files.located(out[bucket]), EDGES, buckets) as writer:
        for edges in parts():
            smallest = low[find_in(nodes, edges[:, 0])]
            node = np.where(edges[:, 1] == smallest, edges[:, 0], edges[:, 1])
            _write(writer, forest(np.stack([node, smallest], axis=1)), 0, buckets)
    return 0


def _lowest(bucket: int, *, given: Sequence[str], low: Sequence[str], out: Sequence[str], buckets: int, block: int) -> int:
    """Notes each node's smallest neighbor, and writes the edges again under their smaller end.

    Returns:
      How many nodes have several smaller neighbors.
    """
    nodes, lowest, highest = _ends(_stream(given, bucket, buckets, block))
    with files.replacing(files.located(f"{low[bucket]}.npy"), flush=False) as temporary:
        np.save(temporary, np.stack([nodes, lowest], axis=1))
    with writing(files.located(out[bucket]), EDGES, buckets) as writer:
        for edges in _stream(given, bucket, buckets, block):
            _write(writer, edges, 1, buckets)
    return int((lowest != highest).sum())


def _large_star(bucket: int, *, given: Sequence[str], low: Sequence[str], out: Sequence[str], buckets: int, block: int) -> int:
    """All larger neighbors of a node are connected to its smallest neighbor instead, where that is smaller than the node.

    Returns:
      How many edges that concerns.
    """
    known = load_array(files.located(f"{low[bucket]}.npy"))
    moved = 0
    with writing(files.located(out[bucket]), EDGES, buckets) as writer:
        for edges in _stream(given, bucket, buckets, block):
            place = find_in(known[:, 0], edges[:, 1])
            there = place >= 0
            edges[there, 1] = known[place[there], 1]
            moved += int(there.sum())
            _write(writer, forest(edges), 0, buckets)
    return moved
