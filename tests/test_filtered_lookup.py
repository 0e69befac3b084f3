"""Filtered queries against brute force: over partitions, spilled copies and hidden rows, by exact scan and by over-fetch."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered
from filter_releases import Case, make_case

from simpipe.cli import main
from simpipe.config.index import ColumnRouter, ExactBackend, KMeansRouter
from simpipe.errors import QueryError
from simpipe.index import filtered
from simpipe.index.memory import MemoryIndex
from simpipe.index.router import Router, fit_column_router, fit_router
from simpipe.queries import Queries, answers

N, GONE, K = 900, 60, 7
FILTERS = {
    '{"number": {"gte": 100, "lt": 500}}': ("number", lambda value: 100 <= value < 500),
    '{"price": {"gt": 12}}': ("price", lambda value: value > 12),
    '{"brand": {"in": ["ç", "日本"]}}': ("brand", lambda value: value in ("ç", "日本")),
    '{"brand": {"prefix": "a"}}': ("brand", lambda value: value.startswith("a")),
    '{"name": {"prefix": "name-08"}}': ("name", lambda value: value.startswith("name-08")),
    '{"sold": true}': ("sold", lambda value: value),
    '{"label": "l3"}': ("label", lambda value: value == "l3"),
    '{"number": {"in": [70, 71, 72]}}': ("number", lambda value: value in (70, 71, 72)),
    '{"day": {"gte": "1970-06-01", "lt": "1971-01-01"}}': ("day", lambda value: date(1970, 6, 1) <= value < date(1971, 1, 1)),
    '{"number": {"lt": 10000}}': ("number", lambda value: True),
}


def kmeans(vectors: np.ndarray, partitions: int, **how) -> Router:
    return fit_router(vectors, KMeansRouter(kind="kmeans", partitions=partitions, **how), seed=0)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(N)[0]


@pytest.fixture(scope="module")
def queries(vectors) -> np.ndarray:
    return vectors[::20] + np.float32(0.01)


@pytest.fixture(scope="module")
def spilled(tmp_path_factory, vectors) -> Case:
    router = kmeans(vectors, 12, spill="nearest", spill_factor=1.6)
    case = make_case(tmp_path_factory.mktemp("spilled"), vectors, router, gone=GONE)
    assert sum(case.searcher.partition_rows) > case.searcher.items
    assert len(case.searcher.partition_rows) > 10
    return case


@pytest.fixture(params=["scan", "fetch"])
def way(request, monkeypatch) -> str:
    """Either way, whatever it costs."""
    monkeypatch.setattr(filtered, "_PRODUCT", 0.0 if request.param == "scan" else 1e9)
    monkeypatch.setattr(filtered, "_GATHER", 0.0)
    monkeypatch.setattr(filtered, "_CALL", 0.0)
    return request.param


def check(case: Case, found, queries: np.ndarray, fits: np.ndarray, k: int = K) -> None:
    for row, query in enumerate(queries):
        wanted = case.nearest(query, k, fits)
        assert [name for name in found.ids[row] if name is not None] == wanted
        assert found.valid[row].sum() == len(wanted)


@pytest.mark.parametrize("text", FILTERS)
def test_the_nearest_that_fit(spilled, queries, way, text):
    name, test = FILTERS[text]
    fits = spilled.fits(name, test)
    found = spilled.searcher.lookup_filtered(queries, K, json.loads(text))
    check(spilled, found.neighbors, queries, fits)
    matching = int(fits[GONE:].sum())
    assert found.about.matching == matching
    assert found.about.short == (matching < K)
    if way == "scan":
        assert (found.about.how, found.about.scanned) == ("exact scan", len(queries))
    elif matching > N // 2:
        assert found.about.how == "over-fetch"
        assert found.about.scanned < len(queries)


def test_missing_values(spilled, queries):
    for name in ("price", "brand", "sold", "label"):
        fits = np.array([value is None or value != value for value in spilled.columns[name]])
        check(spilled, spilled.searcher.lookup(queries, K, filter={name: None}), queries, fits)


def test_columns_are_joined_by_and(spilled, queries):
    asked = {"sold": False, "price": {"lt": 10}, "brand": {"in": ["a", None]}}
    fits = spilled.fits("sold", lambda value: value is False) | np.array([value is False for value in spilled.columns["sold"]])
    fits &= spilled.fits("price", lambda value: value < 10)
    fits &= np.array([value in ("a", None) for value in spilled.columns["brand"]])
    check(spilled, spilled.searcher.lookup(queries, K, filter=asked), queries, fits)


def test_exact_is_an_exact_scan(spilled, queries, monkeypatch):
    monkeypatch.setattr(filtered, "_PRODUCT", 1e9)
    found = spilled.searcher.lookup_filtered(queries, K, {"number": {"lt": 10000}}, exact=True)
    assert found.about.how == "exact scan"
    check(spilled, found.neighbors, queries, np.ones(N, bool))


def test_none_match(spilled, queries):
    found = spilled.searcher.lookup_filtered(queries, K, {"number": {"gt": 10000}})
    assert (found.about.how, found.about.matching, found.about.short) == ("none match", 0, True)
    assert found.about.pruned == len(spilled.searcher.partition_rows)
    assert not found.neighbors.valid.any()


def test_hidden_items_never_answer(spilled, queries):
    assert spilled.searcher.lookup_filtered(queries, K, {"number": {"lt": GONE}}).about.how == "none match"


def test_items_that_ask_stand_first_where_they_fit(spilled):
    ids = [f"i{row}" for row in (100, 101, 300, 899)]
    found = spilled.searcher.lookup_items(ids, 4, filter={"number": {"lt": 300}})
    fits = spilled.fits("number", lambda value: value < 300)
    for row, name in enumerate(ids):
        query = spilled.vectors[int(name[1:])]
        assert found.ids[row].tolist() == spilled.nearest(query, 4, fits)
    left = spilled.searcher.lookup_filtered(spilled.searcher.vectors_of(ids), 4, {"number": {"lt": 300}}, query_ids=ids)
    for row, name in enumerate(ids):
        assert name not in left.neighbors.ids[row]
        assert left.neighbors.valid[row].all()


def test_over_fetch_that_finds_too_little_is_not_trusted(spilled, queries, monkeypatch):
    monkeypatch.setattr(filtered, "_PRODUCT", 1e9)
    setting = spilled.searcher.setting_for(probes=1)
    monkeypatch.setattr(filtered, "_EFFORT", 1)
    monkeypatch.setattr(filtered.FilteredSearch, "_depth", K)
    asked = {"number": {"gte": 0, "lt": 890}}
    fits = spilled.fits("number", lambda value: value < 890)
    rng = np.random.default_rng(0)
    between = rng.normal(size=(64, spilled.vectors.shape[1])).astype(np.float32) * np.abs(spilled.vectors).max()
    for _ in range(2):
        found = spilled.searcher.lookup_filtered(between, K, asked, setting=setting)
        check(spilled, found.neighbors, between, fits)
    assert found.about.how == "exact scan"


def test_a_column_router_prunes_all_other_values(tmp_path, vectors, queries):
    values = [f"v{row % 3}" for row in range(N)]
    counts = {name: values.count(name) for name in set(values)}
    router = fit_column_router(counts, ColumnRouter(kind="column", column="number"), cap=150)
    case = make_case(tmp_path, vectors, router, values=values)
    own = np.array([value == "v1" for value in values])
    asked = {"price": {"gt": 8}}
    fits = case.fits("price", lambda value: value > 8) & own
    check(case, case.searcher.lookup(queries, K, where="v1", filter=asked), queries, fits)
    mixed = [None if row % 2 else "v1" for row in range(len(queries))]
    found = case.searcher.lookup(queries, K, where=mixed, filter=asked)
    check(case, found.take(slice(0, None, 2)), queries[::2], fits)
    check(case, found.take(slice(1, None, 2)), queries[1::2], case.fits("price", lambda value: value > 8))


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_rounded_vectors_answer_as_they_are_stored(tmp_path, vectors, queries, storage):
    case = make_case(tmp_path, vectors, Router(2), storage=storage, distance="cosine")
    asked = {"brand": "ab"}
    found = case.searcher.lookup(queries, 3, filter=asked)
    everything = case.searcher.lookup(queries, N, exact=True)
    brand = dict(zip([f"i{row}" for row in range(N)], case.columns["brand"], strict=True))
    for row in range(len(queries)):
        wanted = [name for name in everything.ids[row] if brand[name] == "ab"][:3]
        assert found.ids[row].tolist() == wanted


def test_an_index_in_memory_knows_labels_only(vectors, queries):
    index = MemoryIndex(vectors.shape[1], distance="euclidean", backend=ExactBackend(kind="exact"))
    index.add(vectors, np.array([f"l{row % 4}" for row in range(N)], object))
    found = index.lookup(queries, K, filter={"label": {"in": ["l1", "l2"]}})
    assert set(found.labels.ravel()) == {"l1", "l2"}
    with pytest.raises(QueryError) as caught:
        index.lookup(queries, K, filter={"number": 1})
    assert caught.value.cure == "there are: label (text)"


def test_records_and_the_command_line_say_how(spilled, queries, capsys):
    asked = Queries(["i100", "i899"], spilled.vectors[[100, 899]], [None, None], own_ids=True, indexed=(True, True))
    given = answers(spilled.searcher, asked, k=3, cutpoint=None, filter={"number": {"lt": 300}})
    assert [next(each["id"] for each in record["neighbors"]) == record["query"] for record in given.results] == [True, False]
    assert all(each["number"] < 300 for record in given.results for each in record["neighbors"])
    assert given.filter is not None
    root = Path(spilled.searcher.folder)
    command = ["lookup", "--root", str(root), "--id", "i100", "-k", "3", "--filter"]
    assert main([*command, '{"number": {"lt": 300}}', "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["filter"]["matching"] == 300 - GONE
    assert [each["id"] for each in said["results"][0]["neighbors"]] == [each["id"] for each in given.results[0]["neighbors"]]
    assert main([*command, '{"number": {"lt": 300}}']) == 0
    assert "filter: exact scan, 240 items fit" in capsys.readouterr().out
    assert main([*command, '{"numbers": 1}']) == 1
    assert "has no column 'numbers'" in capsys.readouterr().err
