"""The exact pass with several threads: the same neighbors as by sorting all distances."""

from __future__ import annotations

import numpy as np
import pytest

from simpipe.index.distance import between, prepare
from simpipe.index.exact import ExactIndex, exact_topk


@pytest.mark.parametrize("queries", [1, 130, 700])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "inner_product", "manhattan"])
def test_threads_share_blocks_of_queries(distance, queries):
    rng = np.random.default_rng(4)
    vectors = prepare(rng.integers(-3, 4, (2500, 6)).astype(np.float32) + 0.5, distance)  # many tie
    asked = prepare(rng.normal(size=(queries, 6)).astype(np.float32), distance)
    near = between(asked, np.broadcast_to(vectors, (queries, *vectors.shape)), distance)
    expected = np.sort(near, axis=1)[:, :5]
    for threads in (1, 2, 3):
        rows, distances = exact_topk(vectors, asked, 5, distance=distance, threads=threads)
        assert np.array_equal(distances, expected)
        assert np.array_equal(np.take_along_axis(near, rows, axis=1), distances)
        found = ExactIndex(vectors, distance).search(asked, 5, threads=threads)
        for row in range(0, queries, 97):
            tied = np.flatnonzero(near[row] <= expected[row, -1])
            assert set(tied) <= set(found[row].tolist()), "all that tie come along"
