"""Router surgery: dividing and merging partitions so that the rows of the others stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simpipe.index.nearest import Nearest
from simpipe.index.routing import Router


def assign_among(router: Router, vectors: np.ndarray, siblings: Sequence[int]) -> np.ndarray:
    """Which of some partitions each row goes to, whatever other partition may be nearer: int64[n], numbers out of `siblings`.

    Args:
      router: of the new release. vectors: float32[n, dim], prepared. siblings: partitions that share the rows.
    """
    assert router.centroids is not None
    chosen = np.flatnonzero(np.isin(router.owner, siblings))
    owners, place = np.unique(router.owner[chosen], return_inverse=True)
    nearest = Nearest(router.centroids[chosen], place, router.offsets[chosen])
    return owners[nearest.owner_of(vectors)].astype(np.int64)
