"""Losses of two views and two towers: golden values, the papers in float64, gradients, precision, reductions."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED
from scipy.special import log_softmax, logsumexp

from simpipe import losses
from simpipe.errors import ConfigError
from simpipe.losses import Barlow, InfoNCELoss, MultiNegativesRankLoss, SimCLRLoss, SimSiamLoss, VicReg, ViewLoss

GOLDEN = SHARED / "golden" / "metric_learning.json"
ZA = np.float32([[1, 0, 0.5], [0.2, 1, -0.3], [-0.5, 0.4, 1], [0.3, -0.8, 0.6]])
ZB = np.float32([[0.9, 0.1, 0.4], [0.1, 0.8, -0.1], [-0.4, 0.6, 0.9], [0.5, -0.7, 0.2]])
ALL: list[Callable[..., ViewLoss]] = [
    SimCLRLoss,
    SimSiamLoss,
    lambda **k: SimSiamLoss("cosine_distance", **k),
    lambda **k: SimSiamLoss("angular_distance", **k),
    Barlow,
    VicReg,
    MultiNegativesRankLoss,
    InfoNCELoss,
    lambda **k: InfoNCELoss(symmetric=False, normalize=False, **k),
]


@cache
def golden() -> list[dict[str, Any]]:
    if not GOLDEN.exists():
        pytest.skip("../shared/golden/metric_learning.json is no part of the project and not here; oracles of our own run anyway")
    return json.loads(GOLDEN.read_text())["self_supervised"]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def views(rows: int = 12, dim: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, dim))
    return a, a + 0.5 * rng.normal(size=(rows, dim))


# --- the papers, float64 -----------------------------------------------------------------------------------------------


def simclr(a: np.ndarray, b: np.ndarray, temperature: float) -> np.ndarray:
    """Chen et al., equation 1, for both views of each example, by loops."""
    n, z = len(a), unit(np.concatenate([a, b]))
    s = z @ z.T / temperature
    one = [logsumexp([s[i, k] for k in range(2 * n) if k != i]) - s[i, (i + n) % (2 * n)] for i in range(2 * n)]
    return np.array(one[:n]) + np.array(one[n:])


def barlow(a: np.ndarray, b: np.ndarray, lambda_: float) -> float:
    c = ((a - a.mean(0)) / a.std(0)).T @ ((b - b.mean(0)) / b.std(0)) / len(a)
    on = np.diag(c)
    return float(((1 - on) ** 2).sum() + lambda_ * ((c**2).sum() - (on**2).sum()))


def vicreg(a: np.ndarray, b: np.ndarray, std_const: float, lambda_: float, mu: float, nu: float) -> np.ndarray:
    spread = [np.maximum(0, 1 - np.sqrt(x.var(0) + std_const)).mean() for x in (a, b)]
    cov = [np.cov(x.T) for x in (a, b)]
    off = [((c - np.diag(np.diag(c))) ** 2).sum() / a.shape[1] for c in cov]
    return lambda_ * ((a - b) ** 2).mean(1) + mu * np.mean(spread) + nu * sum(off)


def info_nce(q: np.ndarray, k: np.ndarray, temperature: float, symmetric: bool) -> np.ndarray:
    s = unit(q) @ unit(k).T / temperature
    rows, columns = -np.diag(log_softmax(s, axis=1)), -np.diag(log_softmax(s, axis=0))
    return (rows + columns) / 2 if symmetric else rows


def multi_negatives_rank(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    s = scale * q @ k.T
    return np.log1p(np.exp(s).sum(1)) - np.diag(s)


@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        (SimCLRLoss(), lambda a, b: simclr(a, b, 0.05)),
        (SimCLRLoss(0.5), lambda a, b: simclr(a, b, 0.5)),
        (SimSiamLoss(margin=0), lambda a, b: -0.5 * (unit(a) * unit(b)).sum(1)),
        (SimSiamLoss("angular_distance", 0.0), lambda a, b: 0.5 * np.arccos((unit(a) * unit(b)).sum(1)) / np.pi),
        (Barlow(), lambda a, b: barlow(a, b, 5e-3)),
        (Barlow(0.3), lambda a, b: barlow(a, b, 0.3)),
        (VicReg(), lambda a, b: vicreg(a, b, 1e-4, 25, 25, 1)),
        (VicReg(0.01, 2, 3, 4), lambda a, b: vicreg(a, b, 0.01, 2, 3, 4)),
        (InfoNCELoss(), lambda a, b: info_nce(a, b, 0.07, True)),
        (InfoNCELoss(0.2, symmetric=False), lambda a, b: info_nce(a, b, 0.2, False)),
        (MultiNegativesRankLoss(), lambda a, b: multi_negatives_rank(a, b, 20)),
        (MultiNegativesRankLoss(scale=1), lambda a, b: multi_negatives_rank(a, b, 1)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_the_papers(loss: ViewLoss, oracle: Callable[..., Any], seed: int) -> None:
    a, b = views(seed=seed)
    np.testing.assert_allclose(np.asarray(loss.call(a, b)), oracle(a, b), rtol=1e-5, atol=1e-7)
    assert float(loss(a, b)) == pytest.approx(np.mean(oracle(a, b)), rel=1e-5)


def test_tiny_values_keep_their_digits() -> None:
    """Where TF Similarity's float32 differences of large numbers leave one digit or none."""
    a, b = ZA.astype(np.float64), ZB.astype(np.float64)
    for loss, exact in (
        (SimCLRLoss(), simclr(a, b, 0.05)),
        (InfoNCELoss(0.05), info_nce(a, b, 0.05, True)),
        (MultiNegativesRankLoss(), multi_negatives_rank(a, b, 20)),
    ):
        assert exact.min() < 1e-5
        np.testing.assert_allclose(np.asarray(loss.call(ZA, ZB)), exact, rtol=2e-5)


# --- TF Similarity -----------------------------------------------------------------------------------------------------


def test_golden_values() -> None:
    assert {case["loss"] for case in golden()} == {"SimCLRLoss", "SimSiamLoss", "Barlow", "VicReg", "MultiNegativesRankLoss"}
    for case in golden():
        loss = getattr(losses, case["loss"])(**case["kwargs"])
        expected = np.asarray(case["unreduced"])
        if expected.ndim == 2:  # the library's [n, n] slip; its diagonal and its mean are right
            expected = np.diag(expected)
        # The library's own values carry the float32 error of a difference of logits, which are about 20 for this loss.
        noise = 1e-6 if case["loss"] == "MultiNegativesRankLoss" else 1e-7
        np.testing.assert_allclose(np.asarray(loss.call(ZA, ZB)), expected, rtol=1e-5, atol=noise, err_msg=str(case))
        np.testing.assert_allclose(float(loss(ZA, ZB)), case["mean"], rtol=1e-5, atol=noise, err_msg=str(case))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SimCLRLoss(0.5), [1.751232, 1.204059, 1.323956, 1.633802]),
        (SimSiamLoss(), [-0.4959294, -0.4911276, -0.4882597, -0.4490778]),
        (SimSiamLoss("cosine_distance", 0.0), [0.003070623, 0.007872403, 0.01074028, 0.04992223]),
        (SimSiamLoss("angular_distance", 0.0), [0.01764761, 0.02827973, 0.03304749, 0.07172633]),
        (Barlow(), 0.01455508),
        (Barlow(lambda_=0.1), 0.08691322),
        (VicReg(), [12.49632, 12.99632, 12.74632, 13.99632]),
        (VicReg(lambda_=1, mu=1, nu=1), [0.584228, 0.604228, 0.594228, 0.644228]),
    ],
)
def test_known_values(loss: ViewLoss, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(loss.call(ZA, ZB)), expected, rtol=1e-5)
    assert float(loss(ZA, ZB)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_multi_negatives_rank_has_a_value_a_row() -> None:
    assert float(MultiNegativesRankLoss(scale=2)(ZA, ZB)) == pytest.approx(0.4949827, rel=1e-5)
    assert MultiNegativesRankLoss(reduction=None)(ZA, ZB).shape == (4,)
    total = float(MultiNegativesRankLoss(scale=2, reduction="sum")(ZA, ZB))
    assert total == pytest.approx(4 * 0.4949827, rel=1e-5)
    assert MultiNegativesRankLoss("ip").get_config() == MultiNegativesRankLoss().get_config()
    with pytest.raises(ConfigError, match="cosine"):
        MultiNegativesRankLoss("cosine")


# --- gradients ---------------------------------------------------------------------------------------------------------


def gradient(loss: ViewLoss, a: Any, b: Any) -> tuple[Any, list[np.ndarray]]:
    a, b = tf.Variable(a), tf.Variable(b)
    with tf.GradientTape() as tape:
        value = loss(a, b)
    return value, [np.asarray(each) for each in tape.gradient(value, [a, b])]


@pytest.mark.parametrize("make", ALL)
def test_gradient_is_that_of_the_value(make: Callable[..., ViewLoss]) -> None:
    a, b = (x.astype(np.float32) for x in views(rows=6, dim=3))
    loss, step, rng = make(), 1e-2, np.random.default_rng(3)
    along = [rng.normal(size=a.shape).astype(np.float32) for _ in range(2)]
    _, (of_a, of_b) = gradient(loss, a, b)
    up, down = (float(loss(a + s * along[0], b + s * along[1])) for s in (step, -step))
    slope = float((of_a * along[0]).sum() + (of_b * along[1]).sum())
    assert slope == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("case", ["same", "opposite", "zero", "constant", "one row"])
def test_gradient_is_finite_where_formulas_have_corners(make: Callable[..., ViewLoss], case: str) -> None:
    a = views(rows=6, dim=3)[0].astype(np.float32)
    a, b = {
        "same": (a, a),
        "opposite": (a, -a),
        "zero": (np.zeros_like(a), a),
        "constant": (np.ones_like(a), np.ones_like(a)),
        "one row": (a[:1], a[:1]),
    }[case]
    value, gradients = gradient(make(), a, b)
    assert np.isfinite(value)
    assert all(np.isfinite(each).all() for each in gradients)


def test_angular_distance_is_exact_at_its_ends() -> None:
    loss = SimSiamLoss("angular_distance", 0.0)
    a = np.eye(3, dtype=np.float32)
    assert float(loss(a, a)) == 0.0
    assert float(loss(a, -a)) == 0.5


def test_vicreg_gradient_is_that_of_the_mean() -> None:
    """TF Similarity's default, without a reduction, has the batch size times this gradient."""
    a, b = (x.astype(np.float32) for x in views(rows=8))
    _, mean = gradient(VicReg(), a, b)
    _, total = gradient(VicReg(reduction="sum"), a, b)
    np.testing.assert_allclose(total[0], 8 * mean[0], rtol=1e-5, atol=1e-6)


# --- what Keras asks for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("half", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(make: Callable[..., ViewLoss], half: Any) -> None:
    a, b = (tf.cast(x, half) for x in views(rows=40))
    value, gradients = gradient(make(), a, b)
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(float(make()(tf.cast(a, tf.float32), tf.cast(b, tf.float32))), rel=1e-6)
    assert all(np.isfinite(each.astype(np.float32)).all() for each in gradients)


@pytest.mark.parametrize("make", ALL)
def test_reductions_and_weights(make: Callable[..., ViewLoss]) -> None:
    a, b = views(rows=6)
    values = np.asarray(make(reduction=None)(a, b))
    weights = np.float32([2, 0, 1, 1, 0, 3])
    if values.shape == ():  # one value of the batch
        assert float(make(reduction="sum")(a, b)) == values
        with pytest.raises(ConfigError, match="sample_weight"):
            make()(a, b, weights)
        return
    assert values.shape == (6,)
    assert float(make(reduction="auto")(a, b)) == pytest.approx(values.mean(), rel=1e-6)
    assert float(make(reduction="sum")(a, b)) == pytest.approx(values.sum(), rel=1e-6)
    assert float(make()(a, b, weights)) == pytest.approx((values * weights).sum() / 6, rel=1e-5)
    weighted = make(reduction="mean_with_sample_weight")(a, b, weights[:, None])
    assert float(weighted) == pytest.approx((values * weights).sum() / 7, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        SimCLRLoss(0.3, name="mine"),
        SimSiamLoss("cosine_distance", 0.2, reduction="sum"),
        Barlow(0.1, 0.5),
        VicReg(0.1, 2, 3, 4),
        MultiNegativesRankLoss(scale=7),
        InfoNCELoss(0.3, False, normalize=False),
    ],
)
def test_config_round_trip(loss: ViewLoss) -> None:
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    a, b = views()
    assert float(again(a, b)) == float(loss(a, b))


class TwoTowers(keras.Model):
    """As in docs/losses.md."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Any:
        query, key = y_pred
        return self.loss(query, key)


def test_two_towers_find_each_other() -> None:
    keras.utils.set_random_seed(1)
    a, b = keras.Input((6,)), keras.Input((6,))
    model = TwoTowers([a, b], [keras.layers.Dense(8)(a), keras.layers.Dense(8)(b)])
    model.compile(keras.optimizers.Adam(0.02), loss=InfoNCELoss())
    rng = np.random.default_rng(0)
    query = rng.normal(size=(64, 6)).astype(np.float32)
    key = query @ rng.normal(size=(6, 6)).astype(np.float32)  # the same things, seen by another tower
    history = model.fit([query, key], batch_size=32, epochs=60, verbose=0).history["loss"]
    assert history[-1] < 0.1 * history[0]
    q, k = (unit(each) for each in model.predict([query, key], verbose=0))
    assert ((q @ k.T).argmax(axis=1) == np.arange(64)).mean() > 0.9


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="euclidean"):
        SimSiamLoss("euclidean")
    with pytest.raises(ConfigError, match="3 and 2 dimensions"):
        SimCLRLoss()(ZA, ZB[:, :2])
