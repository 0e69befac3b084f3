"""Connected components: the same in memory, merged from parts, and in rounds over files, as a plain union-find says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.components import EDGES, bucket_of_key, components, components_in_rounds, find_in, forest
from simpipe.grouped import GroupedWriter
from simpipe.ids import hash_ids


def plain(edges: np.ndarray) -> dict[int, int]:
    """Node -> smallest node of its component, by relabelling until nothing changes."""
    root = {int(node): int(node) for node in edges.ravel()}
    changed = True
    while changed:
        changed = False
        for a, b in edges.tolist():
            low = min(root[a], root[b])
            changed |= root[a] != low or root[b] != low
            root[a] = root[b] = low
    return root


def by_rounds(edges: np.ndarray, *, buckets: int, block: int, both: bool = True) -> dict[int, int]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "given.arrow"
        rows = np.concatenate([edges, edges[:, ::-1]]) if both else np.sort(edges, axis=1)[:, ::-1]
        with GroupedWriter(path, EDGES, buckets) as writer:
            for first in range(0, len(rows), 7):
                part = rows[first : first + 7]
                writer.write(pa.table(list(part.T), schema=EDGES), bucket_of_key(part[:, 0], buckets))
        found = components_in_rounds([path], Path(folder), buckets=buckets, block=block)
        tables = [np.load(name) for name in found]
        assert len(tables) == buckets
        for bucket, table in enumerate(tables):
            assert (bucket_of_key(table[:, 0], buckets) == bucket).all()
        left = {Path(folder) / "given.arrow", *found}
        assert set(Path(folder).iterdir()) == left, "nothing of the passes stays"
    root = {int(node): int(node) for node in edges.ravel()}
    return root | {int(node): int(low) for table in tables for node, low in table}


def keys(numbers) -> np.ndarray:
    """Hashes of ids, so that order and buckets are as they are in use."""
    return hash_ids([f"item-{number}" for number in np.ravel(numbers)]).reshape(np.shape(numbers))


def shapes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    line = np.stack([np.arange(300), np.arange(1, 301)], axis=1)
    ascending = np.sort(keys(np.arange(301)))
    clique = np.array([(a, b) for a in range(40) for b in range(a)]) + 1000
    star = np.stack([np.full(200, 2000), 2001 + np.arange(200)], axis=1)
    sorted_line = np.stack([ascending[:-1], ascending[1:]], axis=1)
    return {
        "chain": keys(line),
        "chain in the order of keys": sorted_line,
        "the same backwards": sorted_line[::-1, ::-1],
        "clique": keys(clique),
        "star": keys(star),
        "star around the largest": np.stack([np.full(300, ascending[-1]), ascending[:-1]], axis=1),
        "many pairs": keys(3000 + np.arange(400).reshape(-1, 2)),
        "all of them": keys(np.concatenate([line, clique, star, rng.integers(5000, 5400, (300, 2))])),
        "repeated": keys(np.tile([[1, 2], [2, 1], [3, 3]], (20, 1))),
        "none": np.empty((0, 2), np.uint64),
    }


@pytest.mark.parametrize("name", shapes())
@pytest.mark.parametrize(("buckets", "block"), [(1, 1 << 20), (13, 1 << 20), (13, 16), (3, 5)])
def test_rounds_over_files_give_the_same_components(name, buckets, block):
    edges = shapes()[name]
    nodes, root = components(edges)
    assert nodes.dtype == root.dtype == np.uint64
    assert (np.diff(nodes.astype(object)) > 0).all()
    expected = dict(zip(nodes.tolist(), root.tolist(), strict=True))
    assert expected == plain(edges)
    assert by_rounds(edges, buckets=buckets, block=block) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=80),
    st.integers(1, 12),
    st.integers(1, 30),
    st.booleans(),
)
def test_random_graphs(pairs, buckets, block, both):
    edges = keys(np.array(pairs, int).reshape(-1, 2))
    expected = plain(edges)
    nodes, root = components(edges)
    assert dict(zip(nodes.tolist(), root.tolist(), strict=True)) == expected
    assert by_rounds(edges, buckets=buckets, block=block, both=both) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30), max_size=6))
def test_forests_merge_in_any_grouping(parts):
    arrays = [keys(np.array(part, int).reshape(-1, 2)) for part in parts]
    whole = forest(*arrays)
    merged = np.empty((0, 2), np.uint64)
    for part in reversed(arrays):
        merged = forest(forest(part), merged)
    np.testing.assert_array_equal(merged, whole)
    expected = plain(np.concatenate([np.empty((0, 2), np.uint64), *arrays]))
    assert dict(whole.tolist()) == {node: root for node, root in expected.items() if node != root}


def test_find_in():
    table = np.array([2, 5, 2**63, 2**64 - 1], np.uint64)
    assert find_in(table, np.array([5, 2**64 - 1, 3, 0], np.uint64)).tolist() == [1, 3, -1, -1]
    assert find_in(table[:0], table).tolist() == [-1] * 4
