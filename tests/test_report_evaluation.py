"""Evaluation in the report: from the files of a release to the page."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from report_data import cutpoint, metrics_record, neighbors_of, record_of, report_data, section, words_of
from test_report import check_page

from simpipe.report import evaluation, formats
from simpipe.report.cards import first_wrong, labels_of, mistakes_of, query_cards
from simpipe.report.from_files import calibration_part, evaluation_part, listed_first
from simpipe.report.model import THRESHOLD_KEYS, ReportData
from simpipe.report.parts import ClassRow
from simpipe.report.render import render
from simpipe.visualization.confusion_svg import MAX_CLASSES, confusion_svg

EVIL = '<script>alert("x")</script>&$a_b$'


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def test_metrics_with_macro_error_and_latency(page: str) -> None:
    text = words_of(section(page, "metrics"))
    for words in (
        "label precision@1 0.9143 0.8977", "MAP@R 0.7312 0.7105",
        f"ANN recall@10 0.9812 ± 0.0017 {formats.MISSING}", "48 (9.6% of the labelled)",
        "520 queries, 500 with a label",
        "300 were searched exactly too", "one query at a time 0.4100 ms 0.7200 ms 1.9300 ms", "in blocks of 1,000 38.20 µs",
    ):  # fmt: skip
        assert words in text


def test_worst_classes_and_their_mistakes(page: str) -> None:
    html = section(page, "classes")
    text = words_of(html)
    assert "30 100 0.3000 0.2100 class- 09 (11), no match (3)" in text
    assert html.count("<img") == 4
    assert "rank 1 · 0.1000" in text
    assert "rank 1 · 0.3000 · beyond cutpoint" in text


def test_slices_and_partitions(page: str) -> None:
    assert "no value 5 0.6000" in words_of(section(page, "slices"))
    html = section(page, "partitions")
    assert "lowest: 0.8967" in html
    first = words_of(html.split("Lowest recall")[1])
    assert first.split("recall", 1)[1].split()[:5] == ["5", "1,005", "300", "269", "0.8967"]


def test_confusion_of_the_worst_keeps_every_query(data: ReportData) -> None:
    worst = ["class-07", "class-03", "class-39"]
    labels, counts, others = evaluation.worst_confusion(data, worst)
    assert set(worst) <= set(labels)
    assert len(labels) <= MAX_CLASSES
    place = {label: i for i, label in enumerate(data.confusion_labels)}
    for row, label in enumerate(labels):
        assert counts[row].sum() + others[row] == data.confusion[place[label]].sum()
        assert counts[row, row] == data.confusion[place[label], place[label]]
    rows = [place[label] for label in worst]
    missed = [i for i in range(40) if data.confusion[rows, i].sum() and data.confusion_labels[i] not in labels]
    assert not missed, "everything that they are confused with has room here"
    ElementTree.fromstring(confusion_svg(labels, counts, others))


def test_labels_kept_where_there_are_too_many() -> None:
    worst = [ClassRow("d", 1, 1, {}, [("b", 2), (None, 1)])]
    assert listed_first(list("abcd"), worst, 3) == ["a", "b", "d"]
    assert listed_first(list("abcd"), [], 2) == ["a", "b"]
    assert listed_first(list("abcd"), worst, 1) == ["b"]


def test_cards() -> None:
    neighbors = neighbors_of()
    assert first_wrong(neighbors, 0, "a") == 1
    assert first_wrong(neighbors, 1, "class-09") == 2
    cards = query_cards(["q1", "q2"], ["a", None], neighbors, ["a", None], limit=np.float32(0.1), depth=2, indexed={"a"})
    assert [[card.id for card in query.neighbors] for query in cards] == [["i1", "i2"], ["i3", "i4"]]
    assert [card.passes_cutpoint for card in cards[0].neighbors] == [True, False], "float32 against float32"
    assert [query.correct for query in cards] == [True, None]
    assert labels_of(cards)["i2"] == "class-09"
    assert mistakes_of(["z"], ["q1"], ["a"], neighbors, [0], each=2, limit=np.float32(1)) == []


def test_names_are_escaped(data: ReportData) -> None:
    record = json.loads(json.dumps(record_of()))
    record["matcher"] = EVIL
    record["cutpoints"] = {EVIL: {**cutpoint("optimal", "f1", 0.4), "name": EVIL, "metric": EVIL}}
    record["matchers"] = {EVIL: {**record_of(), "matcher": EVIL}}
    record["by"] = {"column": EVIL, "groups": 1, "file": "x", "min_queries": 50}
    record["probability"]["method"] = EVIL
    groups = pa.table({"value": [EVIL, None], "cutpoint": [EVIL] * 2, "distance": [0.1] * 2, "queries": [9] * 2, "hits": [8] * 2})
    evaluated = metrics_record()
    evaluated["macro"] = {EVIL: 1.0}
    evaluated["slices"] = {EVIL: [{"value": EVIL, "queries": 3, EVIL: 0.5}]}
    evaluated["worst_classes"] = [{"label": EVIL, "queries": 1, "items": 1, EVIL: 0.5, "most_confused_with": [[EVIL, 3]]}]
    evaluated["latency"]["single_ms"] = {EVIL: 1.0}
    part = evaluation_part(evaluated)
    assert data.evaluation is not None
    (each,) = data.evaluation.mistakes
    cards = [
        replace(card, id=EVIL, label=EVIL, neighbors=[replace(n, id=EVIL, label=EVIL) for n in card.neighbors])
        for card in each.cards
    ]
    hostile = replace(
        data,
        cutpoints=list(record["cutpoints"].values()),
        calibration=calibration_part(record, groups=groups),
        evaluation=replace(part, mistakes=[replace(each, label=EVIL, cards=cards)]),
    )
    page = render(hostile)
    check_page(page)
    assert "&lt;script&gt;" in page


def test_older_releases_leave_sections_out(data: ReportData) -> None:
    old = {key: record_of()[key] for key in ("matcher", "k", "metric", "queries", "labelled")}
    old["cutpoints"] = {"optimal": {"name": "optimal", **dict.fromkeys(THRESHOLD_KEYS, 0.5)}}
    evaluated = {key: metrics_record()[key] for key in ("metrics", "k", "queries", "labelled", "confusion")}
    page = render(
        replace(
            data,
            cutpoints=list(old["cutpoints"].values()),
            calibration=calibration_part(old),
            evaluation=evaluation_part(evaluated),
        )
    )
    check_page(page)
    for name in ("distances", "probability", "groups", "classes", "slices", "partitions"):
        assert f'id="{name}"' not in page
        assert f"#{name}" not in page
    for words in ("intervals", "open-set", "mean over classes", "Latency", "recall of all"):
        assert words not in page
