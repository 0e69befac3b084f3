"""Classification and retrieval metrics, matchers: TensorFlow Similarity's known values, oracles, names."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from simpipe.classification_metrics import MatchCounts, Precision, make_classification_metric
from simpipe.errors import ConfigError
from simpipe.evaluation import counts_at, evaluate_classification, evaluate_retrieval, pairs_of
from simpipe.matchers import MatchMajorityVote, MatchNearest, make_classification_match
from simpipe.retrieval_metrics import BNDCG, MapAtK, PrecisionAtK, RecallAtK
from simpipe.types import Neighbors

GOLDEN = SHARED / "golden" / "metric_learning.json"
RETRIEVAL = {kind.__name__: kind for kind in (RecallAtK, PrecisionAtK, MapAtK, BNDCG)}


# --- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f1", [0.555556, 0.851064]),
        ("precision", [0.909091, 0.909091]),
        ("recall", [0.4, 0.8]),
        ("binary_accuracy", [0.277778, 0.555556]),
        ("fpr", [0.090909, 0.181818]),
        ("npv", [0.4, 0.642857]),
    ],
)
def test_classification_metrics(name, expected):
    metric = make_classification_metric(name)
    got = metric.compute(np.array([10, 20]), np.array([1, 2]), np.array([10, 9]), np.array([15, 5]), 36)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    all_right = metric.compute(np.array([1]), np.array([0]), np.array([1]), np.array([0]), 2)
    all_wrong = metric.compute(np.array([0]), np.array([1]), np.array([0]), np.array([1]), 2)
    assert [all_right[0], all_wrong[0]] == {
        "f1": [1, 0],
        "precision": [1, 0],
        "recall": [1, 0],
        "binary_accuracy": [0.5, 0],
        "fpr": [0, 1],
        "npv": [1, 0],
    }[name]


def test_names_and_aliases():
    for alias, canonical in (
        ("f1_score", "f1"),
        ("f1score", "f1"),
        ("false_positive_rate", "fpr"),
        ("negative_predicitve_value", "npv"),
        ("negative_predictive_value", "npv"),
    ):
        metric = make_classification_metric(alias)
        assert (metric.name, metric.canonical_name) == (alias, canonical)
    own = Precision()
    assert make_classification_metric(own, "renamed").name == "renamed"
    assert own.name == "precision"  # the caller's object stays as it is
    with pytest.raises(ConfigError, match="accuracyy"):
        make_classification_metric("accuracyy")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40),
    st.lists(st.integers(-1, 11), min_size=1, max_size=5),
)
def test_counts_at_any_threshold(pairs, thresholds):
    distances = np.array([distance for distance, _ in pairs], np.float32)
    hits = np.array([hit for _, hit in pairs])
    neighbors = Neighbors(
        np.full((len(pairs), 1), "i", object), np.where(hits, "a", "b").astype(object)[:, None], distances[:, None]
    )
    labels = np.full(len(pairs), "a", object)
    counts = counts_at(pairs_of(neighbors, labels, "match_nearest"), np.array(thresholds, np.float32))
    for row, threshold in enumerate(thresholds):
        near = distances <= threshold
        by_hand = [(hits & near).sum(), (~hits & near).sum(), (hits & ~near).sum(), (~hits & ~near).sum()]
        assert [counts.tp[row], counts.fp[row], counts.fn[row], counts.tn[row]] == by_hand
    assert isinstance(counts, MatchCounts)


def test_matchers():
    """Published values: the vote's label is the most frequent, its distance the mean of all."""
    labels = np.array([[10, 12, 10, 12, 10], [20, 13, 13, 20, 30]]).astype(str).astype(object)
    distances = np.array([[1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]], np.float32)
    found, derived = MatchMajorityVote().derive_match(labels, distances)
    assert found.tolist() == ["10", "20"]
    np.testing.assert_allclose(derived, [1.2, 2.2], rtol=1e-6)
    found, derived = MatchNearest().derive_match(labels, distances)
    assert found.tolist() == ["10", "20"]
    assert derived.tolist() == [1.0, 2.0]
    own = MatchNearest()
    assert make_classification_match(own) is own
    with pytest.raises(ConfigError, match="match_best"):
        make_classification_match("match_best")


def test_evaluate_classification_at_infinity():
    """Published: half of the nearest labels are right, so precision .5, recall 1."""
    truth = np.array([0, 0, 1, 1, 2, 2, 3, 3]).astype(str).astype(object)
    nearest = np.array([0, 10, 1, 10, 2, 10, 3, 10]).astype(str).astype(object)
    neighbors = Neighbors(nearest[:, None], nearest[:, None], np.arange(8, dtype=np.float32)[:, None])
    result = evaluate_classification(neighbors, truth, [math.inf], metrics=["precision", "recall"], matcher="match_nearest")
    assert (result["precision"].tolist(), result["recall"].tolist()) == ([0.5], [1.0])


# --- retrieval ---------------------------------------------------------------------------------------------------------

LABELS = np.array([1, 1, 1, 0])
MASK = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
NEAR = np.tile(np.float32([0, 0.1, 0.2]), (4, 1))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (BNDCG(k=3, distance_threshold=0.1), 0.75),
        (BNDCG(k=2), 0.75),
        (BNDCG(k=2, average="macro"), 0.5),
        (RecallAtK(k=2), 0.75),
        (RecallAtK(k=2, average="macro"), 0.5),
        (PrecisionAtK(k=3), 0.5833333),
        (PrecisionAtK(k=3, average="macro"), 0.5),
        (MapAtK(k=3, r={0: 10, 1: 3}), 0.50833333),
    ],
    ids=repr,
)
def test_published_retrieval_values(metric, expected):
    assert metric.compute(query_labels=LABELS, match_mask=MASK, lookup_distances=NEAR) == pytest.approx(expected, rel=1e-6)


def test_clip_at_r():
    mask = np.array([[0, 0, 0, 1]] * 2, bool)
    assert MapAtK(r={0: 4, 1: 3}, k=4, clip_at_r=True).compute(query_labels=[0, 1], match_mask=mask) == pytest.approx(0.03125)


def golden_retrieval():
    if not GOLDEN.exists():
        return [pytest.param(None, None, id="no-golden-file")]
    data = json.loads(GOLDEN.read_text())["retrieval"]
    return [pytest.param(data, case, id=f"{case['metric']}-{i}") for i, case in enumerate(data["cases"])]


@pytest.mark.parametrize(("data", "case"), golden_retrieval())
def test_golden_retrieval(data, case):
    if data is None:
        pytest.skip("../shared/golden is no part of the project and not here; the published values above are tested anyway")
    kind = RETRIEVAL[case["metric"]]
    options = {**case["kwargs"], "average": case["average"], "drop_closest_lookup": case["drop_closest_lookup"]}
    if "error" in case:
        with pytest.raises(ConfigError, match="micro"):
            kind(**options)
        return
    metric = kind(**options)
    mask, distances = np.array(data["match_mask"], bool), np.array(data["lookup_distances"], np.float32)
    got = metric.compute(query_labels=np.array(data["query_labels"]), match_mask=mask, lookup_distances=distances)
    assert metric.name == case["name"]
    # Deliberate differences: precision and MAP without the own item look at k others, not at k - 1; and a distance
    # threshold counts for every metric, not for NDCG alone.
    first = int(case["drop_closest_lookup"])
    sees_more = first and case["metric"] in ("PrecisionAtK", "MapAtK")
    if sees_more or ("distance_threshold" in case["kwargs"] and case["metric"] != "BNDCG"):
        assert got == pytest.approx(by_hand(metric, data["query_labels"], mask[:, first:], distances[:, first:], first), rel=1e-6)
    else:
        assert got == pytest.approx(case["value"], rel=1e-5)


def by_hand(metric, labels, mask, distances, dropped) -> float:
    """The definitions, query by query."""
    values = []
    for label, relevant, far in zip(labels, mask, distances, strict=True):
        near = [bool(hit and d <= metric.distance_threshold) for hit, d in zip(relevant, far, strict=True)][: metric.k]
        if metric.canonical_name == "recall":
            values.append(float(any(near)))
            continue
        size = metric.k if metric.r is None else max(metric.r.get(str(label), 0) - dropped, 0)
        if metric.clip_at_r:
            near = near[:size]
        gains = [sum(near[: j + 1]) / (j + 1) if metric.canonical_name == "map" else 1.0 for j in range(len(near))]
        total = sum(gain for gain, hit in zip(gains, near, strict=True) if hit)
        values.append(total / size if size else 0.0)
    if metric.average == "micro":
        return float(np.mean(values))
    return float(np.mean([np.mean([v for v, x in zip(values, labels, strict=True) if x == label]) for label in set(labels)]))


def test_retrieval_against_scikit_learn():
    rng = np.random.default_rng(0)
    mask = rng.random((50, 12)) < 0.3
    scores = -np.arange(12.0)[None, :].repeat(50, axis=0)
    labels = np.zeros(50, int)
    there = mask.any(axis=1)
    ours = BNDCG(k=12).per_query(mask, labels.astype(str))
    np.testing.assert_allclose(
        ours[there], [ndcg_score([m], [s]) for m, s in zip(mask[there], scores[there], strict=True)], rtol=1e-9
    )
    sizes = mask.sum(axis=1)
    for row in np.flatnonzero(there):
        value = MapAtK(k=12, r={0: int(sizes[row])}).compute(query_labels=[0], match_mask=mask[row : row + 1])
        assert value == pytest.approx(average_precision_score(mask[row], scores[row]), rel=1e-9)


def test_own_items_are_left_out_by_id():
    """The own item stands second (an exact twin of another label is nearer in the order): dropping the first is wrong."""
    labels = np.array(["a", "b"], object)
    ids = np.array([["9", "0", "5"], ["1", "4", "6"]], object)
    found = np.array([["b", "a", "a"], ["b", "a", "b"]], object)
    neighbors = Neighbors(ids, found, np.float32([[0, 0, 0.2], [0, 0.1, 0.2]]))
    own = ids == np.array([["0"], ["1"]], object)
    metrics = [
        RecallAtK("with", k=1),
        RecallAtK("without", k=1, drop_closest_lookup=True),
        PrecisionAtK("precision", k=2, drop_closest_lookup=True),
    ]
    result = evaluate_retrieval(neighbors, own, labels, metrics)
    assert result == {"with": 0.5, "without": 0.0, "precision": 0.5}


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="k is 0"):
        RecallAtK(k=0)
    with pytest.raises(ConfigError, match="median"):
        RecallAtK(average="median")
    with pytest.raises(ConfigError, match="clip_at_r"):
        PrecisionAtK(clip_at_r=True)
    with pytest.raises(ConfigError, match="look up at least 6"):
        RecallAtK(k=5, drop_closest_lookup=True).compute(query_labels=[0], match_mask=np.ones((1, 5), bool))
