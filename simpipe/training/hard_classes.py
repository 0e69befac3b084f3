"""Which classes an encoder finds alike: the sampler brings them into one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from simpipe.config.models import HardClasses
from simpipe.data.examples import DatasetInfo
from simpipe.samplers.class_reader import read_classes
from simpipe.training.nearest import nearest_others, row_blocks

_CLASSES = 512  # read and embedded at a time
_SPARE = 4  # neighbors kept for each place of a bundle: some are in another bundle already


def near_classes(
    folder: str | Path,
    info: DatasetInfo,
    classes: Sequence[int],
    *,
    encode: Callable[[np.ndarray], np.ndarray],
    settings: HardClasses,
    seed: int,
) -> np.ndarray:
    """The nearest classes of each, by the centroids of some of their examples.

    Args:
      folder, info: the examples.
      classes: indexes of the classes that are trained on.
      encode: inputs [n, ...] to float32[n, dim].
      settings: `examples` of a class make its centroid; `bundle` says how many neighbors are of use.
      seed: of the choice of examples.

    Returns:
      int32[class names, m], nearest first; -1 for none, and for classes that are not among `classes`.
    """
    numbers = np.asarray(classes, np.int64)
    centroids = []
    for begin in range(0, len(numbers), _CLASSES):
        some = numbers[begin : begin + _CLASSES]
        inputs, labels = read_classes(folder, info, some.tolist(), at_most=settings.examples, seed=seed)
        centroids.append(class_centroids(encode(inputs), labels, some))
    m = min(_SPARE * (settings.bundle - 1), max(len(numbers) - 1, 1))
    near = nearest_rows(np.concatenate(centroids), m)
    found = np.full((len(info.class_names), m), -1, np.int32)
    found[numbers] = np.where(near >= 0, numbers[near], -1)
    return found


def class_centroids(embeddings: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean of each class's embeddings, scaled to length one: float32[len(classes), dim]; zeros for a class without any."""
    order = np.argsort(classes)
    place = order[np.searchsorted(classes, labels, sorter=order)]
    sums = np.zeros((len(classes), embeddings.shape[1]), np.float64)
    np.add.at(sums, place, embeddings)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).astype(np.float32)


def nearest_rows(vectors: np.ndarray, m: int) -> np.ndarray:
    """The m other rows of largest dot product with each, largest first: int64[n, m]; -1 where there are no more.

    Zero rows have no neighbors and are none. The matrix of products is made in blocks of rows.
    """
    there = np.flatnonzero((vectors != 0).any(axis=1))
    found = np.full((len(vectors), m), -1, np.int64)
    take = min(m, len(there) - 1)
    if take < 1:
        return found
    kept = vectors[there]
    for rows in row_blocks(np.arange(len(there)), len(there)):
        found[there[rows], :take] = there[nearest_others(kept, rows, take)]
    return found
