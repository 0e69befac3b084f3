"""Nearest classes against a full sort, and when a run looks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import config_of, digits, train_here, write_examples

from simpipe.config.models import HardClasses
from simpipe.data.examples import DatasetInfo
from simpipe.samplers.shard_sampler import ShardSampler
from simpipe.training import hard_classes, nearest
from simpipe.training.hard_classes import class_centroids, near_classes, nearest_rows


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_nearest_rows_equal_a_full_sort(n: int, m: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    vectors[rng.random(n) < 0.2] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_VALUES", block * n)
        found = nearest_rows(vectors, m)
    there = np.flatnonzero((vectors != 0).any(axis=1))
    for row in range(n):
        others = [other for other in there if other != row] if row in there else []
        others.sort(key=lambda other: -float(vectors[row] @ vectors[other]))
        assert found[row].tolist() == (others + [-1] * m)[:m]


def test_centroids_are_means_of_length_one() -> None:
    rng = np.random.default_rng(0)
    classes, labels = np.array([7, 2, 9]), np.array([2, 9, 2, 9, 2])
    embeddings = rng.normal(size=(5, 3)).astype(np.float32)
    found = class_centroids(embeddings, labels, classes)
    for row, which in ((1, [0, 2, 4]), (2, [1, 3])):
        mean = embeddings[which].mean(axis=0)
        np.testing.assert_allclose(found[row], mean / np.linalg.norm(mean), rtol=1e-5)
    assert not found[0].any(), "a class without examples"


def test_near_classes_of_pixels(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pixels as embeddings; read in parts, some classes left out."""
    monkeypatch.setattr(hard_classes, "_CLASSES", 4)
    x, y = digits()
    chosen = [0, 1, 3, 4, 5, 7, 8, 9]

    def encode(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32)

    hard = HardClasses(bundle=2, examples=1000)
    found = near_classes(examples, DatasetInfo.load(examples), chosen, encode=encode, settings=hard, seed=0)
    assert found.shape == (10, 4)
    assert found.dtype == np.int32
    means = np.stack([encode(x[y == digit]).astype(np.float64).mean(axis=0) for digit in chosen])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    similar = means @ means.T - 2 * np.eye(len(chosen))
    expected = np.array(chosen)[np.argsort(-similar, axis=1)[:, :4]]
    np.testing.assert_array_equal(found[chosen], expected)
    assert (found[[2, 6]] == -1).all()


def test_when_neighbors_are_looked_for(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every second epoch, and before the first where training begins with an encoder; never among held-out ones."""
    calls: list[tuple[int, np.ndarray]] = []
    set_neighbors = ShardSampler.set_neighbors

    def see(self: ShardSampler, neighbors: Any, *, from_step: int) -> None:
        calls.append((from_step, neighbors))
        set_neighbors(self, neighbors, from_step=from_step)

    monkeypatch.setattr(ShardSampler, "set_neighbors", see)
    run: dict[str, Any] = {"epochs": 5, "steps_per_epoch": 2, "early_stopping": {"held_out": ["4", "5"]}}
    run["sampler"] = {"classes_per_batch": 4, "examples_per_class": 4, "hard_classes": {"every": 2, "bundle": 2}}
    train_here(config_of(**run), examples, tmp_path / "first")
    assert [step for step, _ in calls] == [4, 8]
    for _, neighbors in calls:
        assert not np.isin(neighbors, [4, 5]).any()
        assert (neighbors[[4, 5]] == -1).all()
        assert (neighbors[[0, 1, 2, 3, 6, 7, 8, 9]] >= 0).all()
    calls.clear()
    train_here(config_of(**run, start_from=str(tmp_path / "first")), examples, tmp_path / "second")
    assert [step for step, _ in calls] == [0, 4, 8]
