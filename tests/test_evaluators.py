"""Evaluation sums: every metric against a loop in plain Python, exact merging, partitions, classes and slices by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from evaluation_data import ITEMS, RULES, answer_of, items_of, parts_of, random_answer, same
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from simpipe.evaluators import (
    EvaluationRules,
    EvaluationSums,
    class_table,
    confusion_records,
    evaluate_block,
    macro_metrics,
    one_shot_accuracy,
    partition_records,
    slice_records,
    slice_table,
    worst_classes,
)
from simpipe.matchers import match_labels
from simpipe.retrieval_metrics import average_precision_at_r, ndcg_at_k


def loops(answer, items, rules):
    """Metrics of each query, one at a time: a list of (label, size of its class, metrics)."""
    found = []
    for row, label in enumerate(answer.labels):
        if label is None:
            continue
        others = max(items.get(label, 0) - rules.queries_are_items, 0)
        near = [
            bool(name == label and math.isfinite(distance))
            for name, distance in zip(answer.found.labels[row], answer.found.distances[row], strict=True)
        ]
        deep = near if answer.deep is None else [name == label for name in answer.deep.labels[row]]
        k = rules.k
        values = {"label_precision_at_1": float(near[0]), f"label_precision_at_{k}": sum(near[:k]) / k}
        for depth in rules.recall_at:
            values[f"recall_at_{depth}"] = float(any(near[:depth]))
        hits, total = 0, 0.0
        for rank, hit in enumerate(near[:k], 1):
            hits += hit
            total += hit * hits / rank
        values[f"map_at_{k}"] = total / max(min(k, others), 1)
        gain = sum(hit / math.log2(rank + 1) for rank, hit in enumerate(near[:k], 1))
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, others) + 1))
        values[f"ndcg_at_{k}"] = gain / ideal if ideal else 0.0
        size = min(others, rules.max_r)
        hits, total = 0, 0.0
        for rank, hit in enumerate(deep[:size], 1):
            hits += hit
            total += hit * hits / rank
        values["map_at_r"] = total / max(size, 1)
        matched, distance = match_labels(answer.found.neighbors(rules.match_k).take(slice(row, row + 1)), rules.matcher)
        match = matched[0] if distance[0] <= np.float32(rules.optimal) else None
        values["match_right_at_optimal"], values["match_none_at_optimal"] = float(match == label), float(match is None)
        found.append((label, others, values, match))
    return found


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_every_metric_equals_a_loop(own, deep):
    answer, rules = random_answer(300, deep=deep), replace(RULES, queries_are_items=own, max_r=9 if deep else 5)
    sums = evaluate_block(answer, items_of(ITEMS), rules)
    expected = loops(answer, ITEMS, rules)
    assert (sums.queries, sums.labelled, sums.open_set) == (300, len(expected), sum(not others for _, others, _, _ in expected))
    metrics = sums.metrics()
    for name in expected[0][2]:
        assert metrics[name] == pytest.approx(mean([values[name] for _, _, values, _ in expected]), abs=1e-9), name
    unknown = [match is None for _, others, _, match in expected if not others]
    assert metrics["no_match_right_at_optimal"] == pytest.approx(mean(unknown), abs=1e-9)
    assert list(metrics) == [
        "ann_recall_at_5", "label_precision_at_1", "label_precision_at_5", "map_at_5", "map_at_r", "match_none_at_optimal",
        "match_right_at_optimal", "ndcg_at_5", "no_match_right_at_optimal", "recall_at_1", "recall_at_3",
    ]  # fmt: skip
    confusion: dict = {}
    for label, _, _, match in expected:
        confusion[label, match] = confusion.get((label, match), 0) + 1
    assert {(true, match): count for true, match, count in confusion_records(sums.confusion)} == confusion
    by_class: dict = {}
    for label, _, values, _ in expected:
        by_class.setdefault(label, []).append(values)
    classes = class_table(sums, items_of(ITEMS))
    assert classes.column_names[:3] == ["label", "queries", "items"]
    for row in classes.to_pylist():
        several = by_class[row["label"]]
        assert (row["queries"], row["items"]) == (len(several), ITEMS.get(row["label"], 0))
        for name in several[0]:
            assert row[name] == pytest.approx(mean([values[name] for values in several]), abs=1e-9)
    assert len(classes) == len(by_class)
    macro = macro_metrics(classes)
    for name in expected[0][2]:
        per_class = [mean([values[name] for values in several]) for several in by_class.values()]
        assert macro[name] == pytest.approx(mean(per_class), abs=1e-9)


def test_ann_recall_its_error_and_which_queries_count():
    answer = random_answer(200)
    sums = evaluate_block(answer, items_of(ITEMS), RULES)
    assert answer.exact is not None
    values = []
    for line, row in enumerate(answer.exact_rows):
        true = answer.exact.distances[line, : RULES.k]
        values.append(sum(distance <= true.max() for distance in answer.found.distances[row, : RULES.k]) / RULES.k)
    assert 0 < sums.exact_queries == len(values) < 200
    assert sums.metrics()["ann_recall_at_5"] == pytest.approx(mean(values), abs=1e-9)
    assert sums.ann_recall_error() == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-6)
    assert 0.3 < mean(values) < 0.99, "the case tells something"


def test_ranking_metrics_equal_scikit_learn():
    rng = np.random.default_rng(3)
    relevant = rng.random((60, 12)) < 0.4
    relevant[0] = False
    total = relevant.sum(axis=1)
    scores = np.tile(-np.arange(12.0), (60, 1))
    theirs = [ndcg_score(row[None], score[None], k=7) for row, score in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(ndcg_at_k(relevant, 7, total), theirs, rtol=1e-12)
    # All relevant items in front of rank R: then MAP@R is the average precision.
    front = np.sort(relevant, axis=1)[:, ::-1]
    front[:, 0] = True
    count = front.sum(axis=1)
    average = [average_precision_score(row, score) for row, score in zip(front, scores, strict=True)]
    np.testing.assert_allclose(average_precision_at_r(front, count), average, rtol=1e-12)


def test_map_at_r_of_the_published_examples():
    """Musgrave et al. 2020, table 1: ten neighbors, R = 10; right are the first, the first and the last, the first two, all."""
    relevant = np.zeros((4, 10), bool)
    relevant[:, 0] = relevant[1, 9] = relevant[2, 1] = relevant[3] = True
    assert average_precision_at_r(relevant, np.full(4, 10)) == pytest.approx([0.10, 0.12, 0.20, 1.0])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5), st.lists(st.integers(1, 30), max_size=6), st.randoms())
def test_any_split_and_any_order_of_merging_give_the_same_bits(seed, cuts, random):
    answer = random_answer(60, seed=seed)
    items = items_of(ITEMS)
    whole = evaluate_block(answer, items, RULES)
    parts = [evaluate_block(part, items, RULES) for part in parts_of(answer, cuts)]
    random.shuffle(parts)
    while len(parts) > 1:
        size = random.randint(2, len(parts))
        parts = [*parts[size:], EvaluationSums.merge(parts[:size])]
    assert same(parts[0], whole)
    assert parts[0].metrics() == whole.metrics()
    assert same(EvaluationSums.merge([EvaluationSums.empty(RULES), whole]), whole)


def test_a_query_alone_has_the_value_it_has_in_a_block():
    answer = random_answer(40, deep=True)
    alone = [evaluate_block(part, items_of(ITEMS), RULES) for part in parts_of(answer, [1] * 40)]
    assert same(EvaluationSums.merge(alone), evaluate_block(answer, items_of(ITEMS), RULES))


def test_sums_survive_a_file(tmp_path):
    for sums in (evaluate_block(random_answer(50), items_of(ITEMS), RULES), EvaluationSums.empty(RULES)):
        sums.save(tmp_path)
        assert same(EvaluationSums.load(tmp_path), sums)


def test_recall_by_partition_by_hand():
    none = np.inf
    found = [
        [("a", 0.1), ("b", 0.2), ("c", 0.3)],  # all
        [("a", 0.1), ("d", 0.3), ("e", 0.4)],  # d stands in for c, which is as far; b is missed
        [("b", 0.2), ("d", 0.3), ("e", 0.3)],  # of two stand-ins one finds a place; a is missed
        [("a", 0.1), ("b", 0.2), ("", none)],  # c is missed
    ]
    true = [[("a", 0.1), ("b", 0.2), ("c", 0.3)]] * 4
    places = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 3, "": -1}
    answer = answer_of(found, true, places=places, labels=["x"] * 4, of=dict.fromkeys("abcde", "x"))
    sums = evaluate_block(answer, items_of({"x": 5}), EvaluationRules(k=3, recall_at=(1,), partitions=5))
    assert sums.neighbors.tolist() == [4, 4, 4, 0, 0]
    assert sums.found.tolist() == [3, 3, 3, 0, 0]
    records = partition_records(sums, [10, 10, 10, 10, 0])
    assert records[0] == {"partition": 0, "rows": 10, "neighbors": 4, "found": 3, "recall": 0.75}
    assert records[4]["recall"] is None


def test_a_bad_partition_shows_although_the_mean_looks_well():
    answer = random_answer(400, lose=3)
    sums = evaluate_block(answer, items_of(ITEMS), RULES)
    recall = sums.found / sums.neighbors
    assert recall.argmin() == 3
    assert recall[3] == 0
    assert (np.delete(recall, 3) == 1).all()


def test_open_set_queries_are_counted_and_right_without_a_match():
    found = [[("a", 0.1)], [("a", 0.9)], [("a", 0.9)], [("a", 0.2)]]
    answer = answer_of(found, found, places={"a": 0}, labels=["x", "x", "new", "new"], of={"a": "x"})
    rules = EvaluationRules(k=1, recall_at=(1,), optimal=0.5)
    metrics = evaluate_block(answer, items_of({"x": 1}), rules).metrics()
    assert metrics["no_match_right_at_optimal"] == 0.5
    assert metrics["match_none_at_optimal"] == 0.5
    assert metrics["label_precision_at_1"] == 0.5
    known = answer_of(found[:2], found[:2], places={"a": 0}, labels=["x", "x"], of={"a": "x"})
    closed = evaluate_block(known, items_of({"x": 1}), rules)
    assert "no_match_right_at_optimal" not in closed.metrics()
    alone = evaluate_block(answer, items_of({"x": 1}), replace(rules, queries_are_items=True))
    assert alone.open_set == 4, "the only item of its class has none to be found"


def test_queries_without_labels_have_ann_recall_only():
    answer = random_answer(30)
    bare = replace(answer, queries=answer.queries.set_column(1, "label", pa.nulls(30, pa.string())))
    sums = evaluate_block(bare, items_of({}), RULES)
    assert list(sums.metrics()) == ["ann_recall_at_5"]
    assert sums.labelled == 0
    assert EvaluationSums.empty(RULES).metrics() == {}


def test_slices_are_metrics_of_the_queries_with_a_value():
    answer = random_answer(200)
    colors = answer.queries.column("color").to_pylist()
    sums = evaluate_block(answer, items_of(ITEMS), RULES)
    records = slice_records(slice_table(sums))
    assert list(records) == ["color", "year"]
    assert {row["value"] for row in records["year"]} == {"2001", "2002"}
    assert [row["value"] for row in records["color"]] == ["blue", "red", None]
    for row in records["color"]:
        rows = np.array([i for i, color in enumerate(colors) if color == row["value"]])
        part = next(iter(parts_of(answer, [], rows=rows)))
        expected = evaluate_block(part, items_of(ITEMS), RULES)
        wanted = {name: value for name, value in expected.metrics().items() if not name.startswith("ann")}
        assert {name: row[name] for name in wanted} == wanted
        assert row["queries"] == expected.labelled
    few = slice_records(slice_table(sums), 1)
    assert [row["queries"] for row in few["color"]] == [max(row["queries"] for row in records["color"])]


def test_few_of_many_confusions_are_the_most_frequent():
    confusion = pa.table({"true": ["a", "a", "b", "b"], "matched": ["a", None, "a", "b"], "count": [3, 5, 1, 4]})
    assert confusion_records(confusion) == [["a", "a", 3], ["a", None, 5], ["b", "a", 1], ["b", "b", 4]]
    assert confusion_records(confusion, 2) == [["a", None, 5], ["b", "b", 4]]


def test_the_worst_classes_and_what_they_are_taken_for():
    found = [[("a", 0.1)], [("b", 0.1)], [("b", 0.9)], [("b", 0.1)], [("b", 0.1)], [("a", 0.1)], [("a", 0.1)], [("c", 0.1)]]
    labels = ["x", "x", "x", "y", "z", "z", "z", "new"]
    answer = answer_of(found, found, places={"a": 0, "b": 0, "c": 0}, labels=labels, of={"a": "x", "b": "y", "c": "z"})
    items = items_of({"x": 7, "y": 8, "z": 9})
    sums = evaluate_block(answer, items, EvaluationRules(k=1, recall_at=(1,), optimal=0.5))
    worst = worst_classes(class_table(sums, items), sums.confusion, 2)
    assert [row["label"] for row in worst] == ["z", "x"], "not `new`, of which nothing is indexed"
    assert worst[0]["most_confused_with"] == [["x", 2], ["y", 1]]
    assert worst[1]["most_confused_with"] == [["y", 1], [None, 1]]
    assert (worst[0]["queries"], worst[0]["items"], worst[0]["label_precision_at_1"]) == (3, 9, 0.0)
    assert "no_match_right_at_optimal" not in worst[0]
    assert worst_classes(class_table(sums, items), sums.confusion, 0) == []


def test_label_items_tell_labels_apart_whose_hashes_are_equal(monkeypatch):
    lengths = lambda labels: np.array([len(name) for name in labels.to_pylist()], np.uint64)  # noqa: E731
    monkeypatch.setattr("simpipe.evaluators.rules.hash_ids", lengths)
    items = items_of({"aa": 1, "bb": 2, "cc": 3, "d": 4})
    assert items.count(pa.array(["cc", "aa", "d", "xx", "bb", "eee"])).tolist() == [3, 1, 4, 0, 2, 0]
    assert items.largest == 4


def test_one_shot_accuracy():
    vectors = np.eye(6, dtype=np.float32).repeat(3, axis=0)
    labels = np.array([f"c{row // 3}" for row in range(18)], object)
    groups = {"a": [f"c{i}" for i in range(6)], "too small": ["c0"]}
    assert one_shot_accuracy(vectors, labels, groups, ways=5, runs=20, seed=0) == 1.0
    noise = np.random.default_rng(0).normal(size=(18, 8)).astype(np.float32)
    assert 0.05 < one_shot_accuracy(noise, labels, groups, ways=5, runs=400, seed=0) < 0.45
