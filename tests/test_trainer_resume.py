"""A run that is killed and started again is the undisturbed run: batches, losses, metrics, curves and weights, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_runs import config_of, losses_of, record_of, stop_after, train_apart, train_here, write_examples

from simpipe.training.backup import Backup, RunState
from simpipe.training.curves import Curves

# All that has a state, in two configurations and one without labels.
EVERYTHING: dict[str, dict[str, Any]] = {
    "pairs": {
        "sampler": {
            "classes_per_batch": 4,
            "examples_per_class": 4,
            "block_examples": 16,
            "open_blocks": 20,
            "hard_classes": {"bundle": 2, "every": 1, "examples": 4},
        },
        "loss": {"kind": "xbm", "memory_size": 64, "warmup_steps": 3},
        "early_stopping": {"held_out": 0.2, "every": 1, "patience": 2},
        "ema": 0.9,
        "clip_norm": 1.0,
        "warmup_steps": 4,
        "tensorboard": True,
        "backup_every": 5,
        "epochs": 4,
    },
    "proxies": {
        "loss": {"kind": "arcface", "num_sampled": 5, "scale": 16},
        "augment": {"turns": True},
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "precision": "mixed_float16",
        "backup_every": 3,
    },
    "views": {"recipe": "simsiam", "optimizer": "sgd", "backup_every": 7, "ema": 0.5},
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


def same(one: Path, other: Path) -> None:
    first, second = record_of(one), record_of(other)
    np.testing.assert_array_equal(losses_of(one), losses_of(other))
    assert first["held_out"] == second["held_out"]
    assert first["history"] == second["history"]
    assert first["fingerprint"] == second["fingerprint"]


def test_killed_twice_in_processes_of_its_own(tmp_path: Path, examples: Path) -> None:
    """SIGKILL in the middle of an epoch, and again soon after, before another backup was written or just after it."""
    config = config_of(**EVERYTHING["pairs"])
    whole = tmp_path / "whole"
    train_here(config, examples, whole)
    drawn = np.random.default_rng(7)
    first, second = int(drawn.integers(6, 14)), int(drawn.integers(4, 9))
    cut = tmp_path / "cut"
    train_apart(config, examples, cut, kill_after=first)
    assert not (cut / "encoder.json").exists()
    train_apart(config, examples, cut, kill_after=second)
    train_apart(config, examples, cut)
    same(whole, cut)
    record = record_of(cut)
    assert record["resumes"] == 2
    resumed_at = 5 * (first // 5)
    assert [one["from_step"] for one in record["sessions"]] == [0, resumed_at, 5 * ((resumed_at + second) // 5)]
    curves = curves_of(cut)
    assert curves == curves_of(whole)
    steps = list(range(1, record["steps"] + 1))
    assert [step for step, _ in curves["train/loss"]] == [step for step, _ in curves["train/learning_rate"]] == steps
    np.testing.assert_array_equal([value for _, value in curves["train/loss"]], losses_of(cut).astype(np.float32))
    measured = record["held_out"]["measured"]
    for name in ("recall_at_1", "map_at_r"):
        drawn_as = [(found["step"], np.float32(found[name])) for found in measured]
        assert curves[f"held_out/{name}"] == drawn_as
    rates = [value for _, value in curves["train/learning_rate"]]
    np.testing.assert_allclose(rates[:6], 1e-3 * np.r_[np.arange(4) / 4, (1 + np.cos(np.pi * np.arange(2) / 28)) / 2], rtol=1e-5)
    assert not (cut / ".backup").exists()


@pytest.mark.parametrize(("name", "stop_in"), [("proxies", 13), ("views", 17)])
def test_stopped_in_any_step(name: str, stop_in: int, tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(**EVERYTHING[name])
    stop_after(stop_in, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_here(config, examples, tmp_path / "cut")
    monkeypatch.undo()
    train_here(config, examples, tmp_path / "cut")
    train_here(config, examples, tmp_path / "whole")
    same(tmp_path / "whole", tmp_path / "cut")


def test_another_number_of_devices_goes_on(tmp_path: Path, examples: Path) -> None:
    """Two devices continue what one began: the same batches, and nearly the same numbers."""
    config = config_of(loss={"kind": "xbm", "memory_size": 64, "warmup_steps": 2}, clip_norm=0.5, ema=0.9, epochs=2)
    train_here(config, examples, tmp_path / "one")
    train_apart(config, examples, tmp_path / "cut", kill_after=11)
    train_apart(config, examples, tmp_path / "cut", replicas=2)
    record = record_of(tmp_path / "cut")
    assert [one["replicas"] for one in record["sessions"]] == [1, 2]
    one, cut = losses_of(tmp_path / "one"), losses_of(tmp_path / "cut")
    np.testing.assert_array_equal(one[:8], cut[:8])
    np.testing.assert_allclose(one, cut, rtol=1e-3)


def test_backup_gives_back_what_it_got(tmp_path: Path) -> None:
    import tensorflow as tf

    variables = [tf.Variable([1.5, 2.5]), tf.Variable(7, dtype=tf.int64)]
    state = RunState(
        losses=[0.1, 1 / 3],
        measured=[{"epoch": 1, "step": 2, "recall_at_1": 0.3}],
        best=[np.float32([1, 2])],
        neighbors=[(0, np.int32([[1], [-1]])), (2, np.int32([[-1], [0]]))],
        sessions=[{"from_step": 0}],
    )
    Backup(tmp_path, run="a").save(variables, state)
    for variable in variables:
        variable.assign(tf.zeros_like(variable))
    found = Backup(tmp_path, run="a").restore(variables)
    assert (found.losses, found.measured, found.sessions) == (state.losses, state.measured, state.sessions)
    np.testing.assert_array_equal(found.best[0], state.best[0])
    assert [step for step, _ in found.neighbors] == [0, 2]
    np.testing.assert_array_equal(found.neighbors[1][1], [[-1], [0]])
    assert variables[0].numpy().tolist() == [1.5, 2.5]
    assert int(variables[1].numpy()) == 7
    assert Backup(tmp_path, run="b").restore(variables).step == 0


def test_curves_beyond_the_backup_are_drawn_again(tmp_path: Path) -> None:
    """A kill between the event file and the backup leaves a file that is ahead."""
    for begin in (0, 5):
        curves = Curves(tmp_path / "logs", step=begin)
        assert not [step for steps in curves_of(tmp_path).values() for step, _ in steps if step > begin]
        for step in range(begin + 1, 10):
            curves.add(step, {"a": float(step), "b": 0.5})
            if step in (5, 8):
                curves.close(step)
    assert curves_of(tmp_path) == {"a": [(step, step) for step in range(1, 9)], "b": [(step, 0.5) for step in range(1, 9)]}


def curves_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "logs").glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            curves.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return curves
