"""The report: realistic data from scikit-learn's digits, hostile names, and sizes far beyond them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from simpipe.report.model import THRESHOLD_KEYS, NeighborCard, Projection, QueryCard, ReportData
from simpipe.report.render import render
from simpipe.visualization.confusion_svg import confusion_svg
from simpipe.visualization.embed2d import project
from simpipe.visualization.threshold_curves import thin

VOID = {"meta", "br", "img", "link", "hr", "input", "wbr"}


UNSEEN = ("8", "9")


class Balanced(HTMLParser):
    """Collects mistakes in nesting, and all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.mistakes
    assert not parser.open
    return parser


def check_page(page: str) -> Balanced:
    """Well formed, self-contained, below 5 MB, without repeated ids or leftovers of Python."""
    assert len(page.encode()) < 5_000_000
    parser = parse(page)
    ids = [value for _, name, value in parser.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in parser.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not [tag for tag, _, _ in parser.attributes if tag in ("script", "link", "iframe")]
    assert "<script" not in page
    assert not re.search(r"url\((?!['\"]?(#|data:))|@import", page)
    namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http://" not in namespaces
    assert "https://" not in namespaces
    text = " ".join(parser.text)
    assert not re.search(r"\bNone\b|\bnan\b|Undefined|np\.", text), "Python leaks into the text"
    return parser


def curves(distances: np.ndarray, hits: np.ndarray, thresholds: np.ndarray) -> dict[str, list[float]]:
    """The values of `THRESHOLD_KEYS` at each threshold, for nearest distances and whether their label is right."""
    order = np.argsort(distances)
    counts = np.searchsorted(distances[order], thresholds, side="right")
    near_right = np.concatenate([[0], np.cumsum(hits[order])])[counts]
    near_wrong = counts - near_right
    precision = np.where(counts > 0, near_right / np.maximum(counts, 1), 1.0)
    recall = near_right / hits.sum()
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    accuracy = (near_right + (~hits).sum() - near_wrong) / len(hits)
    columns = (thresholds, precision, recall, f1, accuracy)
    return {key: column.tolist() for key, column in zip(THRESHOLD_KEYS, columns, strict=True)}


def digits_data() -> ReportData:
    """Digits by their raw pixels: exact nearest neighbors by cosine distance, 10 % of them queries."""
    digits: Any = load_digits()
    images = (digits.images * 15.9375).astype(np.uint8)[..., None]
    labels = digits.target.astype(str).astype(object)
    rng = np.random.default_rng(0)
    pixels = digits.data + rng.normal(0, 3.5, digits.data.shape)  # blurs the classes: perfect results show little
    vectors = (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).astype(np.float32)
    is_query = rng.random(len(labels)) < 0.2
    queries, items = np.flatnonzero(is_query), np.flatnonzero(~is_query)
    distances = 1 - vectors[queries] @ vectors[items].T
    order = np.argsort(distances, axis=1)[:, :5]
    nearest = np.take_along_axis(distances, order, 1)
    found = items[order]
    hits = labels[found[:, 0]] == labels[queries]
    thresholds = curves(nearest[:, 0], hits, np.sort(nearest[:, 0]).astype(float))

    def cutpoint(name: str, row: int) -> dict[str, Any]:
        return {"name": name, **{key: thresholds[key][row] for key in THRESHOLD_KEYS}}

    best = int(np.argmax(thresholds["f1"]))
    precise = int(np.flatnonzero(np.asarray(thresholds["precision"]) >= 0.99)[-1])
    cutpoints = [
        cutpoint("optimal", best),
        cutpoint("precision>=0.99", precise),
        cutpoint("recall>=0.95", int(np.searchsorted(thresholds["recall"], 0.95))),
    ]
    limit = cutpoints[0]["distance"]
    names = [str(i) for i in range(10)]
    confusion = np.zeros((10, 11), np.int64)
    for i, query in enumerate(queries):
        confusion[int(labels[query]), int(labels[found[i, 0]]) if nearest[i, 0] <= limit else 10] += 1
    wrong_first = np.argsort(hits, kind="stable")[:3]
    far = np.argsort(-nearest[:, 0])[:2]
    cards = [
        QueryCard(
            id=f"digits-{queries[i]:05d}",
            label=labels[queries[i]],
            matched_label=labels[found[i, 0]] if nearest[i, 0] <= limit else None,
            cutpoint="optimal",
            image=images[queries[i]],
            neighbors=[
                NeighborCard(
                    id=f"digits-{found[i, k]:05d}",
                    label=labels[found[i, k]],
                    distance=float(nearest[i, k]),
                    rank=k + 1,
                    correct=bool(labels[found[i, k]] == labels[queries[i]]),
                    passes_cutpoint=bool(nearest[i, k] <= limit),
                    image=images[found[i, k]],
                )
                for k in range(5)
            ],
        )
        for i in dict.fromkeys([*wrong_first, *far, *range(5, 12)])
    ][:10]
    drawn = items[::4]
    points, method, explained = project(vectors[drawn], seed=0)
    splits = {
        "train": {name: int((labels[items] == name).sum()) for name in names if name not in UNSEEN},
        "index": {name: int((labels[items] == name).sum()) for name in UNSEEN},
        "query": {name: int((labels[queries] == name).sum()) for name in names},
    }
    epochs = np.arange(1, 13)
    return ReportData(
        title="digits",
        release="20261122T031500Z-3f9c2a",
        created="2026-11-22 03:15 UTC",
        facts=[
            ("items", str(len(items))),
            ("partitions", "4 (k-means router)"),
            ("backend", "scann: leaves 40, leaves_to_search 8, reorder 100"),
            ("dim", "64"),
            ("distance", "cosine"),
            ("encoder fingerprint", "9f2c51d0b7a4e86d3f10c2b9a8e7d6c5b4a39281706f5e4d3c2b1a0f9e8d7c6b"),
        ],
        splits={split: sum(by_class.values()) for split, by_class in splits.items()},
        class_counts=splits,
        history={
            "loss": list(0.9 / epochs + 0.05),
            "val_loss": list(0.9 / epochs + 0.12),
            "mean_positive_distance": list(0.5 / epochs),
            "learning_rate": list(1e-3 * np.cos(epochs / 12)),
        },
        thresholds=thresholds,
        cutpoints=cutpoints,
        metrics={
            "label_precision_at_1": float(hits.mean()),
            "label_precision_at_5": float((labels[found] == labels[queries][:, None]).mean()),
            "ann_recall_at_10": 0.99711,
            "queries": len(queries),
            "search_p99_ms": 3.25,
        },
        confusion_labels=names,
        confusion=confusion,
        confusion_cutpoint="optimal",
        queries=cards,
        projection=Projection(points, list(labels[drawn]), [label in UNSEEN for label in labels[drawn]], method, explained),
        unseen_classes=list(UNSEEN),
    )


@pytest.fixture(scope="module")
def data() -> ReportData:
    return digits_data()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def test_page_is_whole_and_self_contained(page: str) -> None:
    parser = check_page(page)
    sections = [value for tag, name, value in parser.attributes if tag == "section" and name == "id"]
    assert sections == ["cutpoints", "metrics", "search", "queries", "confusion", "projection", "data", "training", "release"]
    assert page.count("<svg") == 5
    assert "nothing from elsewhere" in page


def test_same_input_same_bytes(data: ReportData, page: str) -> None:
    assert render(data) == page


def test_summary_strip_comes_first(data: ReportData, page: str) -> None:
    strip = page[page.index('<dl class="strip">') : page.index("</dl>")]
    for key, value in (("label precision@1", data.metrics["label_precision_at_1"]), ("ANN recall@10", 0.9971)):
        assert key in strip
        assert f"{value:.4f}" in strip
    assert f"{int(data.facts[0][1]):,}" in strip
    for key in ("distance", "precision", "recall"):
        assert f"{data.cutpoints[0][key]:.4f}" in strip


def test_cutpoints_are_marked_with_name_and_value(data: ReportData, page: str) -> None:
    plot = page[page.index("<svg") : page.index("</svg>")]
    for point in data.cutpoints:
        assert f"{point['name'].replace('>', '&gt;')}: {point['distance']:.4f}" in plot


def test_wrong_and_far_neighbors_are_marked(data: ReportData, page: str) -> None:
    cards = [neighbor for query in data.queries for neighbor in query.neighbors]
    wrong = sum(not neighbor.correct for neighbor in cards)
    far = sum(not neighbor.passes_cutpoint for neighbor in cards)
    assert wrong >= 3
    assert far >= 5
    classes = re.findall(r'<li class="card([^"]*)"', page)
    assert len(classes) == len(cards) == 50
    assert sum("wrong" in name for name in classes) == wrong
    assert sum("beyond" in name for name in classes) == far
    assert page.count('<span class="mark">✗ wrong</span>') == wrong
    assert page.count("beyond cutpoint</span>") == far
    assert page.count('class="pixels"') == 60


def test_confusion_counts_are_in_the_cells(data: ReportData) -> None:
    svg = confusion_svg(data.confusion_labels, data.confusion)
    shown = re.findall(r">(\d+)</text>", svg)
    for count in np.unique(data.confusion[data.confusion > 0]):
        assert str(count) in shown
    assert ">match</text>" in svg


def test_labels_are_escaped(data: ReportData) -> None:
    evil = '<script>alert("x")</script>&$a_b$\x00'
    hostile = replace(
        data,
        title=evil,
        release=evil,
        facts=[(evil, evil)],
        splits={evil: 3},
        class_counts={evil: {evil: 3}},
        history={evil: [1.0, 2.0]},
        cutpoints=[{**data.cutpoints[0], "name": evil}],
        metrics={evil: 1.0},
        confusion_labels=[evil, *data.confusion_labels[1:]],
        queries=[QueryCard(evil, evil, evil, evil, [NeighborCard(evil, evil, 0.1, 1, True, True)])],
        projection=Projection(np.eye(2, dtype=np.float32), [evil, "b"], [True, False], "PCA", evil),
        unseen_classes=[evil],
        not_in_index_classes=[evil],
        distance=evil,
    )
    page = render(hostile)
    check_page(page)
    assert "&lt;script&gt;" in page


def test_without_history_pictures_and_calibration(data: ReportData) -> None:
    bare = [replace(q, image=None, neighbors=[replace(n, image=None) for n in q.neighbors]) for q in data.queries]
    lonely = QueryCard("alone", None, None, "optimal", [])
    unlabelled = replace(bare[0], label=None, neighbors=[replace(n, correct=False) for n in bare[0].neighbors])
    page = render(
        replace(data, history={}, thresholds={}, cutpoints=[], queries=[*bare[3:], lonely, unlabelled], projection=None)
    )
    parser = check_page(page)
    assert "<img" not in page
    assert page.count("✗ wrong</span>") == sum(not n.correct for q in bare[3:] for n in q.neighbors)
    assert "label unknown" in page
    text = " ".join(parser.text)
    for words in ("the vectors were ready-made", "not calibrated", "No projection", "returned no neighbor", "digits-"):
        assert words in text


def test_empty_report() -> None:
    page = render(ReportData(title="empty", release="r", created="now"))
    check_page(page)
    assert "<svg" not in page


@pytest.mark.parametrize("count", [1, 5])
def test_one_epoch_one_threshold_one_class(data: ReportData, count: int) -> None:
    tiny = replace(
        data,
        history={"loss": [0.5], "val_loss": [float("nan")]},
        thresholds={key: [0.5] for key in THRESHOLD_KEYS},
        cutpoints=[{"name": f"c{i}", "distance": 0.5, "precision": None, "f1": float("nan")} for i in range(count)],
        confusion_labels=["only"],
        confusion=np.asarray([[0, 3]]),
        projection=Projection(np.zeros((1, 2), np.float32), ["only"], [False], "PCA", "one"),
    )
    check_page(render(tiny))


def test_thousand_classes_and_hundred_thousand_thresholds(data: ReportData) -> None:
    rng = np.random.default_rng(1)
    n, classes = 100_000, [f"alphabet-{i // 20}/character-{i % 20:02d}" for i in range(1000)]
    distances = np.sort(rng.gamma(2.0, 0.1, n))
    hits = rng.random(n) > distances
    thresholds = curves(distances, hits, distances)
    rows = [5_000, 50_000, 50_001, 99_000]
    cutpoints = [{"name": f"c{row}", **{key: thresholds[key][row] for key in THRESHOLD_KEYS}} for row in rows]
    confusion = rng.poisson(0.004, (1000, 1001)) + np.eye(1000, 1001, dtype=np.int64) * rng.integers(2, 20, (1000, 1))
    labels = [classes[i] for i in rng.integers(0, 1000, 8000)]
    photo = rng.integers(0, 255, (300, 400, 3)).astype(np.uint8)
    big = replace(
        data,
        class_counts={split: {name: int(rng.integers(1, 900)) for name in classes} for split in ("train", "query")},
        thresholds=thresholds,
        cutpoints=cutpoints,
        confusion_labels=classes,
        confusion=confusion.astype(np.int64),
        queries=[
            replace(query, image=photo, neighbors=[replace(neighbor, image=photo) for neighbor in query.neighbors])
            for query in data.queries
        ],
        projection=Projection(
            rng.normal(size=(8000, 2)).astype(np.float32), labels, [len(x) % 2 == 0 for x in labels], "PCA", ""
        ),
        unseen_classes=classes,
    )
    page = render(big)
    check_page(page)
    assert "Classes with the worst recall" in page
    assert "980 more" in page
    thinned = thin(thresholds, [point["distance"] for point in cutpoints])
    assert len(thinned["distance"]) < 1000
    assert np.isin([point["distance"] for point in cutpoints], thinned["distance"]).all()
    assert np.nanmax(thinned["f1"]) == np.nanmax(thresholds["f1"])
