"""Losses of labels that TF Similarity lacks: supervised contrastive, contrastive, proxy-anchor, ArcFace."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from simpipe.errors import ConfigError
from simpipe.losses import ArcFaceLoss, ContrastiveLoss, ProxyAnchorLoss, ProxyLoss, SupConLoss

LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 4])  # class 3 is in no batch, 4 has one example
CLASSES, DIM = 6, 4


def unit(x: Any) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embeddings(seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(len(LABELS), DIM))).astype(np.float32)


def built(loss: ProxyLoss, dim: int = DIM) -> tuple[Any, np.ndarray]:
    """The loss with its proxies, and those as float64."""
    loss.build(dim)
    return loss, np.asarray(loss.proxies.numpy(), np.float64)


# --- the papers, float64 -----------------------------------------------------------------------------------------------


def supcon(z: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """Khosla et al., equation 2; NaN for an anchor without a positive."""
    out = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        denominator = logsumexp([z[i] @ z[a] / temperature for a in others])
        out.append(np.mean([denominator - z[i] @ z[p] / temperature for p in positives]) if positives else np.nan)
    return np.array(out)


def contrastive(z: np.ndarray, labels: np.ndarray, margin: float, positive_margin: float) -> np.ndarray:
    out = []
    for i in range(len(z)):
        d = np.linalg.norm(z - z[i], axis=1)
        same, itself = labels == labels[i], np.arange(len(z)) == i
        near = np.maximum(0, d[same & ~itself] - positive_margin) ** 2 / 2
        far = np.maximum(0, margin - d[~same]) ** 2 / 2
        out.append((near.mean() if len(near) else 0) + (far.mean() if len(far) else 0))
    return np.array(out)


def proxy_anchor(z: np.ndarray, labels: np.ndarray, proxies: np.ndarray, alpha: float, delta: float, looked_at: Any) -> float:
    """Kim et al., equation 4, over the proxies `looked_at`."""
    s = unit(z) @ unit(proxies).T
    positives, negatives = [], []
    for p in looked_at:
        own = labels == p
        if own.any():
            positives.append(np.log1p(np.exp(-alpha * (s[own, p] - delta)).sum()))
        negatives.append(np.log1p(np.exp(alpha * (s[~own, p] + delta)).sum()))
    return float(np.mean(positives) + np.mean(negatives))


def arcface(z: np.ndarray, labels: np.ndarray, proxies: np.ndarray, scale: float, margin: float, looked_at: Any) -> np.ndarray:
    """Deng et al., equation 3, over the proxies `looked_at`, for angles below π - margin."""
    theta = np.arccos(unit(z) @ unit(proxies).T)
    out = []
    for i, y in enumerate(labels):
        assert theta[i, y] < np.pi - margin
        own = scale * np.cos(theta[i, y] + margin)
        out.append(logsumexp([own, *(scale * np.cos(theta[i, j]) for j in looked_at if j != y)]) - own)
    return np.array(out)


# --- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_supcon(temperature: float) -> None:
    e = embeddings()
    exact = supcon(e.astype(np.float64), LABELS, temperature)
    loss = SupConLoss(temperature)
    np.testing.assert_allclose(np.asarray(loss.call(LABELS, e)), np.nan_to_num(exact), rtol=1e-5, atol=1e-6)
    assert float(loss(LABELS, e)) == pytest.approx(np.nanmean(exact), rel=1e-5)


def test_supcon_of_one_class_pushes_apart_as_in_the_paper() -> None:
    e = embeddings()
    one = np.zeros_like(LABELS)
    assert float(SupConLoss()(one, e)) == pytest.approx(supcon(e.astype(np.float64), one, 0.1).mean(), rel=1e-5)
    assert float(SupConLoss()(np.arange(len(e)), e)) == 0.0  # nobody has a positive


@pytest.mark.parametrize(("margin", "positive_margin"), [(1.0, 0.0), (1.5, 0.4)])
def test_contrastive(margin: float, positive_margin: float) -> None:
    e = embeddings()
    exact = contrastive(e.astype(np.float64), LABELS, margin, positive_margin)
    loss = ContrastiveLoss(margin, positive_margin)
    np.testing.assert_allclose(np.asarray(loss.call(LABELS, e)), exact, rtol=1e-5, atol=1e-6)
    assert float(loss(LABELS, e)) == pytest.approx(exact.mean(), rel=1e-5)


def test_contrastive_known_values() -> None:
    """A positive pair at distance 1; negatives at √2 and 1, of which the second is within the margin of 1.2."""
    e, labels = np.float32([[0, 0], [0, 1], [1, 0]]), np.array([0, 0, 1])
    values = np.asarray(ContrastiveLoss(margin=1.2).call(labels, e))
    np.testing.assert_allclose(values, [0.5 + 0.5 * 0.2**2, 0.5, 0.25 * 0.2**2], rtol=1e-5)


# --- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "alpha"), [(0.1, 32), (0.3, 5)])
def test_proxy_anchor(margin: float, alpha: float) -> None:
    loss, proxies = built(ProxyAnchorLoss(CLASSES, margin, alpha))
    e = 3 * embeddings()  # the loss normalises
    exact = proxy_anchor(e.astype(np.float64), LABELS, proxies, alpha, margin, range(CLASSES))
    assert float(loss(LABELS[:, None], e)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 64), (0.2, 8)])
def test_arcface(margin: float, scale: float) -> None:
    loss, proxies = built(ArcFaceLoss(CLASSES, margin, scale))
    e = 3 * embeddings()
    exact = arcface(e.astype(np.float64), LABELS, proxies, scale, margin, range(CLASSES))
    np.testing.assert_allclose(np.asarray(loss.call(LABELS, e)), exact, rtol=1e-4, atol=1e-5)
    assert float(loss(LABELS, e)) == pytest.approx(exact.mean(), rel=1e-5)


def test_arcface_known_values() -> None:
    """Two classes on the axes, an example at 60° from its proxy and 30° from the other; then one behind its proxy."""
    loss = ArcFaceLoss(2, margin=0.5, scale=2)
    loss.build(2)
    loss.proxies.assign(np.eye(2))
    x = np.float32([[0.5, np.sqrt(0.75)]])
    gap = 2 * (np.cos(np.pi / 6) - np.cos(np.pi / 3 + 0.5))
    assert float(loss(np.array([0]), x)) == pytest.approx(np.log1p(np.exp(gap)), rel=1e-5)
    behind = 2 * (0 - (-1 - 0.5 * np.sin(0.5)))
    assert float(loss(np.array([0]), np.float32([[-1, 0]]))) == pytest.approx(np.log1p(np.exp(behind)), rel=1e-5)


def test_arcface_falls_as_the_angle_shrinks() -> None:
    """Also beyond π - margin, where cos(θ + margin) alone would rise again."""
    loss = ArcFaceLoss(2, scale=4)
    loss.build(3)
    loss.proxies.assign(np.eye(2, 3))
    theta = np.linspace(0, np.pi, 60)  # always at a right angle to the other proxy
    around = np.stack([np.cos(theta), np.zeros(60), np.sin(theta)], axis=1)
    values = np.asarray(loss.call(np.zeros(60, int), around))
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("make", [ProxyAnchorLoss, ArcFaceLoss])
def test_sampling_looks_at_the_batch_and_others(make: Any) -> None:
    """The classes looked at are those of the batch and `num_sampled` more; which ones depends on seed and step alone."""
    chosen = []
    for _ in range(2):
        loss, proxies = built(make(40, num_sampled=5, seed=3))
        steps = []
        for _ in range(3):
            numbers, rows, meant = loss.classes(tf.constant(LABELS, tf.int32))
            looked_at = np.asarray(numbers)[np.asarray(meant)].tolist()
            assert set(looked_at) >= set(LABELS)
            assert len(set(looked_at)) == len(looked_at) == len(set(LABELS)) + 5
            np.testing.assert_allclose(np.asarray(rows), unit(proxies)[np.asarray(numbers)], rtol=1e-5, atol=1e-6)
            steps.append(looked_at)
        assert sorted(steps[0]) != sorted(steps[1]) != sorted(steps[2])
        chosen.append(steps)
    assert chosen[0] == chosen[1]
    other, _ = built(make(40, num_sampled=5, seed=4))
    assert np.asarray(other.classes(tf.constant(LABELS, tf.int32))[0]).tolist() != chosen[0][0]


def test_sampled_values_are_those_over_the_sample() -> None:
    e = embeddings()
    for make, oracle in (
        (ProxyAnchorLoss, lambda p, c: proxy_anchor(e.astype(np.float64), LABELS, p, 32, 0.1, c)),
        (ArcFaceLoss, lambda p, c: arcface(e.astype(np.float64), LABELS, p, 64, 0.5, c).mean()),
    ):
        loss, proxies = built(make(40, num_sampled=5))
        with loss.frozen():
            numbers, _, meant = loss.classes(tf.constant(LABELS, tf.int32))
        looked_at = np.asarray(numbers)[np.asarray(meant)]
        assert float(loss(LABELS, e)) == pytest.approx(oracle(proxies, looked_at), rel=1e-5)


def test_more_samples_than_classes_is_all_classes() -> None:
    for make in (ProxyAnchorLoss, ArcFaceLoss):
        (all_of, _), (sampled, _) = built(make(CLASSES)), built(make(CLASSES, num_sampled=100))
        assert float(sampled(LABELS, embeddings())) == pytest.approx(float(all_of(LABELS, embeddings())), rel=1e-5)


@pytest.mark.parametrize("make", [ProxyAnchorLoss, ArcFaceLoss])
@pytest.mark.parametrize("num_sampled", [None, 2])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
def test_gradients_reach_embeddings_and_proxies(make: Any, num_sampled: int | None, dtype: Any) -> None:
    loss, proxies = built(make(CLASSES, num_sampled=num_sampled))
    loss.proxies.assign(np.concatenate([np.zeros((1, DIM)), proxies[1:]]))  # a proxy of length zero
    rows = np.concatenate([unit(proxies)[:1], embeddings()[1:-1], -unit(proxies)[4:5]])  # and examples on their axis
    e = tf.Variable(tf.cast(rows, dtype))
    with tf.GradientTape() as tape:
        value = loss(LABELS, e)
    of_e, of_proxies = tape.gradient(value, [e, *loss.trainable_variables])
    assert value.dtype == tf.float32
    for each in (of_e, tf.convert_to_tensor(of_proxies)):
        assert np.isfinite(np.asarray(each, np.float32)).all()
        assert np.abs(np.asarray(each, np.float32)).max() > 0


def test_proxy_gradient_is_that_of_the_value() -> None:
    rng, e = np.random.default_rng(5), embeddings()
    for loss in (ProxyAnchorLoss(CLASSES, alpha=4), ArcFaceLoss(CLASSES, margin=0.2, scale=4)):
        _, proxies = built(loss)
        along, step = rng.normal(size=proxies.shape), 2e-3
        with tf.GradientTape() as tape:
            value = loss(LABELS, e)
        slope = float((np.asarray(tape.gradient(value, loss.proxies)) * along).sum())
        ends = []
        for s in (step, -step):
            loss.proxies.assign(proxies + s * along)
            ends.append(float(loss(LABELS, e)))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-3)


# --- what Keras asks for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        SupConLoss(0.2, "euclidean", reduction="sum"),
        ContrastiveLoss(0.7, 0.1, "cosine"),
        ProxyAnchorLoss(CLASSES, 0.2, 16, seed=4),
        ArcFaceLoss(CLASSES, 0.4, 8, num_sampled=3, name="mine"),
    ],
)
def test_config_round_trip(loss: Any) -> None:
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    for each in (loss, again):
        if isinstance(each, ProxyLoss):
            each.build(DIM)
    assert float(again(LABELS, embeddings())) == float(loss(LABELS, embeddings()))


def test_build_is_once_and_for_one_size() -> None:
    loss, proxies = built(ArcFaceLoss(CLASSES))
    loss.build(DIM)
    assert (loss.proxies.numpy() == proxies).all()
    assert [v.shape for v in loss.trainable_variables] == [(CLASSES, DIM)]
    assert len(loss.non_trainable_variables) == 1
    with pytest.raises(ConfigError, match="4 dimensions, the embeddings 7"):
        loss.build(7)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"SimilarityModel.*build\(embedding_size\)"):
        ArcFaceLoss(CLASSES)(LABELS, embeddings())
    with pytest.raises(ConfigError, match="num_classes is 1"):
        ProxyAnchorLoss(1)
    with pytest.raises(ConfigError, match="num_sampled is 0"):
        ArcFaceLoss(5, num_sampled=0)
    for make in (ProxyAnchorLoss, ArcFaceLoss):
        loss, _ = built(make(4))
        for wrong in (LABELS, LABELS - 1):  # 4 is beyond, -1 below
            with pytest.raises(tf.errors.InvalidArgumentError, match="0 to num_classes - 1 = 3"):
                loss(wrong, embeddings())
    with pytest.raises(ConfigError, match="sample_weight"):
        built(ProxyAnchorLoss(CLASSES))[0](LABELS, embeddings(), np.ones(len(LABELS)))


@pytest.mark.parametrize("make", [ProxyAnchorLoss, ArcFaceLoss])
def test_wrong_labels_under_xla_give_nan(make: Any) -> None:
    """XLA, which Keras uses on a GPU, leaves assertions out."""
    loss, _ = built(make(4))
    fast = tf.function(lambda y, e: loss(y, e), jit_compile=True)
    right = np.minimum(LABELS, 3)
    assert float(fast(tf.constant(right), embeddings())) == pytest.approx(float(loss(right, embeddings())), rel=1e-5)
    for wrong in (LABELS, right - 1):
        assert np.isnan(fast(tf.constant(wrong), embeddings()))


def test_labels_may_have_any_integer_type() -> None:
    loss, _ = built(ArcFaceLoss(300))
    expected = float(loss(LABELS, embeddings()))
    for dtype in (np.uint8, np.int32, np.uint64):
        assert float(loss(LABELS.astype(dtype), embeddings())) == expected


def test_sample_weights_of_arcface() -> None:
    loss, _ = built(ArcFaceLoss(CLASSES))
    weights = np.float32([2, 0, 1, 1, 0, 3, 0, 0])
    expected = (np.asarray(loss.call(LABELS, embeddings())) * weights).sum() / len(LABELS)
    assert float(loss(LABELS, embeddings(), weights)) == pytest.approx(expected, rel=1e-6)
