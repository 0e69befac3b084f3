"""The index API on embeddings: against brute force, labels of all kinds, ids, calibration rules, releases on disk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.errors import (
    ConfigError,
    EmptyIndexError,
    IncompatibleError,
    NotCalibratedError,
    QueryError,
)
from simpipe.index.labels import decode_labels, encode_labels
from simpipe.index.payload import decode_column, decode_payload, encode_payload
from simpipe.indexer import Indexer
from simpipe.matchers import ClassificationMatch
from simpipe.retrieval_metrics import MapAtK, PrecisionAtK, RecallAtK
from simpipe.search import LinearSearch, NMSLibSearch, make_search

X, Y = clustered(900)
QX, QY = clustered(300, seed=0)
QX = QX + np.random.default_rng(5).normal(size=QX.shape).astype(np.float32) * 0.3


def filled(distance="cosine", search="linear", labels=Y, **options) -> Indexer:
    indexer = Indexer(16, distance, search)
    indexer.batch_add(X, labels, **options)
    return indexer


def oracle(queries, items, distance):
    q, x = queries.astype(np.float64), items.astype(np.float64)
    if distance == "cosine":
        q, x = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q, x))
        return 1 - q @ x.T
    if distance == "inner_product":
        return -q @ x.T
    difference = q[:, None] - x[None]
    if distance == "manhattan":
        return np.abs(difference).sum(-1)
    squares = (difference**2).sum(-1)
    return squares if distance == "squared_euclidean" else np.sqrt(squares)


@pytest.mark.parametrize("search", ["linear", "nmslib"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared_euclidean", "manhattan", "inner_product"])
def test_lookups_equal_brute_force(distance, search):
    indexer = filled(distance, search, data=[f"item {i}" for i in range(len(X))])
    true = np.sort(oracle(QX, X, distance), axis=1)[:, :5]
    lookups = indexer.batch_lookup(QX, k=5)
    got = np.array([[neighbor.distance for neighbor in row] for row in lookups])
    if search == "linear":
        np.testing.assert_allclose(got, true, rtol=1e-4, atol=1e-5)
    else:
        assert np.isclose(got, true, rtol=1e-4, atol=1e-5).mean() > 0.95
    first = lookups[7][1]
    row = int(first.id)
    assert (first.rank, first.label, first.data) == (2, Y[row], f"item {row}")
    expected = X[row] / np.linalg.norm(X[row]) if distance == "cosine" else X[row]
    np.testing.assert_allclose(first.embedding, expected, rtol=1e-6)
    assert indexer.single_lookup(QX[7], k=5) == lookups[7]


def test_distances_by_alias_and_unknown_ones():
    assert Indexer(4, "l2").distance == "euclidean"
    assert Indexer(4, "sql2").distance == "squared_euclidean"
    assert Indexer(4, "taxicab").distance == "manhattan"
    for make in (
        lambda: Indexer(4, "snr"),
        lambda: Indexer(4, search="annoy"),
        lambda: Indexer(4, kv_store="redis"),
        lambda: NMSLibSearch(method="sw-graph"),
    ):
        with pytest.raises(ConfigError):
            make()
    assert make_search(NMSLibSearch(index_params={"M": 8, "efConstruction": 50}, query_params={"efSearch": 70})).model_dump() == {
        "kind": "nmslib",
        "m": 8,
        "ef_construction": 50,
        "ef": 70,
        "exact_below": 1000,
    }
    assert make_search(LinearSearch()).kind == make_search({"kind": "exact"}).kind == "exact"


def test_added_in_parts_equals_added_at_once():
    whole, parts = filled(), Indexer(16)
    for begin in range(0, 900, 130):
        parts.batch_add(X[begin : begin + 130], Y[begin : begin + 130], build=False)
        parts.single_lookup(X[0])
    one = Indexer(16)
    one.add(X[0], Y[0], data={"row": 0})
    one.add(X[1:2], Y[1:2])
    assert parts.size() == 900
    assert parts.batch_lookup(QX) == whole.batch_lookup(QX)
    assert [(n.id, n.label, n.data) for n in one.single_lookup(X[0])] == [("0", Y[0], {"row": 0}), ("1", Y[1], None)]


# --- labels, ids, data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y + 2**33,
        Y.astype(np.int8),
        Y[:, None],
        Y.astype(np.float32),
        [f"class {y}" for y in Y],
        np.array([f"class {y}" for y in Y], "S"),
        [None if y == 3 else int(y) - 2**40 for y in Y],
    ],
    ids=["int64", "above 2^31", "int8", "column", "float", "str", "bytes", "with None"],
)
def test_labels_survive(labels):
    indexer = filled(labels=labels)
    flat = np.asarray(labels, object).reshape(-1).tolist()
    wanted = [
        value.decode() if isinstance(value, bytes) else value if value is None or isinstance(value, str) else int(value)
        for value in flat
    ]
    assert [row[0].label for row in indexer.batch_lookup(X, k=1)] == wanted
    assert indexer.to_data_frame()["labels"].tolist() == wanted
    assert indexer.to_data_frame(3)["ids"].tolist() == ["0", "1", "2"]
    indexer.calibrate(QX, np.asarray(labels, object).reshape(-1)[np.argmin(oracle(QX, X, "cosine"), axis=1)], verbose=0)
    matched = indexer.match(X, no_match_label="none")["optimal"]
    assert [value for value, label in zip(matched, wanted, strict=True) if label is not None] == [
        v for v in wanted if v is not None
    ]


def test_labels_of_other_kinds_are_refused():
    for bad, message in (
        ([1, None, "a"] * 300, "labels mix int, str"),
        (Y + 0.5, "fractions"),
        (Y[:5], "one label an example"),
        ([object()] * 900, "object"),
    ):
        with pytest.raises(QueryError, match=message):
            filled(labels=bad)
    indexer = filled()
    with pytest.raises(QueryError, match="kind string"):
        indexer.batch_add(QX, [f"c{y}" for y in QY])
    assert indexer.size() == 900


@settings(deadline=None)
@given(st.one_of(st.lists(st.one_of(st.none(), st.integers())), st.lists(st.one_of(st.none(), st.text()))))
def test_labels_round_trip(values):
    array = np.empty(len(values), object)
    array[:] = values
    encoded, kind = encode_labels(array, len(values))
    assert decode_labels(encoded, kind) == values


def test_ids_are_kept_and_never_doubled():
    indexer = Indexer(16)
    assert indexer.batch_add(X[:3], Y[:3]) == ["0", "1", "2"]
    assert indexer.batch_add(X[3:5], Y[3:5], ids=["cat", "4"]) == ["cat", "4"]
    assert indexer.batch_add(X[5:7], Y[5:7]) == ["5", "6"]
    indexer.add(X[7], Y[7], id="7")
    for ids in (["8", "cat"], ["x", "x"]):
        with pytest.raises(QueryError, match=r"id '(cat|x)' names two items"):
            indexer.batch_add(X[8:10], Y[8:10], ids=ids)
    with pytest.raises(QueryError, match="1 ids for 2 items"):
        indexer.batch_add(X[8:10], Y[8:10], ids=["8"])
    assert indexer.size() == 8
    assert indexer.batch_lookup(X[:8], k=1) == [[n] for n in (row[0] for row in indexer.batch_lookup(X[:8], k=2))]
    assert [row[0].id for row in indexer.batch_lookup(X[:8], k=1)] == ["0", "1", "2", "cat", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("row", "message"),
    [(np.full(16, np.nan), "row 2 holds NaN"), (np.zeros(16), "row 2 has zero norm"), (np.full(16, 1e30), "row 2 holds NaN")],
)
def test_bad_vectors_never_reach_the_index(row, message):
    indexer = filled()
    bad = X[:5].copy()
    bad[2] = row
    with pytest.raises(QueryError, match=message):
        indexer.batch_add(bad, Y[:5])
    assert indexer.size() == 900
    with pytest.raises(IncompatibleError, match="dim 16"):
        indexer.batch_add(X[:, :7], Y)
    with pytest.raises(QueryError, match=r"row 2"):
        indexer.batch_lookup(bad)


def test_payload_round_trip():
    values = [np.arange(6).reshape(2, 3), np.float32(1.5), "text", {"a": [1, None]}, 7, None, np.array(["x", "yz"])]
    back = [decode_payload(value) for value in encode_payload(values).to_pylist()]
    assert (back[0] == values[0]).all()
    assert back[0].dtype == values[0].dtype
    assert back[1:6] == values[1:6]
    assert back[6].tolist() == ["x", "yz"]
    for bad in (object(), float("nan"), np.array([object()])):
        with pytest.raises(QueryError, match="row 1"):
            encode_payload(["fine", bad])


@settings(deadline=None)
@given(st.data())
def test_payload_blocks_equal_single_values(data):
    """A column of arrays of one shape is one block: the same bytes as value by value, sliced and in chunks too."""
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 3), (2, 0)]))
    dtype = data.draw(st.sampled_from(["uint8", "<f4", ">i8", "bool", "<U3", "M8[s]"]))
    n = data.draw(st.integers(0, 6))
    rows = list((np.arange(n * int(np.prod(shape)), dtype=np.int64) % 2).reshape(n, *shape).astype(dtype))
    odd = data.draw(st.sampled_from([None, "text", np.float64(1.5), np.zeros((3,), dtype), np.asfortranarray(np.ones((2, 3)))]))
    place = data.draw(st.integers(-1, n))
    values = rows if place < 0 else [*rows[:place], odd, *rows[place:]]
    column = encode_payload(values)
    alone = [encode_payload([value])[0].as_py() for value in values]
    assert column.to_pylist() == alone
    for part in (slice(0, None), slice(1, None), slice(0, -1)):
        cut = column[part.start : len(column) + (part.stop or 0)]
        for decoded in (decode_column(cut), decode_column(pa.chunked_array([cut, cut[:1]], cut.type))[: len(cut)]):
            assert len(decoded) == len(cut)
            for got, raw in zip(decoded, cut.to_pylist(), strict=True):
                expected = decode_payload(raw)
                assert type(got) is type(expected)
                assert np.array_equal(got, expected)
                assert not isinstance(got, np.ndarray) or (got.dtype, got.shape) == (expected.dtype, expected.shape)


# --- calibration and matching ------------------------------------------------------------------------------------------


def test_calibration_equals_a_search_over_all_thresholds():
    indexer = filled()
    result = indexer.calibrate(QX, QY, {"high": 0.9}, extra_metrics=["precision", "recall", "binary_accuracy"], verbose=0)
    distances = oracle(QX, X, "cosine")
    hit = Y[distances.argmin(axis=1)] == QY
    grid = result.thresholds["distance"]
    nearest = np.array([row[0].distance for row in indexer.batch_lookup(QX, k=1)], np.float32)
    np.testing.assert_allclose(nearest, distances.min(axis=1), atol=1e-6)
    assert list(result.thresholds) == ["distance", "precision", "recall", "binary_accuracy", "f1", "value"]
    assert (np.unique(nearest) == grid).all()
    tp = np.array([(hit & (nearest <= t)).sum() for t in grid])
    accepted = np.array([(nearest <= t).sum() for t in grid])
    f1 = 2 * tp / (accepted + hit.sum())
    np.testing.assert_allclose(result.thresholds["f1"], f1, atol=1e-9)
    np.testing.assert_allclose(result.thresholds["binary_accuracy"], tp / len(QY), atol=1e-9)
    assert (result.thresholds["value"] == result.thresholds["f1"]).all()
    assert result.cutpoints["optimal"]["distance"] == grid[np.flatnonzero(f1 == f1.max())[-1]]
    assert result.cutpoints["high"]["distance"] == grid[np.flatnonzero(f1 >= 0.9)[0]]
    assert result.cutpoints["optimal"].keys() == {"name", "value", "distance", "precision", "recall", "binary_accuracy", "f1"}


def test_a_query_passes_the_threshold_it_defined():
    """Distances are compared as they are, in calibration and in matching: also in another batch, also after loading."""
    indexer = filled()
    distances = np.array([indexer.single_lookup(q, k=1)[0].distance for q in QX], np.float32)
    for name, cutpoint in indexer.calibrate(QX, QY, {f"t{i}": i / 40 for i in range(1, 40)}, verbose=0).cutpoints.items():
        matches = indexer.match(QX, no_match_label=None)[name]
        assert [label is not None for label in matches] == (distances <= np.float32(cutpoint["distance"])).tolist()
        assert np.float32(cutpoint["distance"]) in distances


def test_match_uses_the_rule_of_its_calibration():
    class Second(ClassificationMatch):
        name = "second"

        def derive_match(self, lookup_labels, lookup_distances):
            return lookup_labels[:, 1], lookup_distances[:, 1]

    indexer = filled()
    indexer.calibrate(QX, QY, k=5, matcher="match_majority_vote", verbose=0)
    by_vote = indexer.match(QX, -1)["optimal"]
    assert by_vote == indexer.match(QX, -1, k=5, matcher="match_majority_vote")["optimal"]
    indexer.calibrate(QX, QY, k=2, matcher=Second(), verbose=0)
    second = [row[1] for row in indexer.batch_lookup(QX, k=2)]
    limit = np.float32(indexer.cutpoints["optimal"]["distance"])
    assert indexer.match(QX, -1, matcher=Second())["optimal"] == [
        n.label if np.float32(n.distance) <= limit else -1 for n in second
    ]


def test_own_items_in_calibration(caplog):
    """Random labels: with the items themselves among the neighbors f1 is 1, left out by id it is near chance."""
    random = np.random.default_rng(0).integers(0, 20, len(X))
    indexer = filled(labels=random)
    with caplog.at_level("WARNING", logger="simpipe"):
        assert indexer.calibrate(X, random, verbose=0).cutpoints["optimal"]["value"] == 1.0
    assert "900 of 900 calibration examples are indexed themselves" in caplog.text
    ids = [str(i) for i in range(len(X))]
    result = indexer.calibrate(X, random, extra_metrics=["binary_accuracy"], verbose=0, query_ids=ids)
    assert result.thresholds["binary_accuracy"].max() < 0.12
    by_number = indexer.calibrate(X, random, extra_metrics=["binary_accuracy"], verbose=0, query_ids=range(len(X)))
    assert by_number.cutpoints == result.cutpoints
    at = indexer.evaluate_classification(X, random, [np.inf], ["binary_accuracy"], query_ids=range(len(X)))
    assert at["binary_accuracy"][0] == result.thresholds["binary_accuracy"].max()
    twins = filled(labels=random)
    twins.batch_add(X[:9], np.random.default_rng(1).integers(0, 20, 9))  # exact copies under other ids
    assert twins.calibrate(X, random, verbose=0, query_ids=ids).cutpoints["optimal"]["value"] < 0.25
    metrics = [RecallAtK("all", k=1), RecallAtK("others", k=1, drop_closest_lookup=True)]
    for known in (ids, None):
        values = indexer.evaluate_retrieval(X, random, metrics, query_ids=known)
        assert values["all"] == 1.0
        assert values["others"] < 0.12
    away = indexer.evaluate_retrieval(QX, QY, metrics)  # queries that are not indexed lose no neighbor
    assert away["all"] == away["others"]


def test_evaluation_equals_loops():
    indexer = filled()
    order = np.argsort(oracle(QX, X, "cosine"), axis=1)[:, :4]
    relevant = Y[order] == QY[:, None]
    got = indexer.evaluate_retrieval(QX, QY, [RecallAtK(k=3), PrecisionAtK(k=4), MapAtK(k=4)])
    assert got["recall@3"] == pytest.approx(relevant[:, :3].any(1).mean())
    assert got["precision@4"] == pytest.approx(relevant.mean())
    gains = relevant * np.cumsum(relevant, 1) / np.arange(1, 5)
    assert got["map@4"] == pytest.approx(gains.sum(1).mean() / 4)
    at = indexer.evaluate_classification(QX, QY, [0.05, np.inf], ["binary_accuracy"])
    nearest = np.sort(oracle(QX, X, "cosine"), axis=1)[:, 0]
    expected = [(relevant[:, 0] & (nearest <= 0.05)).mean(), relevant[:, 0].mean()]
    np.testing.assert_allclose(at["binary_accuracy"], expected, atol=0.004)


def test_asking_too_early():
    indexer = Indexer(16)
    with pytest.raises(EmptyIndexError, match="empty"):
        indexer.batch_lookup(QX)
    with pytest.raises(IndexError):  # as TensorFlow Similarity
        indexer.calibrate(QX, QY)
    indexer = filled()
    for error in (NotCalibratedError, ValueError):
        with pytest.raises(error, match="calibrate"):
            indexer.match(QX)
    assert not indexer.is_calibrated
    indexer.calibrate(QX, QY, verbose=0)
    assert indexer.is_calibrated
    indexer.reset()
    assert (indexer.size(), indexer.is_calibrated) == (0, False)


def test_stats(capsys):
    indexer = filled()
    indexer.batch_lookup(QX)
    indexer.single_lookup(QX[0])
    stats = indexer.stats()
    assert (stats["num_items"], stats["num_lookups"]) == (900, 301)
    assert 0 < stats["query_performance"]["min"] <= stats["query_performance"]["median"] <= stats["query_performance"]["max"]
    indexer.print_stats()
    assert "cosine" in capsys.readouterr().out
