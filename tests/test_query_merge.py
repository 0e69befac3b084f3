"""Merging of what partitions found for a block, against plain Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.ids import hash_ids
from simpipe.index.query import Part
from simpipe.index.query_merge import Lines, merge_block
from simpipe.index.rows import Rows

NAMES = [f"n{i}" for i in range(12)]


@st.composite
def worlds(draw) -> tuple[list[list[str]], list[str | None], list[set[int]], list[list[int]], int]:
    """Items of each partition (an item may stand in several), ids of queries, whom each asks, distances to items, and k."""
    partitions = draw(st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True), min_size=1, max_size=4))
    queries = draw(st.lists(st.sampled_from([*NAMES, None, "other"]), min_size=1, max_size=5))
    asks = [draw(st.sets(st.integers(0, len(partitions) - 1))) for _ in queries]
    # Few values, so that many distances are equal.
    distances = [draw(st.lists(st.integers(0, 3), min_size=len(NAMES), max_size=len(NAMES))) for _ in queries]
    return partitions, queries, asks, distances, draw(st.integers(1, 6))


@settings(deadline=None)
@given(worlds())
def test_merged_blocks_equal_plain_python(world):
    partitions, names, asks, distances, k = world
    tables = [Rows.sort(pa.array(ids), pa.array([f"label of {name}" for name in ids]))[0] for ids in partitions]
    items = len({name for ids in partitions for name in ids})
    searcher: Any = SimpleNamespace(rows=tables.__getitem__, partition_rows=tuple(map(len, tables)), items=items)
    lines = []
    for number, table in enumerate(tables):
        asking = [row for row in range(len(names)) if number in asks[row]]
        if not asking:
            continue
        ids, width = table.ids.to_pylist(), min(k + 1, len(table))
        found = [sorted((distances[row][NAMES.index(name)], place) for place, name in enumerate(ids))[:width] for row in asking]
        values = np.array(found, np.float64)
        lines.append(Lines(number, np.array(asking), values[..., 0].astype(np.float32), values[..., 1].astype(np.int64)))
    asked = pa.array([name or "row 0" for name in names])
    own = np.array([name is not None for name in names])
    queries = pa.table({"id": asked, "tie": hash_ids(asked), "own": own})
    merged = merge_block(searcher, queries, lines, Part("found", k + 1, False), names=frozenset({"ids", "labels"}))
    assert merged.ids is not None
    assert merged.labels is not None
    assert merged.ids.shape == (len(names), min(k, items))
    for row, name in enumerate(names):
        reachable = {each for number in asks[row] for each in partitions[number]} - {name}
        order = sorted(reachable, key=lambda each: (distances[row][NAMES.index(each)], int(hash_ids([each])[0])))[:k]
        padded = [*order, *[None] * (min(k, items) - len(order))]
        assert merged.ids[row].tolist() == padded[: min(k, items)]
        assert merged.labels[row].tolist() == [None if each is None else f"label of {each}" for each in padded[: min(k, items)]]
        expected = [distances[row][NAMES.index(each)] for each in order] + [np.inf] * (len(padded) - len(order))
        assert merged.distances[row].tolist() == expected[: min(k, items)]
        there = merged.place[row] >= 0
        assert there.tolist() == [each is not None for each in padded]
        assert merged.tie[row, there].tolist() == hash_ids(order).tolist()
        for place, each in zip(merged.place[row, there].tolist(), order, strict=True):
            assert tables[place >> 32].ids[place & 0xFFFFFFFF].as_py() == each
