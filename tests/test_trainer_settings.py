"""What each setting of training does to the weights, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_examples import make_examples
from trainer_runs import SMALL, config_of, digits, losses_of, record_of, train_apart, train_here, write_examples

from simpipe.architectures import build_encoder
from simpipe.config import parse_config
from simpipe.config.models import TrainConfig
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ConfigError, SimpipeError
from simpipe.training import task
from simpipe.training.average import WeightAverage
from simpipe.training.encoder import load_model
from simpipe.training.optimizer import learning_rate

STEP: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 1, "schedule": "constant", "augment": {}}
SGD: dict[str, Any] = {**STEP, "optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def initial(examples: Path) -> list[np.ndarray]:
    config = config_of()
    return trainable(build_encoder(DatasetInfo.load(examples).input, config.train.encoder, seed=config.seed))


def trainable(model: Any) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in model.trainable_weights]


def weights_after(folder: Path, examples: Path, **settings: Any) -> list[np.ndarray]:
    train_here(config_of(**settings), examples, folder)
    return trainable(load_model(folder)[0])


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def test_clip_norm_bounds_the_step(tmp_path: Path, examples: Path, initial: list[np.ndarray]) -> None:
    """With SGD at rate 1 the step is the gradient: clipped, it has the same direction and the given length."""
    free = flat(weights_after(tmp_path / "free", examples, **SGD)) - flat(initial)
    clipped = flat(weights_after(tmp_path / "clipped", examples, **SGD, clip_norm=0.01)) - flat(initial)
    wide = flat(weights_after(tmp_path / "wide", examples, **SGD, clip_norm=1e6)) - flat(initial)
    assert np.linalg.norm(free) > 0.02
    np.testing.assert_allclose(np.linalg.norm(clipped), 0.01, rtol=1e-3)
    np.testing.assert_allclose(clipped / 0.01, free / np.linalg.norm(free), atol=1e-3)
    np.testing.assert_allclose(wide, free, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_two_devices_clip_the_global_gradient(precision: str, tmp_path: Path, examples: Path) -> None:
    """Keras alone would clip each replica's part, and look for infinities in each alone."""
    settings = {**SGD, "steps_per_epoch": 3, "clip_norm": 0.05, "precision": precision}
    settings["loss"] = {"kind": "proxy_anchor", "alpha": 8}
    one = weights_after(tmp_path / "one", examples, **settings)
    train_apart(config_of(**settings), examples, tmp_path / "two", replicas=2)
    two = trainable(load_model(tmp_path / "two")[0])
    assert record_of(tmp_path / "two")["sessions"][0]["replicas"] == 2
    near = {"rtol": 1e-5} if precision == "float32" else {"rtol": 2e-2}
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), **near)
    np.testing.assert_allclose(flat(two), flat(one), atol=1e-5 if precision == "float32" else 5e-3)


def test_weight_decay_leaves_biases_and_norms_alone(tmp_path: Path, examples: Path, initial: list[np.ndarray]) -> None:
    small = {**SGD, "learning_rate": 0.1}
    plain = weights_after(tmp_path / "plain", examples, **small)
    decayed = weights_after(tmp_path / "decayed", examples, **small, weight_decay=0.2)
    for before, without, with_decay in zip(initial, plain, decayed, strict=True):
        expected = 0.1 * 0.2 * before if before.ndim > 1 else np.zeros_like(before)
        np.testing.assert_allclose(without - with_decay, expected, atol=1e-6)


def test_ema_is_the_average_by_hand(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving statistics of the batch norms included."""
    seen: list[list[np.ndarray]] = []
    make, update = WeightAverage.__init__, WeightAverage.update

    def make_and_see(self: Any, weights: Any, momentum: float) -> None:
        make(self, weights, momentum)
        seen.append([np.asarray(weight) for weight in weights])

    def update_and_see(self: Any, step: int) -> None:
        seen.append([np.asarray(weight) for weight in self._weights])
        update(self, step)

    monkeypatch.setattr(WeightAverage, "__init__", make_and_see)
    monkeypatch.setattr(WeightAverage, "update", update_and_see)
    train_here(config_of(epochs=1, ema=0.3, learning_rate=0.01), examples, tmp_path)
    model, _ = load_model(tmp_path)
    assert len(seen) == 9
    average = [weight.astype(np.float64) for weight in seen[0]]
    for step, weights in enumerate(seen[1:], 1):
        m = min(0.3, (1 + step) / (10 + step))
        average = [m * old + (1 - m) * new for old, new in zip(average, weights, strict=True)]
    names = [weight.path for weight in model.weights]
    assert any("moving_variance" in name for name in names)
    for name, found, expected, last in zip(names, model.get_weights(), average, seen[-1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.abs(found - last).max() > 0, "an average differs from the last weights"


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_near_float32_and_saves_float32(precision: str, tmp_path: Path, examples: Path) -> None:
    settings = {"epochs": 1, "steps_per_epoch": 6, "optimizer": "sgd", "learning_rate": 0.01}
    train_here(config_of(**settings), examples, tmp_path / "full")
    train_here(config_of(**settings, precision=precision), examples, tmp_path / "half")
    full, half = losses_of(tmp_path / "full"), losses_of(tmp_path / "half")
    assert (full != half).any(), "the network did compute in half precision"
    np.testing.assert_allclose(half, full, rtol=0.03)
    model, _ = load_model(tmp_path / "half")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert {layer.compute_dtype for layer in model.layers if layer.name != "input"} == {"float32"}
    x, _ = digits()
    assert np.asarray(model(x[:4])).dtype == np.float32
    np.testing.assert_allclose(model.encode(x[:200]), load_model(tmp_path / "full")[0].encode(x[:200]), atol=0.05)


def test_half_precision_without_a_number_says_what_to_use(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simpipe.losses import MultiSimilarityLoss
    from simpipe.training import recipes

    class Broken(MultiSimilarityLoss):
        def anchor_values(self, pairs: Any) -> Any:
            return super().anchor_values(pairs) * float("inf")

    monkeypatch.setattr(recipes, "make_loss", lambda *args, **kwargs: Broken())
    with pytest.raises(SimpipeError, match=r"(?s)at step 1\n.*cure: use `precision: mixed_bfloat16`"):
        train_here(config_of(**STEP, precision="mixed_float16"), examples, tmp_path)


def test_half_precision_whose_gradients_overflow_for_good(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is a number, its gradient is none: loss scaling would skip every step and say nothing."""
    import keras

    from simpipe.losses import MultiSimilarityLoss
    from simpipe.training import recipes

    ops: Any = keras.ops

    class Steep(MultiSimilarityLoss):
        def anchor_values(self, pairs: Any) -> Any:
            return super().anchor_values(pairs) + ops.sqrt(ops.sum(pairs.distances) * 0.0)

    monkeypatch.setattr(recipes, "make_loss", lambda *args, **kwargs: Steep())
    with pytest.raises(SimpipeError, match=r"(?s)not finite, step after step \(up to step 20\).*mixed_bfloat16"):
        train_here(config_of(steps_per_epoch=20, precision="mixed_float16"), examples, tmp_path)


def test_schedules() -> None:
    def rates(steps: list[int], **settings: Any) -> np.ndarray:
        rate = learning_rate(TrainConfig.model_validate({"learning_rate": 0.4, **settings}), 100)
        return np.array([float(np.asarray(rate(step))) if callable(rate) else rate for step in steps])

    np.testing.assert_allclose(rates([0, 50, 99], schedule="constant"), 0.4)
    np.testing.assert_allclose(
        rates([0, 5, 10, 50, 99], schedule="constant", warmup_steps=10), [0, 0.2, 0.4, 0.4, 0.4], rtol=1e-6
    )
    np.testing.assert_allclose(rates([0, 50, 100]), [0.4, 0.2, 0], atol=1e-7)
    np.testing.assert_allclose(rates([0, 5, 10, 55, 100], warmup_steps=10), [0, 0.2, 0.4, 0.2, 0], atol=1e-7)
    with pytest.raises(ConfigError, match=r"train\.warmup_steps: 100 steps of warm-up, but the run has 100"):
        rates([0], warmup_steps=100)


def test_an_epoch_may_be_a_pass(tmp_path: Path, examples: Path) -> None:
    sampler = {"classes_per_batch": 10, "examples_per_class": 16, "weighting": "proportional"}
    train_here(config_of(steps_per_epoch=None, epochs=2, sampler=sampler), examples, tmp_path)
    record = record_of(tmp_path)
    assert record["steps"] == 2 * record["sampler"]["steps_per_pass"] == 2 * (np.bincount(digits()[1]).min() // 16)


def test_the_record_repeats_the_run(tmp_path: Path, examples: Path) -> None:
    run = config_of(seed=5, epochs=2, early_stopping={"held_out": ["7", "8-9"]}, loss={"kind": "supcon"})
    info = train_here(run, examples, tmp_path / "first")
    record = record_of(tmp_path / "first")
    again = train_here(parse_config(record["config"]), examples, tmp_path / "again")
    assert again.fingerprint == info.fingerprint == record["fingerprint"]
    np.testing.assert_array_equal(losses_of(tmp_path / "first"), losses_of(tmp_path / "again"))
    assert record["history"]["loss"] == losses_of(tmp_path / "first").reshape(2, 8).mean(axis=1).tolist()
    assert record["resumes"] == 0
    assert record["examples"]["key"] == DatasetInfo.load(examples).key
    assert record["held_out"]["classes"] == ["7", "8", "9"]
    assert record["sampler"]["classes"] == 7
    assert set(record["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    assert record["seconds"] > 0


def test_a_batch_must_divide_by_the_devices(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "local_devices", lambda: ["CPU:0", "CPU:1", "CPU:2"])
    with pytest.raises(ConfigError, match="16 does not divide by 3 devices"):
        train_here(config_of(), examples, tmp_path)


def test_small_stays_as_it_is() -> None:
    """The defaults are those of runs before there were settings."""
    plain = TrainConfig.model_validate(SMALL)
    assert (plain.optimizer, plain.precision, plain.warmup_steps) == ("adam", "float32", 0)
    assert (plain.clip_norm, plain.ema, plain.early_stopping, plain.start_from) == (None, None, None, None)


def test_mixed_precision_tells_columns_far_from_zero_apart(tmp_path: Path) -> None:
    """Columns around 100,000, which float16 does not even hold."""
    x, y = digits()
    make_examples(tmp_path / "columns", x.reshape(len(x), -1).astype(np.float32) + 1e5, y)
    run: dict[str, Any] = {"encoder": {"architecture": "mlp", "filters": 8, "dim": 8}, "augment": {}, "epochs": 1}
    train_here(config_of(**run), tmp_path / "columns", tmp_path / "full")
    train_here(config_of(**run, precision="mixed_float16"), tmp_path / "columns", tmp_path / "half")
    full, half = losses_of(tmp_path / "full"), losses_of(tmp_path / "half")
    np.testing.assert_allclose(half[0], full[0], rtol=0.02)
    np.testing.assert_allclose(half.mean(), full.mean(), rtol=0.1)
