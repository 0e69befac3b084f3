"""A sample of a release's items in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from simpipe.index.searcher import Searcher
from simpipe.release_facts import sample_rows, vectors_at
from simpipe.visualization.embed2d import project

MOST = 1500


def release_map(searcher: Searcher, *, items: int = MOST, seed: int = 0) -> dict[str, Any]:
    """A map of a sample: the items with the lowest hashes of their ids, so that it is the same at each call.

    Args:
      searcher: of the release; only rows and vectors of the sample are read. items: at most so many. seed: of the projection.

    Returns:
      release, items (of the release), ids, labels (None without one), x and y in [0, 1] with one scale for both, method and
      explained: what the picture does and does not show.
    """
    owner, row = sample_rows(searcher, items)
    ids, labels = np.empty(len(row), object), np.empty(len(row), object)
    for number in np.unique(owner).tolist():
        here, rows = np.flatnonzero(owner == number), searcher.rows(number)
        ids[here], labels[here] = rows.take_ids(row[here]), rows.take_labels(row[here])
    points, method, explained = project(vectors_at(searcher, owner, row), seed=seed)
    places = _unit(points)
    return {
        "release": searcher.manifest.release,
        "items": searcher.items,
        "ids": ids.tolist(),
        "labels": labels.tolist(),
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "method": method,
        "explained": explained,
    }


def _unit(points: np.ndarray) -> np.ndarray:
    """Points float32[n, 2] moved and scaled into the unit square, its middle the middle of theirs; float64, 5 digits."""
    if not len(points):
        return np.zeros((0, 2))
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    scale = float((high - low).max()) or 1.0
    return np.round(((points - (low + high) / 2) / scale + 0.5).clip(0, 1), 5)
