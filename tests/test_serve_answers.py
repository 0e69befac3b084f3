"""Jobs to finished answers: the records of `simpipe lookup --json`, block by block, and errors that touch their own job only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest
from release_maker import make_release

from simpipe.index.router import Router
from simpipe.index.searcher import Searcher, open_release
from simpipe.queries import Queries
from simpipe.queries import answer as records
from simpipe.serve.answers import Answer, answer
from simpipe.serve.facts import thinned
from simpipe.serve.jobs import Job

DIM = 5
CUTPOINT = {"name": "optimal", "metric": "f1", "value": 0.9, "distance": 1.2, "f1": 0.9}
FITTED = {"method": "isotonic", "distance": [0.5, 4.0], "probability": [1.0, 0.1], "scale": None, "shift": None}
CALIBRATION = {
    "matcher": "match_nearest",
    "k": 1,
    "depth": 3,
    "cutpoints": {"optimal": CUTPOINT},
    "probability": FITTED,
    "matchers": {
        "match_majority_vote@3": {
            "matcher": "match_majority_vote",
            "k": 3,
            "cutpoints": {"optimal": CUTPOINT},
            "probability": None,
        }
    },
    "by": None,
}
RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.normal(size=(300, DIM)).astype(np.float32)
ASKED = RANDOM.normal(size=(40, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory) -> Searcher:
    root = tmp_path_factory.mktemp("root")
    make_release(root, VECTORS, Router(11))
    opened = open_release(root)
    opened.calibrated = CALIBRATION
    return opened


def of_vectors(vectors: np.ndarray, names: list[str] | None = None) -> Queries:
    return Queries(names or [f"row {row}" for row in range(len(vectors))], vectors, [None] * len(vectors))


def of_ids(searcher: Searcher, ids: list[str]) -> Queries:
    labels = searcher.items_of(ids).column("label").to_pylist()
    return Queries(ids, searcher.vectors_of(ids), labels, own_ids=True, indexed=(True,) * len(ids))


def document(found: Answer) -> dict:
    assert found.error is None, found.error
    assert found.body is not None
    return orjson.loads(found.body)


def results(found: Answer) -> list[dict]:
    return document(found)["results"]


def without_metadata(expected: list[dict]) -> list[dict]:
    return [
        {**each, "neighbors": [{k: v for k, v in n.items() if k != "number"} for n in each["neighbors"]]} for each in expected
    ]


@pytest.mark.parametrize("verb", ["lookup", "match"])
@pytest.mark.parametrize("options", [{}, {"exact": True}, {"metadata": True}, {"metadata": ["number"]}])
@pytest.mark.parametrize("k", [1, 3, 1000])
def test_records_are_those_of_the_command_line(searcher, verb, options, k):
    how = {"exact": options.get("exact", False), "cutpoint": "optimal" if verb == "match" else None}
    ids = ["i3", "i7", "i150"]  # i7 has no label
    jobs = [
        Job(verb, ASKED[:2], k=k, options=options),
        Job(verb, ids=ids, k=k, options=options),
        Job(verb, ASKED[2:5], names=["a", 'b"\\', "ü"], k=k, options=options),
    ]
    queries = [of_vectors(ASKED[:2]), of_ids(searcher, ids), of_vectors(ASKED[2:5], ["a", 'b"\\', "ü"])]
    found = answer(searcher, jobs)
    assert [each.batch for each in found] == [5, 3, 5]
    for one, asked in zip(found, queries, strict=True):
        expected = records(searcher, asked, k=k, **how)
        assert results(one) == (expected if options.get("metadata") else without_metadata(expected))
        head = document(one)
        assert (head["release"], head["distance"]) == (searcher.manifest.release, "euclidean")


@pytest.mark.parametrize("verb", ["lookup", "match"])
@pytest.mark.parametrize(
    "wanted", [{"label": "l2"}, {"number": {"lt": 40}, "label": {"in": ["l1", "l2"]}}, {"label": "none such"}]
)
def test_filters(searcher, verb, wanted):
    ids = ["i2", "i7", "i150"]
    jobs = [Job(verb, ASKED[:3], k=4, options={"filter": wanted}), Job(verb, ids=ids, k=4, options={"filter": wanted})]
    how = {"k": 4, "filter": wanted, "cutpoint": "optimal" if verb == "match" else None}
    for found, queries in zip(answer(searcher, jobs), (of_vectors(ASKED[:3]), of_ids(searcher, ids)), strict=True):
        assert results(found) == without_metadata(records(searcher, queries, **how))
        fits = {"l2": 51, "none such": 0}.get(wanted["label"] if isinstance(wanted["label"], str) else "", 14)
        assert document(found)["filter"]["matching"] == fits


def test_matcher_of_a_job(searcher):
    options = {"cutpoint": "optimal", "matcher": "match_majority_vote@3"}
    (found,) = answer(searcher, [Job("match", ASKED, k=3, options=options)])
    expected = records(searcher, of_vectors(ASKED), k=3, cutpoint="optimal", matcher="match_majority_vote@3")
    assert results(found) == without_metadata(expected)
    assert {each["match"]["probability"] for each in results(found)} == {None}


def test_lookup_with_a_cutpoint_says_what_is_within(searcher):
    (found,) = answer(searcher, [Job("lookup", ASKED, k=4, options={"cutpoint": "optimal"})])
    neighbors = [neighbor for each in results(found) for neighbor in each["neighbors"]]
    assert {each["within"] for each in neighbors} == {True, False}
    assert all(each["within"] == (np.float32(each["distance"]) <= np.float32(1.2)) for each in neighbors)
    rule = searcher.rules.rule()
    likely = rule.probability.of(np.array([each["distance"] for each in neighbors], np.float32))
    assert [each["probability"] for each in neighbors] == [
        0.0 if each["label"] is None else value for each, value in zip(neighbors, likely.tolist(), strict=True)
    ]


def test_probes(searcher):
    (found,) = answer(searcher, [Job("lookup", ASKED, k=2)])
    assert found.probes == 11.0, "routed by hash, every partition is asked"
    assert answer(searcher, [Job("lookup", ASKED, k=2, options={"filter": {"label": "l1"}})])[0].probes is None


def test_equal_jobs_are_one_block_and_others_are_not(searcher):
    jobs = [Job("lookup", ASKED[row : row + 1], k=2 + row % 2) for row in range(10)]
    jobs.append(Job("lookup", ASKED[:1], k=2, options={"exact": True}))
    assert [each.batch for each in answer(searcher, jobs)] == [5] * 10 + [1]


def test_errors_stay_with_their_job(searcher):
    good = Job("lookup", ASKED[:2], k=3)
    bad = np.array([[1, 2, np.inf, 4, 5]], np.float32)
    jobs = [
        good,
        Job("lookup", bad, k=3),
        Job("lookup", ASKED[:, :3], k=3),
        Job("lookup", ids=["i1", "nobody"], k=3),
        Job("lookup", ids=["i1"], k=3),
        Job("match", ASKED[:1], k=3, options={"cutpoint": "none such"}),
        Job("lookup", ASKED[:1], k=3, options={"where": "x"}),
        Job("lookup", ASKED[:1], k=3, options={"target_recall": 0.9}),
        Job("lookup", ASKED[:1], k=3, options={"metadata": ["unknown"]}),
        Job("lookup", ids=[], k=3),
        Job("lookup", ASKED[:1], k=0),
        good,
    ]
    found = answer(searcher, jobs)
    assert [each.error is None for each in found] == [at in (0, 4, 11) for at in range(len(jobs))]
    alone = answer(searcher, [good])[0].body
    assert found[0].body == found[11].body == alone
    said = [str(each.error) for each in found if each.error is not None]
    for text, part in zip(
        said, ["infinite", "dim 3", "'nobody'", "none such", "column", "profile", "'unknown'", "ids", "k is 0"], strict=True
    ):
        assert part in text
    assert results(found[4])[0]["query"] == "i1"


def test_a_fault_of_ours_is_told_to_each(searcher, monkeypatch):
    monkeypatch.setattr(Searcher, "lookup", lambda *_, **__: 1 / 0)
    found = answer(searcher, [Job("lookup", ASKED[:1]), Job("lookup", ASKED[:2]), Job("items", ids=["i1"])])
    assert [type(each.error) for each in found] == [ZeroDivisionError, ZeroDivisionError, type(None)]


def test_items(searcher):
    (found,) = answer(searcher, [Job("items", ids=["i8", "i7", "i8"])])
    items = document(found)["items"]
    assert [(each["id"], each["label"], each["metadata"]) for each in items] == [
        ("i8", "l3", {"number": 8}),
        ("i7", None, {"number": 7}),
        ("i8", "l3", {"number": 8}),
    ]
    assert all("i8" in searcher.partition(each["partition"]).rows.ids.to_pylist() for each in items if each["id"] == "i8")


def test_samples_are_in_order_of_the_hash(searcher, tmp_path):
    def sample(searcher: Searcher, **how) -> list[str]:
        (found,) = answer(searcher, [Job("sample", **how)])
        return [each["id"] for each in document(found)["items"]]

    everything = sample(searcher, k=1000)
    assert sorted(everything) == sorted(f"i{row}" for row in range(300))
    assert sample(searcher, k=5) == everything[:5]
    labels = {f"i{row}": None if row % 7 == 0 else f"l{row % 5}" for row in range(300)}
    assert sample(searcher, k=9, options={"label": "l2"}) == [name for name in everything if labels[name] == "l2"][:9]
    assert sample(searcher, k=9, options={"label": "none such"}) == []
    make_release(tmp_path, VECTORS, replace(Router(1)))
    assert sample(open_release(tmp_path), k=1000) == everything, "however the items lie in partitions"


def test_thinned_thresholds_keep_ends_and_cutpoints():
    distance = np.concatenate([np.sort(RANDOM.gamma(2.0, size=5000)), [np.inf, np.nan]])
    keep = [float(distance[17]), float(distance[4000]) + 1e-9]
    rows = thinned(distance, keep, most=512)
    assert len(rows) <= 512
    assert {0, 17, 4000, 4999} <= set(rows.tolist())
    assert (np.diff(distance[rows]) >= 0).all()
    assert np.isfinite(distance[rows]).all()
    assert np.diff(rows).max() <= 5000 // 250 + 1
    assert thinned(distance[[3, 1, 2]], [], most=512).tolist() == [1, 2, 0]
