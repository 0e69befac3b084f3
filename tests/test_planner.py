"""The planner: the fewest partitions that fit, more only where queries get cheaper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpipe.config.index import AutoRouter, ExactBackend, NmslibBackend, ScannBackend
from simpipe.index.distance import prepare
from simpipe.index.planner import Sampled, bytes_a_row, choose, least_partitions, plan_router, reach_of

BACKENDS = (ExactBackend(kind="exact"), ScannBackend(kind="scann"), NmslibBackend(kind="nmslib"))


@given(
    items=st.integers(1, 10**9),
    dim=st.integers(1, 2048),
    memory=st.integers(64, 65_536),
    workers=st.integers(1, 300),
    backend=st.sampled_from(BACKENDS),
)
def test_the_fewest_partitions_fit_and_one_less_would_not(items, dim, memory, workers, backend):
    count = least_partitions(items, backend=backend, dim=dim, memory_mib=memory, workers=workers, balance=1.2)
    fits = (memory << 20) // bytes_a_row(backend, dim)
    assert count >= workers
    if count > 1 and fits > 1:
        assert items * 1.2 / count <= fits, "the largest partition may be `balance` times the mean"
    if count > workers and count > 1:
        assert items * 1.2 / (count - 1) > fits


def groups(n: int, clusters: int, noise: float, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(clusters, dim))
    return prepare((centres[rng.integers(clusters, size=n)] + noise * rng.normal(size=(n, dim))).astype(np.float32), "cosine")


def plan(sample: np.ndarray, *, items: int, least: int = 1, partitions: int | None = None):
    config = AutoRouter(kind="auto", partitions=partitions)
    return plan_router(sample, config, items=items, least=least, is_exact=False, seed=7)


def test_a_small_data_set_stays_whole():
    planned = plan(groups(3000, 20, 0.1), items=10_000)
    assert (planned.router.partitions, planned.config.kind, planned.candidates) == (1, "hash", ())


def test_noise_is_not_split_beyond_need():
    """Without clusters every partition may hold neighbors, so that more of them only cost."""
    planned = plan(prepare(np.random.default_rng(0).normal(size=(6000, 24)).astype(np.float32), "cosine"), items=1_000_000)
    assert planned.router.partitions == 1
    assert {candidate.partitions for candidate in planned.candidates} == {1, 4}, "where 4 cost more, 16 are not tried"
    four = [candidate for candidate in planned.candidates if candidate.partitions == 4]
    assert min(candidate.probes for candidate in four) > 2


def test_clear_clusters_are_split_and_a_query_asks_one():
    planned = plan(groups(6000, 100, 0.05), items=1_000_000)
    assert planned.router.partitions > 1
    chosen = min(planned.candidates, key=lambda candidate: candidate.microseconds)
    assert chosen.probes < 1.2
    assert (chosen.router, chosen.partitions) == (planned.config.kind, planned.router.partitions)


@pytest.mark.parametrize("least", [1, 5])
def test_a_number_of_partitions_that_is_asked_for_is_kept(least):
    planned = plan(groups(4000, 40, 0.1), items=50_000, least=least, partitions=11)
    assert planned.router.partitions == 11
    assert {candidate.partitions for candidate in planned.candidates} == {11}
    record = planned.to_json()
    assert record["kind"] == planned.config.kind
    assert len(record["planner"]["candidates"]) == len(planned.candidates)


def test_the_same_sample_gives_the_same_plan():
    one, two = (plan(groups(4000, 40, 0.1), items=500_000) for _ in range(2))
    assert one.to_json() == two.to_json()


def test_reach_covers_the_neighbors_of_the_sample():
    sample = groups(3000, 30, 0.2)
    planned = plan(sample, items=3000, partitions=6)
    sampled = Sampled.of(sample, items=3000, seed=7)
    least, nearness = sampled.least(planned.router)
    reach = reach_of(planned.router, sampled, mean_probes=6.0)
    assert (least <= reach).mean() >= 0.998
    assert (nearness.min(axis=1) == 0).all()


@pytest.mark.parametrize(
    ("costs", "taken"),
    [
        ([(7, 40.4), (28, 25.3), (112, 25.2), (112, 20.3 * 1.3)], 1),  # hardly cheaper for four times the files
        ([(1, 26.8), (4, 19.8), (4, 43.3), (16, 15.3)], 3),
        ([(1, 8.7), (4, 12.2)], 0),
        ([(4, 10.0), (4, 9.0), (16, 8.6)], 1),  # of one number of partitions the cheapest
        ([(4, 9.0)], 0),
    ],
)
def test_more_partitions_must_pay(costs, taken):
    assert choose(costs) == taken
