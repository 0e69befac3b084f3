"""Losses with variables inside models: built by compile, trained by fit, in the model's file, not in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe.errors import ConfigError
from simpipe.layers import MetricEmbedding
from simpipe.losses import XBM, ArcFaceLoss, MultiSimilarityLoss, ProxyAnchorLoss, TripletLoss
from simpipe.models import SimilarityModel
from simpipe.training.encoder import fingerprint_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 5)).astype(np.float32), np.arange(48) % 3


def network(*dims: int) -> tuple[Any, Any]:
    inputs = keras.Input((5,))
    heads = [MetricEmbedding(dim, name=f"head{i}")(inputs) for i, dim in enumerate(dims or (4,))]
    return inputs, heads if len(dims) > 1 else heads[0]


def compiled(loss: Any, optimizer: Any = "adam", **options: Any) -> Any:
    keras.utils.set_random_seed(1)
    model = SimilarityModel(*network())
    model.compile(optimizer, loss=loss, **options)
    return model


def fit(model: Any, epochs: int = 2, **options: Any) -> list[float]:
    return model.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0, **options).history["loss"]


@pytest.mark.parametrize("make", [ProxyAnchorLoss, ArcFaceLoss])
@pytest.mark.parametrize("num_sampled", [None, 4])
def test_fit_trains_the_proxies(make: Any, num_sampled: int | None) -> None:
    loss = make(30, num_sampled=num_sampled)
    model = compiled(loss, keras.optimizers.Adam(0.05))
    before = loss.proxies.numpy()
    losses = fit(model, epochs=8)
    assert losses[-1] < 0.8 * losses[0]
    moved = np.abs(loss.proxies.numpy() - before).max(axis=1)
    assert (moved[:3] > 0.1).all()
    assert (moved > 0).mean() > 0.5


@pytest.mark.parametrize("options", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"weight_decay": 0.01}, {"use_ema": True}])
def test_sampled_proxies_with_an_optimizer_option(options: dict[str, Any]) -> None:
    loss = ArcFaceLoss(30, num_sampled=4)
    assert np.isfinite(fit(compiled(loss, keras.optimizers.AdamW(0.01, **options)))).all()
    assert np.isfinite(loss.proxies.numpy()).all()


def test_many_steps_an_execution_are_the_same_steps() -> None:
    runs = {}
    for steps in (1, 3):
        loss = ArcFaceLoss(30, num_sampled=4)
        fit(compiled(loss, steps_per_execution=steps))
        runs[steps] = [v.numpy() for v in (*loss.trainable_variables, *loss.non_trainable_variables)]
    assert runs[1][1] == runs[3][1] == 12
    np.testing.assert_allclose(runs[1][0], runs[3][0], rtol=1e-5, atol=1e-6)


def test_mixed_float16() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        loss = ArcFaceLoss(30, num_sampled=4)
        model = compiled(loss, keras.optimizers.Adam(0.05))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = loss.proxies.numpy()
    losses = fit(model, epochs=8)
    assert losses[-1] < losses[0]
    assert loss.proxies.dtype == "float32"
    assert np.abs(loss.proxies.numpy() - before).max() > 0.01


def test_the_network_is_as_without_proxies() -> None:
    plain, model = compiled(TripletLoss()), compiled(ArcFaceLoss(3))
    assert model.count_params() == plain.count_params()
    assert [w.shape for w in model.weights] == [w.shape for w in plain.weights]
    assert [w.shape for w in model.get_weights()] == [w.shape for w in plain.get_weights()]
    assert [type(layer) for layer in model.layers] == [type(layer) for layer in plain.layers]
    assert len(model.trainable_variables) == len(model.trainable_weights) == len(plain.trainable_variables) + 1
    encoder = fingerprint_of(model)
    model.compile("adam", loss=TripletLoss())
    assert fingerprint_of(model) == encoder
    model.compile("adam", loss=ArcFaceLoss(3))
    outer = keras.Sequential([keras.Input((5,)), model])
    assert len(outer.trainable_variables) == len(plain.trainable_variables)
    model.trainable = False
    assert [v.shape for v in model.trainable_variables] == [(3, 4)]


def test_a_loss_is_replaced_by_compiling_again() -> None:
    model = compiled(ArcFaceLoss(3))
    model.compile("adam", loss=MultiSimilarityLoss())
    assert model.loss_variables == []
    assert len(model.trainable_variables) == len(model.weights)


@pytest.mark.parametrize("make", [lambda: ProxyAnchorLoss(3), lambda: ArcFaceLoss(30, num_sampled=4)])
def test_a_saved_model_goes_on_as_the_one_that_was_saved(tmp_path: Path, make: Any) -> None:
    model = compiled(make())
    fit(model)
    model.save(tmp_path / "model.keras")
    again: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.loss) is type(model.loss)
    for mine, saved in zip(again.loss_variables, model.loss_variables, strict=True):
        assert (mine.numpy() == saved.numpy()).all()
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
    assert fit(again, epochs=1) == pytest.approx(fit(model, epochs=1), rel=1e-5)
    np.testing.assert_allclose(again.loss.proxies.numpy(), model.loss.proxies.numpy(), rtol=1e-4, atol=1e-6)


def test_a_model_saved_in_a_strategy_loads_without(tmp_path: Path) -> None:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = compiled(ArcFaceLoss(30, num_sampled=4))
    fit(model)
    model.save(tmp_path / "model.keras")
    again: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.loss.proxies.numpy() == model.loss.proxies.numpy()).all()
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)


def test_weights_files(tmp_path: Path) -> None:
    """They hold the proxies; a file without them, or with others, is refused unless mismatches are to be skipped."""
    mine, without, other = compiled(ArcFaceLoss(3)), compiled(TripletLoss()), compiled(ArcFaceLoss(7))
    fit(mine)
    mine.save_weights(tmp_path / "with.weights.h5")
    without.save_weights(tmp_path / "without.weights.h5")
    again = compiled(ArcFaceLoss(3))
    again.load_weights(tmp_path / "with.weights.h5")
    assert (again.loss.proxies.numpy() == mine.loss.proxies.numpy()).all()
    with pytest.raises(ValueError, match=r"proxies \(3, 4\), the loss has \(7, 4\)"):
        other.load_weights(tmp_path / "with.weights.h5")
    with pytest.raises(ValueError, match=r"holds no proxies"):
        mine.load_weights(tmp_path / "without.weights.h5")
    mine.load_weights(tmp_path / "without.weights.h5", skip_mismatch=True)
    assert (mine.loss.proxies.numpy() == again.loss.proxies.numpy()).all()
    assert (mine.get_weights()[0] == without.get_weights()[0]).all()
    without.load_weights(tmp_path / "with.weights.h5")
    assert (without.get_weights()[0] == again.get_weights()[0]).all()


def test_losses_in_lists_dicts_and_memories() -> None:
    for make in (lambda a, b: [a, b], lambda a, b: {"head0": a, "head1": b}):
        model = SimilarityModel(*network(4, 6))
        first, second = ArcFaceLoss(3), XBM(TripletLoss(), memory_size=16)
        model.compile("adam", loss=make(first, second))
        assert first.proxies.shape == (3, 4)
        assert second.variables[0].shape == (16, 6)
        assert len(model.trainable_variables) == len(model.weights) + 1
        assert len(model.loss_variables) == 1 + 1 + len(second.variables)
        model.fit(X, [Y, Y], batch_size=8, verbose=0)


def test_outputs_of_one_dict() -> None:
    inputs = keras.Input((5,))
    model = SimilarityModel(inputs, {"z": MetricEmbedding(3)(inputs), "a": MetricEmbedding(2)(inputs)})
    losses = {"z": ArcFaceLoss(3), "a": ProxyAnchorLoss(3)}
    model.compile("adam", loss=losses)
    assert losses["z"].proxies.shape == (3, 3)
    assert losses["a"].proxies.shape == (3, 2)


def test_one_loss_for_outputs_of_two_sizes_is_refused() -> None:
    model = SimilarityModel(*network(4, 6))
    with pytest.raises(ConfigError, match=r"arcface_loss has variables.*\[4, 6\]"):
        model.compile("adam", loss=ArcFaceLoss(3))
    SimilarityModel(*network(4, 4)).compile("adam", loss=ArcFaceLoss(3))


def test_validation_moves_neither_memory_nor_sampling() -> None:
    memory, sampled = XBM(TripletLoss(), memory_size=64), ArcFaceLoss(30, num_sampled=4)
    for loss in (memory, sampled):
        model = compiled(loss)
        fit(model, epochs=1, validation_data=(X, Y))
        before = [v.numpy() for v in model.loss_variables]
        model.evaluate(X, Y, verbose=0)
        model.test_on_batch(X, Y)
        for was, now in zip(before, model.loss_variables, strict=True):
            assert (was == now.numpy()).all()
        fit(model, epochs=1)  # and training goes on to move them
        assert any((was != now.numpy()).any() for was, now in zip(before, model.loss_variables, strict=True))
    assert int(sampled.non_trainable_variables[0].numpy()) == 12


def test_a_plain_model_is_told() -> None:
    """Keras would leave the proxies untrained, without a word."""
    model = keras.Model(*network())
    model.compile("adam", loss=ArcFaceLoss(3))
    with pytest.raises(ConfigError, match="compile it in a simpipe model"):
        model.fit(X, Y, verbose=0)
