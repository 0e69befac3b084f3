"""Distance -> probability: scikit-learn on the single pairs, calibration error by hand, what any counts must give."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from simpipe.calibration import PairCounts
from simpipe.errors import ConfigError
from simpipe.probability import Probability, fit_probability, wilson


def drawn(n: int, seed: int = 0, *, digits: int | None = None, slope: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Distances float32[n] and hits bool[n] whose probability is logistic in the distance, or step by step."""
    rng = np.random.default_rng(seed)
    distances = rng.random(n).astype(np.float32)
    if digits is not None:
        distances = np.round(distances, digits)
    return distances, rng.random(n) < expit(slope * (0.5 - distances))


def counted(distances: np.ndarray, hits: np.ndarray, total: np.ndarray) -> PairCounts:
    return PairCounts(distances, hits, total, np.zeros_like(total))


def fitted(distances: np.ndarray, hits: np.ndarray, method: str = "isotonic", **how) -> Probability:
    made = fit_probability(PairCounts.of(distances, hits), method=method, **how)
    assert made is not None
    return made


@pytest.mark.parametrize("digits", [None, 2])
def test_isotonic_is_scikit_learns_on_the_single_pairs(digits):
    distances, hits = drawn(20_000, digits=digits)
    ours = fitted(distances, hits)
    oracle = IsotonicRegression(increasing=False, out_of_bounds="clip", y_min=0, y_max=1)
    oracle.fit(distances.astype(np.float64), hits)
    everywhere = np.concatenate([[-1.0, 0.0, 2.0], np.linspace(0, 1, 50_001), distances.astype(np.float64)])
    np.testing.assert_allclose(ours.of(everywhere), oracle.predict(everywhere), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.distance, oracle.X_thresholds_, rtol=0, atol=0)
    np.testing.assert_allclose(ours.probability, oracle.y_thresholds_, rtol=0, atol=1e-12)
    assert ours.knot_error == 0
    assert ours.queries == 20_000


def test_logistic_is_scikit_learns():
    distances, hits = drawn(20_000)
    ours = fitted(distances, hits, "logistic")
    z = (distances.astype(np.float64) - distances.mean()) / distances.std()
    plain = LogisticRegression(C=np.inf, tol=1e-12).fit(z[:, None], hits)
    # Platt's targets move each label by one in 10,000.
    np.testing.assert_allclose(ours.of(distances), plain.predict_proba(z[:, None])[:, 1], atol=1e-3)
    platt = _SigmoidCalibration().fit(distances.astype(np.float64), hits)
    np.testing.assert_allclose(ours.of(distances), platt.predict(distances.astype(np.float64)), atol=1e-5)
    assert ours.scale is not None
    assert ours.shift is not None
    np.testing.assert_allclose([ours.scale, ours.shift], [-6, 3], rtol=0.05)
    np.testing.assert_array_equal(ours.of(ours.distance), ours.probability)


def test_pooled_logistic_is_near_the_whole():
    distances, hits = drawn(200_000)
    assert len(np.unique(distances)) > 1 << 16
    z = distances.astype(np.float64)[:, None]
    whole = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(z, hits)
    assert np.abs(fitted(distances, hits, "logistic").of(distances) - whole.predict_proba(z)[:, 1]).max() < 1e-4


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_calibration_error_is_small_where_predictions_are_right_and_equals_the_sum_over_bins(method):
    distances, hits = drawn(100_000)
    made = fitted(distances, hits, method)
    assert made.ece is not None
    assert made.ece < 0.006
    assert len(made.bins) == 15
    assert sum(each.queries for each in made.bins) == 100_000
    assert {each.queries for each in made.bins} <= {6666, 6667}
    by_hand = sum(each.queries / 100_000 * abs(each.share - each.mean) for each in made.bins)
    assert made.ece == pytest.approx(by_hand, rel=1e-12)
    order = np.argsort(distances, kind="stable")
    shares = [chunk.mean() for chunk in np.array_split(hits[order], 15)]
    np.testing.assert_allclose([each.share for each in made.bins], shares, atol=1e-3)
    assert sum(each.low <= each.mean <= each.high for each in made.bins) >= 12, "of 15 intervals of 95 %"
    for each in made.bins:
        oracle = binomtest(round(each.share * each.queries), each.queries).proportion_ci(0.95, method="wilson")
        assert (each.low, each.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)


def test_calibration_error_by_hand():
    """Two folds of two distances, one bin each: what every fold predicts is the share of the other."""
    pairs = counted(np.array([0.1, 0.9], np.float32), np.array([30, 5]), np.array([40, 40]))
    made = fit_probability(pairs, method="isotonic", folds=2, bins=2, seed=3)
    assert made is not None
    assert [each.share for each in made.bins] == [30 / 40, 5 / 40]
    held = np.stack([np.stack(list(draws), 1) for draws in _splits(pairs, folds=2, seed=3)])  # outcome, distance, fold
    hits, total = held[0], held.sum(axis=0)
    others = (hits.sum(1, keepdims=True) - hits) / (total.sum(1, keepdims=True) - total)
    assert (others[0] > others[1]).all(), "already falling: the fits are the shares"
    means = (others * total).sum(1) / total.sum(1)
    np.testing.assert_allclose([each.mean for each in made.bins], means, rtol=1e-12)
    assert made.ece == pytest.approx(np.abs(means - [30 / 40, 5 / 40]).mean())


def _splits(pairs: PairCounts, *, folds: int, seed: int) -> list[list[np.ndarray]]:
    from simpipe.probability import _folds

    counts = (pairs.hits, pairs.total - pairs.hits)
    return [list(_folds(each, folds, np.random.default_rng((seed, i)))) for i, each in enumerate(counts)]


def test_folds_hold_each_query_once_in_equal_shares():
    counts = np.array([0, 1, 1000, 3, *[1] * 5000])
    parts = np.stack([*_splits(counted(counts, counts, counts), folds=5, seed=1)[0]])
    assert (parts >= 0).all()
    np.testing.assert_array_equal(parts.sum(axis=0), counts)
    np.testing.assert_allclose(parts[:, 2], 200, atol=60)
    np.testing.assert_allclose(parts[:, 4:].sum(axis=1), 1000, atol=120)


def test_calibration_error_is_not_flattered_by_its_own_queries():
    """By chance every distance is right or wrong: a fit sees that of its own queries, but not of others."""
    rng = np.random.default_rng(0)
    distances, hits = rng.random(60).astype(np.float32), rng.random(60) < 0.5
    made = fitted(distances, hits, bins=15)
    order = np.argsort(distances)
    own = made.of(distances)[order]
    inside = np.mean([abs(p.mean() - y.mean()) for p, y in zip(np.split(own, 15), np.split(hits[order], 15), strict=True)])
    assert made.ece is not None
    assert made.ece > inside


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
@pytest.mark.parametrize(
    ("hits", "expected"), [([1, 1, 1, 1], 1.0), ([0, 0, 0, 0], 0.0), ([0, 0, 1, 1], 0.5)], ids=["all", "none", "rising"]
)
def test_degenerate_hits_give_a_constant(method, hits, expected):
    made = fitted(np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array(hits, bool), method)
    np.testing.assert_allclose(made.of(np.array([-1, 0.1, 0.25, 9.0])), expected)
    alone = fitted(np.full(4, 0.5, np.float32), np.array([1, 1, 0, 1], bool), method)
    np.testing.assert_allclose(alone.of(np.array([0.0, 0.5, 1.0])), 0.75)
    json.dumps(made.to_json(), allow_nan=False)


def test_separated_hits_have_a_finite_curve():
    made = fitted(np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([1, 1, 0, 0], bool), "logistic")
    values = made.of(np.array([0.1, 0.2, 0.3, 0.4]))
    assert (np.diff(values) < 0).all()
    assert values[1] > 0.5 > values[2]
    json.dumps(made.to_json(), allow_nan=False)


def test_no_neighbor_is_never_right_and_no_pairs_are_no_probability():
    made = fitted(*drawn(100))
    np.testing.assert_array_equal(made.of(np.array([np.inf, np.inf], np.float32)), [0.0, 0.0])
    assert made.of(np.empty(0, np.float32)).dtype == np.float64
    empty = PairCounts.of(np.array([np.inf], np.float32), np.array([False]))
    assert fit_probability(empty, method="isotonic") is None
    assert fitted(np.array([0.5], np.float32), np.array([True])).ece is None, "one query cannot be predicted by others"
    with pytest.raises(ConfigError, match="isotonic, logistic"):
        fit_probability(empty, method="beta")
    with pytest.raises(ConfigError, match="1 folds"):
        fit_probability(empty, method="isotonic", folds=1)


def test_many_knots_are_thinned_with_their_error_stated():
    """Each distance lower than the one before: a knot each."""
    n = 20_000
    total = np.full(n, 1 << 20)
    hits = np.linspace(1 << 20, 0, n).astype(np.int64)
    pairs = counted(np.linspace(0, 1, n).astype(np.float32) ** 3, hits, total)
    made = fit_probability(pairs, method="isotonic")
    assert made is not None
    assert len(made.distance) < 5000
    error = np.abs(made.of(pairs.distances) - hits / total).max()
    assert 0 < error <= made.knot_error * (1 + 1e-9)
    assert made.knot_error <= 1 / 2048


def same(one: Probability, other: Probability) -> bool:
    return json.dumps(one.to_json()) == json.dumps(other.to_json())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=120),
    st.sampled_from(["isotonic", "logistic"]),
    st.integers(1, 17),
    st.integers(0, 1000),
)
def test_any_pairs_give_a_falling_curve_whatever_the_shards(pairs, method, shards, seed):
    distances = np.array([distance for distance, _ in pairs], np.float32) / np.float32(7)
    hits = np.array([hit for _, hit in pairs], bool)
    made = fitted(distances, hits, method, seed=seed)
    grid = np.sort(
        np.concatenate([np.linspace(-1, 6, 500), distances, np.nextafter(distances, np.float32(0))]).astype(np.float64)
    )
    values = made.of(grid)
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) <= 0).all()
    assert made.ece is None or 0 <= made.ece <= 1
    order = np.random.default_rng(seed).permutation(len(hits))
    parts = [PairCounts.of(distances[rows], hits[rows]) for rows in np.array_split(order, shards)]
    sharded = fit_probability(PairCounts.merge(parts), method=method, seed=seed)
    assert sharded is not None
    assert same(made, sharded)
    again = Probability.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert same(made, again)
    np.testing.assert_array_equal(again.of(grid), values)


def test_records_of_later_versions_are_read():
    made = fitted(*drawn(500))
    assert same(made, Probability.from_json({**made.to_json(), "new": 1}))
    assert {field.name for field in dataclasses.fields(made)} == set(made.to_json())


def test_wilson_at_the_ends():
    low, high = wilson(np.array([0, 10]), np.array([10, 10]), 0.9)
    for i, hits in enumerate((0, 10)):
        oracle = binomtest(hits, 10).proportion_ci(0.9, method="wilson")
        assert (low[i], high[i]) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
