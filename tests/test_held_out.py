"""Held-out classes: their metrics against loops, their choice, and what a run does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import config_of, record_of, stop_after, train_here, write_examples

from simpipe.config.models import EarlyStopping
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ConfigError
from simpipe.training import held_out, nearest
from simpipe.training.encoder import load_model
from simpipe.training.held_out import HeldOut, choose_held_out, measure, verdict


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


def by_loops(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The definitions, query by query (Musgrave et al. 2020 for the last two)."""
    found: dict[str, list[float]] = {"recall_at_1": [], "recall_at_5": [], "r_precision": [], "map_at_r": []}
    for query in range(len(labels)):
        others = [item for item in range(len(labels)) if item != query]
        r = sum(labels[item] == labels[query] for item in others)
        if not r:
            continue
        others.sort(key=lambda item: -float(vectors[item] @ vectors[query]))
        right = [bool(labels[item] == labels[query]) for item in others]
        found["recall_at_1"].append(right[0])
        found["recall_at_5"].append(any(right[:5]))
        found["r_precision"].append(sum(right[:r]) / r)
        found["map_at_r"].append(sum(sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]) / r)
    return {name: float(np.mean(values)) for name, values in found.items()}


@given(st.integers(3, 40), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_metrics_equal_their_definitions(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n) * 7
    labels[:2] = labels[0]  # at least one class can be measured
    vectors = rng.normal(size=(n, 6)).astype(np.float32) + np.eye(6, dtype=np.float32)[labels // 7 % 6]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, expected = measure(vectors, labels), by_loops(vectors, labels)
    assert found == pytest.approx(expected, abs=1e-12)


def test_metrics_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(6, size=50)
    whole = measure(vectors, labels)
    monkeypatch.setattr(nearest, "_VALUES", 7 * 50)
    assert measure(vectors, labels) == pytest.approx(whole, abs=1e-12)


def test_the_first_of_equal_values_is_the_best() -> None:
    assert verdict([0.1, 0.5, 0.5], 2) == (1, False)
    assert verdict([0.1, 0.5, 0.5, 0.4], 2) == (1, True)
    assert verdict([0.5, 0.1, 0.1, 0.1], None) == (0, False)


def test_choice(examples: Path) -> None:
    info = DatasetInfo.load(examples)

    def choose(held: Any, *, seed: int = 1, classes_per_batch: int = 4) -> tuple[str, ...]:
        config = EarlyStopping.model_validate({"held_out": held})
        return choose_held_out(info, config, seed=seed, classes_per_batch=classes_per_batch)

    assert choose(["2-3", "9"]) == ("2", "3", "9")
    assert choose(0.3) == choose(0.3)
    assert len(choose(0.3)) == 3
    assert len(choose(0.01)) == 2, "fewer cannot be compared"
    assert len({choose(0.3, seed=seed) for seed in range(10)}) > 5
    with pytest.raises(ConfigError, match=r"train\.early_stopping\.held_out: class 'x' is not"):
        choose(["x"])
    with pytest.raises(ConfigError, match=r"held_out: fewer than two of its 1 classes"):
        choose(["3"])
    with pytest.raises(ConfigError, match=r"(?s)8 of 10 train classes.*needs 4 others, 2 are left.*classes_per_batch to 2"):
        choose(0.8)


def test_stops_and_keeps_the_best_weights(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(HeldOut, "measure", lambda self, encoder: {"recall_at_1": next(values)})
    run: dict[str, Any] = {"schedule": "constant", "epochs": 9, "steps_per_epoch": 3}
    run["early_stopping"] = {"held_out": ["8", "9"], "patience": 2}
    with monkeypatch.context() as patch:
        stop_after(7, patch)  # the best weights are then in the backup only
        with pytest.raises(KeyboardInterrupt):
            train_here(config_of(**run), examples, tmp_path / "stopped")
    info = train_here(config_of(**run), examples, tmp_path / "stopped")
    record = record_of(tmp_path / "stopped")
    assert record["steps"] == 12
    assert record["held_out"]["stopped_early"] is True
    assert record["held_out"]["best"] == 1
    assert [found["epoch"] for found in record["held_out"]["measured"]] == [1, 2, 3, 4]
    assert info.metrics["held_out_recall_at_1"] == 0.5
    values = iter([0.1, 0.5])
    train_here(config_of(**{**run, "epochs": 2}), examples, tmp_path / "two")
    for best, two in zip(weights(tmp_path / "stopped"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(best, two)


def test_measures_classes_that_are_not_learned(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(held_out, "measure", lambda vectors, labels: seen.append(labels) or measure(vectors, labels))
    run: dict[str, Any] = {"early_stopping": {"held_out": 0.25, "every": 2, "at_most": 6}, "epochs": 3, "steps_per_epoch": 2}
    train_here(config_of(**run, loss={"kind": "proxy_anchor"}), examples, tmp_path)
    record = record_of(tmp_path)
    names = record["held_out"]["classes"]
    assert len(names) == 2
    assert [found["epoch"] for found in record["held_out"]["measured"]] == [2, 3], "and once at the end"
    for labels in seen:
        assert dict(zip(*np.unique(labels, return_counts=True), strict=True)) == {int(name): 6 for name in names}
    assert record["sampler"]["classes"] == 8


def weights(folder: Path) -> list[np.ndarray]:
    return load_model(folder)[0].get_weights()
