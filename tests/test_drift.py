"""Drift against hand-computed values and known shifts; samples by hash."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import clustered
from hypothesis import given
from hypothesis import strategies as st
from release_maker import RELEASE, make_release
from test_hidden_rows import hide, spilled

import simpipe
from simpipe.drift import AXES, lowest, measure, principal_axes, psi
from simpipe.ids import hash_ids
from simpipe.release_facts import draw_sample


def draw(n: int, seed: int, *, dim: int = 16, unit: bool = True) -> np.ndarray:
    """Vectors that vary more on some axes than on others, around a mean that is not zero."""
    rng = np.random.default_rng(seed)
    vectors = 1.0 + rng.normal(size=(n, dim)) * np.linspace(2, 0.2, dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors).astype(np.float32)


def test_psi_of_shares_computed_by_hand():
    live = np.repeat(np.arange(10.0), 100)  # ten deciles of 0.1 each
    new = np.repeat(np.arange(10.0), [200, 50, 50, 100, 100, 100, 100, 100, 100, 100])
    expected = 0.1 * np.log(2) + 2 * (-0.05) * np.log(0.5)
    assert psi(live, new) == pytest.approx(expected, abs=1e-12)
    assert psi(live, live) == 0


def test_an_empty_bin_counts_as_a_small_share():
    live = np.repeat(np.arange(10.0), 10)
    new = np.repeat(np.arange(9.0), 10)  # nothing in the last bin
    ninth = 1 / 9
    expected = 9 * (ninth - 0.1) * np.log(ninth / 0.1) + (1e-4 - 0.1) * np.log(1e-4 / 0.1)
    assert psi(live, new) == pytest.approx(expected, abs=1e-12)


def test_psi_of_a_constant_and_of_values_that_differ_by_rounding():
    assert psi(np.ones(50), np.ones(70)) == 0
    assert psi(np.ones(50), np.zeros(50)) > 1
    rng = np.random.default_rng(0)
    live = np.repeat([0.0, 1.0, 2.0], 100) + 0.1
    assert psi(live, live + rng.normal(size=300) * 1e-9) == 0, "no bin's edge lies within the noise"


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
def test_two_samples_of_one_distribution_do_not_drift(distance, seed):
    unit = distance == "cosine"
    drift = measure(draw(10_000, seed, unit=unit), draw(10_000, seed + 100, unit=unit), distance)
    assert drift.psi < 0.1
    assert drift.centroid_cosine > 0.99
    assert drift.norm < 0.05


def test_equal_samples_have_no_drift_at_all():
    vectors = draw(500, 0)
    drift = measure(vectors, vectors.copy(), "cosine")
    assert (drift.norm, drift.psi) == (0, 0)
    assert drift.centroid_cosine == pytest.approx(1)


def test_a_shift_along_one_axis_is_found():
    live, new = draw(10_000, 0, unit=False), draw(10_000, 1, unit=False)
    new[:, 0] += 2.0  # one standard deviation of that axis
    drift = measure(live, new, "euclidean")
    assert drift.psi > 0.25
    assert drift.centroid_cosine < 0.95


def test_rotated_vectors_are_found():
    live, new = draw(10_000, 0), draw(10_000, 1)
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(16, 16)))[0]
    drift = measure(live, (new @ turn).astype(np.float32), "cosine")
    assert drift.psi > 0.25
    assert drift.centroid_cosine < 0.9


def test_a_changed_norm_is_found_and_means_spread_under_cosine():
    live = draw(1000, 0, unit=False)
    assert measure(live, 1.5 * live, "euclidean").norm == pytest.approx(0.5, rel=1e-5)
    unit = draw(1000, 0)
    centre = unit.mean(axis=0)
    near = unit + 2 * centre
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    change = np.linalg.norm(near.mean(axis=0)) / np.linalg.norm(centre) - 1
    assert measure(unit, near, "cosine").norm == pytest.approx(change, rel=1e-5)


def test_axes_are_those_of_the_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, 12)) * np.array([1, 9, 1, 3, *[0.1] * 8])
    axes = principal_axes(vectors)
    assert axes.shape == (12, AXES)
    assert np.abs(axes[1, 0]) > 0.99
    assert np.abs(axes[3, 1]) > 0.99
    assert principal_axes(vectors[:, :3]).shape == (3, 3)


def test_a_zero_mean_counts_as_no_direction():
    spread = np.array([[1.0, 0], [-1, 0]], np.float32)
    assert measure(spread, spread, "euclidean").centroid_cosine == 1
    assert measure(spread, spread + 1, "euclidean").centroid_cosine == 0


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=5), st.integers(1, 30))
def test_a_sample_is_that_of_the_lowest_hashes_wherever_they_lie(partitions, count):
    ties = [np.array(sorted(set(rows)), np.uint64) for rows in partitions]
    owner, row = lowest(iter(ties), count)
    found = [int(ties[number][place]) for number, place in zip(owner, row, strict=True)]
    assert found == sorted({value for rows in partitions for value in rows})[:count]


@pytest.mark.parametrize("count", [1, 70, 400, 5000])
def test_the_sample_of_a_release_counts_copies_once_and_leaves_hidden_rows_out(tmp_path, count):
    vectors, _ = clustered(1200, dim=8)
    make_release(tmp_path, vectors, spilled(vectors, 5))
    gone = [f"i{row}" for row in range(0, 1200, 3)]
    hide(tmp_path, gone)
    ids = sorted({f"i{row}" for row in range(1200)} - set(gone), key=lambda name: int(hash_ids([name])[0]))[:count]
    sample = draw_sample(simpipe.open_release(tmp_path / "releases" / RELEASE), count)
    np.testing.assert_array_equal(sample, vectors[[int(name[1:]) for name in ids]])
