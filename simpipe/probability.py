"""Distance -> probability that a match has the right label, with its expected calibration error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from simpipe.errors import ConfigError

if TYPE_CHECKING:
    from simpipe.calibration import PairCounts

Method = Literal["isotonic", "logistic"]
_LEVELS = 2048  # more knots than twice as many are thinned to one step of probability each
_POOLS = 1 << 16  # groups of distances that the logistic fit sees
_DRAWN = 101  # points of the logistic curve, for plots
# Distances float64[t], hits and total int64[t]. A fit makes the fields of the curve from them.
_Cells = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Bin:
    """Queries at neighboring distances: the mean probability that was predicted for them, and what was observed.

    Attributes:
      mean: of the predicted probabilities. share: of the queries whose match is right.
      queries: how many. low, high: Wilson interval of the share.
    """

    mean: float
    share: float
    queries: int
    low: float
    high: float


@dataclass(frozen=True)
class Probability:
    """P(the match has the right label | its distance), falling with the distance.

    Attributes:
      method: isotonic or logistic.
      distance, probability: float64[m], knots of the curve, linear between them and constant outside; of a logistic curve,
        points to draw it by.
      scale, shift: logit(p) = scale * distance + shift; None where the knots are the curve.
      knot_error: how far the knots may be from the isotonic fit; 0 where all are kept.
      ece: expected calibration error, see `fit_probability`; None with fewer than two queries.
      bins: reliability, by ascending distance; none where `ece` is None.
      queries: that have a neighbor. folds, seed, confidence: of `ece` and `bins`.
    """

    method: Method
    distance: np.ndarray
    probability: np.ndarray
    scale: float | None = None
    shift: float | None = None
    knot_error: float = 0.0
    ece: float | None = None
    bins: tuple[Bin, ...] = ()
    queries: int = 0
    folds: int = 0
    seed: int = 0
    confidence: float = 0.95

    def of(self, distances: np.ndarray) -> np.ndarray:
        """Probabilities of derived distances, float[n] -> float64[n]; 0.0 where there is no neighbor (+inf)."""
        wide = np.asarray(distances, np.float64)
        there = np.isfinite(wide)
        return np.where(there, self._at(np.where(there, wide, 0.0)), 0.0)

    def _at(self, distances: np.ndarray) -> np.ndarray:
        if self.scale is not None and self.shift is not None:
            return _logistic(self.scale * distances + self.shift)
        # Rounding may lead a line an ulp below its end; then the curve would rise.
        after = np.searchsorted(self.distance, distances, side="right").clip(max=len(self.distance) - 1)
        return np.maximum(np.interp(distances, self.distance, self.probability), self.probability[after])

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; `from_json` gives the same floats again."""
        shallow = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: shallow[name].tolist() for name in ("distance", "probability")}
        return {**shallow, **lists, "bins": [asdict(each) for each in self.bins]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Probability:
        """What `to_json` made; fields of later versions are passed over."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        values |= {name: np.array(values[name], np.float64) for name in ("distance", "probability")}
        return cls(**{**values, "bins": tuple(Bin(**each) for each in values.get("bins", ()))})


def fit_probability(
    pairs: PairCounts, *, method: str, folds: int = 5, bins: int = 15, seed: int = 0, confidence: float = 0.95
) -> Probability | None:
    """Fits P(right label | distance) on the counts of the calibration queries.

    `isotonic` is the non-increasing least-squares fit (scikit-learn's `IsotonicRegression` on the single pairs, to rounding).
    `logistic` is Platt's (1999): a logistic curve without penalty, on his smoothed targets (n+1)/(n+2) and 1/(n+2), so that
    there is a fit where a distance separates hits from misses; a rising curve becomes constant; beyond 65,536 distinct
    distances neighboring ones are pooled at their mean. Queries without any neighbor are left out: their probability is 0.

    The expected calibration error (Naeini et al. 2015) is the mean over queries of |observed share - mean prediction| of their
    bin. It is cross-fitted: each query is drawn into one of `folds` folds, and predicted by a fit on the others. Queries of
    one distance and outcome can't be told apart, so it is the counts that are drawn into folds, and the result depends on the
    merged counts and `seed` only. Bins hold about equally many queries of neighboring distances (and so of neighboring
    predictions); queries of one distance stay together.

    Args:
      pairs: counts over the calibration queries.
      method: `isotonic` or `logistic`.
      folds: at least 2. bins: of the reliability. seed: of the folds. confidence: of the bins' Wilson intervals.

    Returns:
      None where no query has a neighbor.

    Raises:
      ConfigError: an unknown method, fewer than 2 folds or no bins.
    """
    if method not in _FITS:
        raise ConfigError(f"probability {method!r} is unknown", f"use one of {', '.join(_FITS)}")
    if folds < 2 or bins < 1:
        raise ConfigError(f"{folds} folds and {bins} bins", "give at least 2 folds and 1 bin")
    cells = (np.asarray(pairs.distances, np.float64), np.asarray(pairs.hits, np.int64), np.asarray(pairs.total, np.int64))
    queries = int(cells[2].sum())
    if not queries:
        return None
    kind = cast("Method", method)  # checked above
    made = _reliability(cells, kind, folds=folds, bins=bins, seed=seed, confidence=confidence)
    ece = sum(each.queries * abs(each.share - each.mean) for each in made) / sum(each.queries for each in made) if made else None
    about: dict[str, Any] = {"queries": queries, "folds": folds, "seed": seed, "confidence": confidence}
    return Probability(kind, **_FITS[kind](_counted(cells)), ece=ece, bins=tuple(made), **about)


# --- fits ------------------------------------------------------------------------------------------------------------


def _counted(cells: _Cells) -> _Cells:
    """Without distances that no query has."""
    there = cells[2] > 0
    return cells if there.all() else (cells[0][there], cells[1][there], cells[2][there])


def _isotonic(cells: _Cells) -> dict[str, Any]:
    from sklearn.isotonic import isotonic_regression

    distances, hits, total = cells
    # What IsotonicRegression.fit does once its pairs are sorted and equal distances merged, as counts are.
    fitted = isotonic_regression(hits / total, sample_weight=total.astype(np.float64), y_min=0.0, y_max=1.0, increasing=False)
    bends = fitted[1:] != fitted[:-1]
    kept = np.append(True, bends) | np.append(bends, True)
    kept[[0, -1]] = True
    distances, fitted = distances[kept], fitted[kept]
    if len(fitted) <= 2 * _LEVELS:
        return {"distance": distances, "probability": fitted}
    level = np.floor(fitted * _LEVELS)
    bends = level[1:] != level[:-1]
    kept = np.append(True, bends) | np.append(bends, True)
    # Both curves are linear between the old knots, so there they differ most.
    error = np.abs(np.interp(distances, distances[kept], fitted[kept]) - fitted).max()
    return {"distance": distances[kept], "probability": fitted[kept], "knot_error": float(error)}


def _fit_logistic(cells: _Cells) -> dict[str, Any]:
    distances, hits, total = cells
    right, queries = int(hits.sum()), int(total.sum())
    constant = {"distance": distances[:1], "probability": np.array([right / queries])}
    if len(distances) == 1 or right in (0, queries):
        return constant
    from sklearn.linear_model import LogisticRegression

    drawn = np.linspace(distances[0], distances[-1], _DRAWN)
    distances, hits, total = _pooled(cells)
    mean = np.average(distances, weights=total)
    spread = np.sqrt(np.average((distances - mean) ** 2, weights=total))
    z = ((distances - mean) / spread)[:, None]
    yes, no = (right + 1) / (right + 2), 1 / (queries - right + 2)
    up = hits * yes + (total - hits) * no
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    classes = np.repeat([1, 0], len(z))
    model.fit(np.concatenate([z, z]), classes, sample_weight=np.concatenate([up, total - up]))
    slope = float(np.ravel(model.coef_)[0])
    if slope >= 0:
        return constant
    scale, shift = slope / spread, float(np.ravel(model.intercept_)[0]) - slope * mean / spread
    return {"distance": drawn, "probability": _logistic(scale * drawn + shift), "scale": float(scale), "shift": float(shift)}


def _pooled(cells: _Cells) -> _Cells:
    distances, hits, total = cells
    if len(distances) <= _POOLS:
        return cells
    starts = _starts(total, _POOLS)
    hits, counts = np.add.reduceat(hits, starts), np.add.reduceat(total, starts)
    return np.add.reduceat(distances * total, starts) / counts, hits, counts


def _logistic(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(+large) is inf, and 1 / inf the right 0
        return 1.0 / (1.0 + np.exp(-logits))


_FITS: dict[str, Callable[[_Cells], dict[str, Any]]] = {"isotonic": _isotonic, "logistic": _fit_logistic}


# --- reliability -----------------------------------------------------------------------------------------------------


def _starts(total: np.ndarray, groups: int) -> np.ndarray:
    """Where groups of about equally many queries begin: int64[<= groups], ascending; a distance is in one group."""
    middle = 2 * np.cumsum(total) - total
    group = middle * groups // (2 * int(total.sum()))
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))


def _reliability(cells: _Cells, method: Method, *, folds: int, bins: int, seed: int, confidence: float) -> list[Bin]:
    distances, hits, total = cells
    starts = _starts(total, bins)
    sums = np.zeros((3, len(starts)))  # predicted, hits, queries
    draws = [_folds(counts, folds, np.random.default_rng((seed, i))) for i, counts in enumerate((hits, total - hits))]
    for held_hits, held_misses in zip(*draws, strict=True):
        held = held_hits + held_misses
        others = _counted((distances, hits - held_hits, total - held))
        if not len(others[0]):
            continue
        predicted, there = np.zeros(len(held)), np.flatnonzero(held)
        predicted[there] = held[there] * Probability(method, **_FITS[method](others)).of(distances[there])
        sums += [np.add.reduceat(values, starts) for values in (predicted, held_hits, held)]
    predicted, right, asked = sums[:, sums[2] > 0]
    low, high = wilson(right, asked, confidence)
    columns = (predicted / asked, right / asked, asked.astype(np.int64), low, high)
    return [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _folds(counts: np.ndarray, folds: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How many of the queries of each cell, int64[t], fall into each fold: every query is drawn by itself, uniformly."""
    single = np.flatnonzero(counts == 1)  # nearly all, where distances are distinct: a draw each is far cheaper
    fold = rng.integers(folds, size=len(single), dtype=np.int16)
    several = np.flatnonzero(counts > 1)
    rest = counts[several]
    for number in range(folds):
        taken = rng.binomial(rest, 1 / (folds - number))
        rest = rest - taken
        held = np.zeros(len(counts), np.int64)
        held[single[fold == number]] = 1
        held[several] = taken
        yield held


def wilson(hits: np.ndarray, total: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's (1927) interval of a share hits / total, float[n] each, total above 0: its low and high ends."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
