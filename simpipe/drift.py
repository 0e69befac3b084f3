"""Drift: how far the vectors of a release have moved away from those of the live one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

AXES = 8
BINS = 10
_EMPTY = 1e-4  # the share of an empty bin: its logarithm has to exist


@dataclass(frozen=True)
class Drift:
    """Differences of two samples of vectors.

    Attributes:
      centroid_cosine: cosine of the two mean vectors; 1 where both are zero, 0 where one is.
      norm: change of the mean norm as a share of the live one. Under cosine all norms are 1; there it is that of the length of
        the mean vector, which tells how far the directions spread.
      psi: the largest population stability index among the axes, see `psi`.
    """

    centroid_cosine: float
    norm: float
    psi: float


def lowest(ties: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample by hash: where the `count` lowest hashes lie, in ascending order of the hashes.

    The same items give the same sample, however they lie in partitions. Reads `count` hashes of a partition at most, and
    keeps as many.

    Args:
      ties: one a partition: uint64[n], ascending hashes of the ids of its rows. A hash that comes again (a copy in another
        partition) does not count.

    Returns:
      Numbers of partitions int64[m] and rows int64[m], m at most `count`.
    """
    best, owner, row = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    for number, tie in enumerate(ties):
        head = np.asarray(tie[:count])
        if len(best) == count:
            head = head[: np.searchsorted(head, best[-1])]
        best, first = np.unique(np.concatenate([best, head]), return_index=True)
        best, first = best[:count], first[:count]
        owner = np.concatenate([owner, np.full(len(head), number)])[first]
        row = np.concatenate([row, np.arange(len(head))])[first]
    return owner, row


def measure(live: np.ndarray, new: np.ndarray, distance: str) -> Drift:
    """Drift from one sample to another.

    Args:
      live, new: float32[n, dim] and float32[m, dim], none of them empty. distance: of the index.

    Returns:
      NaN throughout where a value is not finite.
    """
    if not (np.isfinite(live).all() and np.isfinite(new).all()):
        return Drift(float("nan"), float("nan"), float("nan"))
    live, new = live.astype(np.float64), new.astype(np.float64)
    before, after = live.mean(axis=0), new.mean(axis=0)
    lengths = float(np.linalg.norm(before)), float(np.linalg.norm(after))
    norms = lengths
    if distance != "cosine":
        norms = float(np.linalg.norm(live, axis=1).mean()), float(np.linalg.norm(new, axis=1).mean())
    axes = principal_axes(live)
    indices = [psi((live - before) @ axis, (new - before) @ axis) for axis in axes.T]
    return Drift(_cosine(before, after, *lengths), _change(*norms), max(indices, default=0.0))


def principal_axes(vectors: np.ndarray) -> np.ndarray:
    """The first principal axes of float64[n, dim]: float64[dim, at most AXES], orthonormal, the widest first."""
    centered = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)  # ascending
    return axes[:, ::-1][:, :AXES]


def psi(live: np.ndarray, new: np.ndarray) -> float:
    """The population stability index of one variable: sum over bins of (new - live) * ln(new / live), of shares of rows.

    The bins are the deciles of `live`; a bin without rows counts as a share of 1e-4. This is Jeffreys' divergence of the
    two histograms; as an index of drift, with 0.1 and 0.25 as usual limits, see N. Siddiqi, Credit Risk Scorecards (2006).
    Without any drift it is about 9 * (1 / n + 1 / m) by chance alone, so that small samples need wider limits.

    Args:
      live, new: float64[n] and float64[m], none of them empty.
    """
    spread = float(live.std()) or 1.0
    # Rounded, so that rows which are equal up to rounding fall into the same bin.
    live, new = np.round(live / spread, 6), np.round(new / spread, 6)
    edges = np.unique(np.quantile(live, np.arange(1, BINS) / BINS))
    shares = [
        np.maximum(np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / len(values), _EMPTY)
        for values in (live, new)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _cosine(one: np.ndarray, other: np.ndarray, length: float, other_length: float) -> float:
    if not length or not other_length:
        return float(length == other_length)
    return float(np.clip(one @ other / (length * other_length), -1.0, 1.0))


def _change(live: float, new: float) -> float:
    """The change as a share of the live value."""
    return abs(new - live) / live if live else 0.0 if new == live else float("inf")
