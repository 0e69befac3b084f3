"""Pair losses: TF Similarity's golden and known values, independent oracles, pairless anchors, precision, gradients."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import loss_oracles as oracles
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe import losses as simpipe_losses
from simpipe.distances import Distance, EuclideanDistance
from simpipe.errors import ConfigError
from simpipe.layers import MetricEmbedding
from simpipe.losses import (
    CircleLoss,
    LiftedStructLoss,
    MultiSimilarityLoss,
    PairLoss,
    PNLoss,
    SoftNearestNeighborLoss,
    TripletLoss,
)

GOLDEN = SHARED / "golden" / "metric_learning.json"
RAW = [[1, 0.2, 0.1, 0], [0.9, 0.3, 0, 0.1], [0.1, 1, 0.2, 0], [0.5, 0.8, 0.3, 0.1], [0, 0.1, 1, 0.4], [0.6, 0.2, 0.7, 0.3]]
PAIRED, ODD = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 3])
EVERY = [
    TripletLoss(),
    TripletLoss("l2", margin=0.5),
    TripletLoss("snr", "easy", "hard"),
    PNLoss(),
    PNLoss("manhattan", margin=0.5),
    MultiSimilarityLoss(),
    MultiSimilarityLoss(epsilon=0.5, beta=10),
    CircleLoss(),
    CircleLoss(gamma=20, formula="paper"),
    SoftNearestNeighborLoss(),
    SoftNearestNeighborLoss("cosine", 0.01),
    LiftedStructLoss(),
    LiftedStructLoss("euclidean", "all"),
    LiftedStructLoss(formula="tf_similarity"),
]
IDS = [f"{type(loss).__name__}-{i}" for i, loss in enumerate(EVERY)]


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def values_of(loss: Any, labels: Any, embeddings: Any) -> np.ndarray:
    return np.asarray(loss.call(tf.constant(labels, tf.int64), tf.constant(embeddings, tf.float32)))


def value_and_gradient(loss: Any, labels: Any, embeddings: Any) -> tuple[float, np.ndarray]:
    x = tf.Variable(embeddings, dtype=tf.float32)
    with tf.GradientTape() as tape:
        value = loss(np.asarray(labels), x)
    return float(value), np.asarray(tape.gradient(value, x))


@cache
def golden() -> dict[str, Any]:
    if not GOLDEN.exists():
        pytest.skip("../shared/golden/metric_learning.json is no part of the project and not here; oracles of our own run anyway")
    return json.loads(GOLDEN.read_text())


def test_golden_losses() -> None:
    """Every case. Deliberate: anchors without a pair have 0 and do not count; lifted structure needs its old formula."""
    inputs, cases = golden()["inputs"], golden()["supervised"]
    assert len(cases) == 82
    embeddings = unit(inputs["RAW (rows are L2-normalised before use)"])
    for case in cases:
        formula = {"formula": "tf_similarity"} if case["loss"] == "LiftedStructLoss" else {}
        loss = getattr(simpipe_losses, case["loss"])(**case["kwargs"], **formula)
        expected = np.array(case["per_example"])
        valid = np.isin(np.arange(6), [4, 5], invert=True) if case["labels"] == "LABELS_ODD" else np.ones(6, bool)
        labels = inputs[case["labels"]]
        # The golden numbers have seven digits and come from float32 distances of size one: hence the absolute 3e-7.
        np.testing.assert_allclose(
            values_of(loss, labels, embeddings), np.where(valid, expected, 0), rtol=1e-5, atol=3e-7, err_msg=str(case)
        )
        mean = case["mean"] if valid.all() else expected[valid].mean()
        np.testing.assert_allclose(float(loss(np.array(labels), embeddings)), mean, rtol=1e-5, atol=1e-7, err_msg=str(case))


@pytest.mark.parametrize(
    ("loss", "paired", "odd"),
    [
        (TripletLoss(), 0.5679485, [0.561979, 0.578305, 0.476511, 0.618626]),
        (PNLoss(), 0.6152326, [0.561979, 0.578305, 0.618626, 0.618626]),
        (MultiSimilarityLoss(beta=10, epsilon=0.5), 0.402455, [0.427116, 0.445237, 0.241624, 0.513022]),
        (CircleLoss(), 19.53494, [26.46658, 30.71242, 0.9706241, 30.75677]),
        (SoftNearestNeighborLoss(), 1.032461, [0.933707, 0.962378, 0.84963, 1.23667]),
        (LiftedStructLoss(formula="tf_similarity"), 1.368315, [1.197589, 1.216049, 1.304448, 1.457347]),
    ],
)
def test_golden_values_without_the_file(loss: PairLoss, paired: float, odd: list[float]) -> None:
    assert float(loss(PAIRED, unit(RAW))) == pytest.approx(paired, rel=1e-5)
    np.testing.assert_allclose(values_of(loss, ODD, unit(RAW)), [*odd, 0, 0], rtol=3e-6)
    assert float(loss(ODD, unit(RAW))) == pytest.approx(np.mean(odd), rel=3e-6)


def perfect(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.tile(np.arange(n), 2)
    return labels, np.eye(n, dtype=np.float32)[labels]


def bad(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(n), 2), np.eye(n, dtype=np.float32)[np.concatenate([np.arange(n), np.arange(n)[::-1]])]


MINE6 = np.array([0, 0, 0, 1, 1, 1]), np.float32([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0]])
SEMI4 = np.array([0, 0, 1, 1]), np.float32([[1, 0], [0.5, 0.8660254], [0, 1], [0.01010049, 0.999949]])


@pytest.mark.parametrize(
    ("kind", "batch", "margin", "expected"),
    [
        (TripletLoss, perfect(32), None, 0.31326169),
        (TripletLoss, perfect(32), 1.1, 0.1),
        (TripletLoss, bad(32), None, 0.69314718),
        (TripletLoss, bad(32), 1.0, 1.0),
        (PNLoss, perfect(4), None, 0.31326169),
        (PNLoss, perfect(4), 1.1, 0.1),
        (PNLoss, bad(4), None, 0.7706615),
        (PNLoss, bad(4), 1.0, 1.125),
    ],
)
def test_known_means(kind: Any, batch: tuple[np.ndarray, np.ndarray], margin: float | None, expected: float) -> None:
    assert float(kind(margin=margin)(*batch)) == pytest.approx(expected, rel=1e-5)
    summed = float(kind(margin=margin, reduction="sum")(*batch))
    assert summed == pytest.approx(expected * len(batch[0]), rel=1e-5)


def test_known_mining() -> None:
    for kind, easy, hard, semi in (
        (TripletLoss, 1 / 3, 2.0, [0.51, 1.366, 0.866, 0.871]),
        (PNLoss, 2 / 3, 2.0, [1.371, 1.366, 0.871, 0.871]),
    ):
        assert float(kind("cosine", "easy", "easy", 1.0)(*MINE6)) == pytest.approx(easy, abs=1e-4)
        assert float(kind("cosine", "hard", "hard", 1.0)(*MINE6)) == pytest.approx(hard, abs=1e-4)
        np.testing.assert_allclose(values_of(kind("cosine", "easy", "semi-hard", 1.0), *SEMI4), semi, atol=1e-3)


def test_known_lifted_structure_of_tf_similarity() -> None:
    def lifted(margin: float, reduction: str | None) -> LiftedStructLoss:
        return LiftedStructLoss(margin=margin, formula="tf_similarity", reduction=reduction)

    assert float(lifted(1.1, "sum")(*perfect(32))) == pytest.approx(157.68167, rel=1e-5)
    assert float(lifted(1.0, "sum")(*perfect(32))) == pytest.approx(64 * 2.414156913757324, rel=1e-5)
    assert float(lifted(1.0, "sum")(*bad(32))) == pytest.approx(187.37393, rel=1e-5)
    np.testing.assert_allclose(lifted(1.0, None)(*bad(32)), np.full(64, 2.927718), rtol=1e-5)


def test_lifted_structure_by_hand() -> None:
    """perfect(2): positives at 0, both negatives of either at 1: J_ij = log(4 e^(margin - 1)), so J = log(4)² / 2."""
    labels, e = perfect(2)
    for strategy in ("hard", "easy", "all"):
        assert float(LiftedStructLoss("cosine", strategy)(labels, e)) == pytest.approx(np.log(4) ** 2 / 2, rel=1e-6)
        # log(4 e^-2) is below 0: nothing is left to do.
        assert float(LiftedStructLoss("cosine", strategy, -1.0)(labels, e)) == 0.0


ORACLES: list[tuple[Any, Any, dict[str, Any]]] = [
    (TripletLoss(), oracles.triplet, {}),
    (TripletLoss("snr", "easy", "semi-hard", 0.4), oracles.triplet, {"d": "snr", "positive": "easy", "margin": 0.4}),
    (TripletLoss("l2", "hard", "easy", 1.0), oracles.triplet, {"d": "euclidean", "negative": "easy", "margin": 1.0}),
    (PNLoss(), oracles.pn, {}),
    (PNLoss("l1", "easy", "hard", 0.4), oracles.pn, {"d": "manhattan", "positive": "easy", "negative": "hard", "margin": 0.4}),
    (MultiSimilarityLoss(epsilon=0.3), oracles.multi_similarity, {"epsilon": 0.3}),
    (
        MultiSimilarityLoss("euclidean", 3, 8, 0.2, 0.1, 0.9),
        oracles.multi_similarity,
        {"d": "euclidean", "alpha": 3, "beta": 8, "epsilon": 0.2, "lmda": 0.1, "center": 0.9},
    ),
    (CircleLoss(gamma=12), oracles.circle, {"gamma": 12}),
    (CircleLoss("cosine", 12, 0.25, formula="paper"), oracles.circle, {"gamma": 12, "margin": 0.25, "formula": "paper"}),
    (SoftNearestNeighborLoss(temperature=0.3), oracles.soft_nearest_neighbor, {"d": "squared_euclidean", "temperature": 0.3}),
    (LiftedStructLoss(), oracles.lifted_structure, {}),
    (LiftedStructLoss("l2", "easy", 0.2), oracles.lifted_structure, {"d": "euclidean", "positive": "easy", "margin": 0.2}),
]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 5))
def test_against_oracles(seed: int, n: int, classes: int) -> None:
    """Values of each anchor, and the mean over those that have a positive and a negative."""
    rng = np.random.default_rng(seed)
    labels, e = rng.integers(classes, size=n), unit(rng.normal(size=(n, 5)))
    for loss, one, options in ORACLES:
        options = dict(options)
        w = oracles.world(labels, e, options.pop("d", "cosine"))
        expected, valid = oracles.values(one, w, **options)
        np.testing.assert_allclose(values_of(loss, labels, e), expected, rtol=2e-4, atol=2e-5)
        assert float(loss(labels, e)) == pytest.approx(expected.sum() / max(valid.sum(), 1), rel=2e-4, abs=2e-5)
    for name, margin in (("cosine", 1.0), ("euclidean", 0.3)):
        expected = oracles.lifted_structure_all(oracles.world(labels, e, name), margin)
        assert float(LiftedStructLoss(name, "all", margin)(labels, e)) == pytest.approx(expected, rel=2e-4, abs=1e-6)


def test_circle_of_the_paper_holds_its_weights_constant() -> None:
    """The gradient of one positive and one negative: equation 9 with constant a_p and a_n."""
    labels, e = np.array([0, 0, 1]), unit([[1, 0.2], [0.8, 0.6], [0.5, 0.9]]).astype(np.float64)
    m, g = 0.25, 10
    sp, sn = e[0] @ e[1], e[0] @ e[2]
    loss = CircleLoss(gamma=g, margin=m, formula="paper", reduction=None)
    x = tf.Variable(e, dtype=tf.float32)
    with tf.GradientTape() as tape:
        first = loss(labels, x)[0]
    z = 1 / (1 + np.exp(-g * ((sn + m) * (sn - m) - (1 + m - sp) * (sp - 1 + m))))
    expected = z * g * ((sn + m) * e[2] - (1 + m - sp) * e[1])
    np.testing.assert_allclose(tape.gradient(first, x)[0], expected, rtol=1e-4)


def test_soft_nearest_neighbor_of_distant_points() -> None:
    """exp(-900) is 0 in float32: TF Similarity's value is 20.7 there, without a gradient."""
    value, gradient = value_and_gradient(SoftNearestNeighborLoss(), [0, 0, 1], [[0.0], [30.0], [1.0]])
    assert value == pytest.approx((899 + 59) / 2, rel=1e-5)
    assert np.abs(gradient).max() > 10


@pytest.mark.parametrize("loss", EVERY, ids=IDS)
def test_pairless_anchors_do_not_count(loss: Any) -> None:
    e = unit(RAW)
    both = values_of(loss, ODD, e)
    assert (both[4:] == 0).all()
    assert float(loss(ODD, e)) == pytest.approx(both[:4].mean(), rel=1e-6)
    for pairless in (np.zeros(6, np.int64), np.arange(6), np.arange(1)):  # one class; all distinct; one example
        value, gradient = value_and_gradient(loss, pairless, e[: len(pairless)])
        assert value == 0.0
        assert (gradient == 0).all()


@pytest.mark.parametrize("loss", EVERY, ids=IDS)
def test_gradients_are_finite(loss: Any) -> None:
    rng = np.random.default_rng(0)
    same, zero, twins = (
        np.tile(unit([[1, 2, 3, 4]]), (6, 1)),
        np.zeros((6, 4)),
        np.repeat(unit(rng.normal(size=(3, 4))), 2, axis=0),
    )
    for e in (same, zero, twins, 100 * twins, unit(RAW), np.eye(6, 4)):
        for labels in (PAIRED, ODD, PAIRED[::-1] // 2):
            value, gradient = value_and_gradient(loss, labels, e)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", EVERY, ids=IDS)
def test_precision_labels_and_batch_shapes(loss: Any) -> None:
    e = unit(RAW)
    expected = float(loss(PAIRED, e))
    # Labels that differ in bits that neither float32 nor int32 has, in one column.
    assert float(loss(PAIRED + 2**40, e)) == pytest.approx(expected, rel=1e-6)
    assert float(loss((PAIRED + 2**62)[:, None], e)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(PAIRED.astype(np.float32), e)) == pytest.approx(expected, rel=1e-6)
    for dtype in ("float16", "bfloat16", "float64"):
        low = tf.cast(e, dtype)
        value = loss(PAIRED, low)
        assert value.dtype == tf.float32
        # Only the embeddings are rounded: the same numbers in float32 have the same loss.
        assert float(value) == pytest.approx(float(loss(PAIRED, tf.cast(low, tf.float32))), rel=1e-6)


@pytest.mark.parametrize("loss", EVERY, ids=IDS)
def test_configuration_and_file_of_a_compiled_model(loss: Any, tmp_path: Path) -> None:
    again: Any = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert isinstance(again.distance, Distance)
    assert again.distance.name == loss.distance.name
    model = keras.Sequential([keras.Input((4,)), MetricEmbedding(3)])
    model.compile("sgd", loss=loss)
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate(unit(RAW), PAIRED, verbose=0) == pytest.approx(
        float(loss(PAIRED, np.asarray(model(unit(RAW))))), rel=1e-5
    )


def test_signatures_of_tf_similarity() -> None:
    """Positional arguments and the name, as its documentation writes them; a `Distance` object; its word for the mean."""
    loss = PNLoss(EuclideanDistance(), "easy", "hard", 0.3, "mine", reduction="auto")
    assert (loss.name, loss.distance.name, loss.margin, loss.reduction) == ("mine", "euclidean", 0.3, "sum_over_batch_size")
    assert MultiSimilarityLoss("cosine", 2, 40, 0.1, 0.5, 1.0, "ms").name == "ms"
    assert CircleLoss("cosine", 80, 0.4, "c").name == "c"
    assert SoftNearestNeighborLoss("sql2", 1, "s").distance.name == "squared_euclidean"
    assert LiftedStructLoss("cosine", "hard", 1.0, "l").name == "l"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletLoss(negative_mining_strategy="semi"), "negative_mining_strategy 'semi' is unknown"),
        (lambda: PNLoss(positive_mining_strategy="all"), "positive_mining_strategy 'all' is unknown"),
        (lambda: LiftedStructLoss(positive_mining_strategy="all", formula="tf_similarity"), "'all' is unknown"),
        (lambda: CircleLoss(formula="own"), "formula 'own' is unknown"),
        (lambda: SoftNearestNeighborLoss(temperature=0), "temperature 0 is not above 0"),
        (lambda: MultiSimilarityLoss("inner_product"), "similarity, by which training would push alike apart"),
        (lambda: TripletLoss("nonsense"), "distance 'nonsense' is unknown"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_sample_weight_and_reductions() -> None:
    e, weights = unit(RAW), np.float32([2, 0, 1, 1, 5, 5])
    values = values_of(TripletLoss(), ODD, e)
    weighted = values * weights
    for reduction, expected in (
        ("sum_over_batch_size", weighted.sum() / 4),
        ("mean", weighted.sum() / 4),
        ("sum", weighted.sum()),
        ("mean_with_sample_weight", weighted.sum() / 4),  # 2 + 0 + 1 + 1 of the anchors that count
    ):
        assert float(TripletLoss(reduction=reduction)(ODD, e, weights)) == pytest.approx(expected, rel=1e-6)
    for none in (None, "none"):
        np.testing.assert_allclose(TripletLoss(reduction=none)(ODD, e, weights[:, None]), weighted, rtol=1e-6)
    assert float(TripletLoss(reduction="mean_with_sample_weight")(ODD, e, 3 * weights)) == pytest.approx(weighted.sum() / 4)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # in Keras' UnitNormalization of float16
def test_labels_of_64_bits_and_half_precision_survive_fit() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(32, 5)).astype(np.float32), rng.integers(4, size=32)
    seen: dict[tuple[str, int], float] = {}
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        for offset in (0, 2**40):
            model = keras.Sequential(
                [
                    keras.Input((5,)),
                    keras.layers.Dense(6, kernel_initializer=keras.initializers.GlorotUniform(0), dtype=policy),
                    keras.layers.UnitNormalization(dtype=policy),
                ]
            )
            model.compile(keras.optimizers.SGD(0.1), loss=MultiSimilarityLoss(epsilon=0.3))
            seen[policy, offset] = model.fit(x, labels + offset, epochs=2, shuffle=False, verbose=0).history["loss"][-1]
        assert seen[policy, 0] == seen[policy, 2**40]
        assert seen[policy, 0] == pytest.approx(seen["float32", 0], rel=0.02)
