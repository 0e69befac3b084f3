"""Every drawing of the report names its axes with their units, and has its numbers in a table."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from xml.etree import ElementTree

import numpy as np
import pytest
from report_data import confusion_data, report_data, section, words_of
from test_report import check_page

from simpipe.report import calibration, formats, tables
from simpipe.report.model import Projection, ReportData
from simpipe.report.render import render

SVG = "{http://www.w3.org/2000/svg}"


def with_everything(classes: int) -> ReportData:
    """A report with each drawing that there is; with few classes bars and the whole confusion, with many the others."""
    names = [f"class-{i:02d}" for i in range(classes)]
    labels, confusion = confusion_data(classes)
    rng = np.random.default_rng(classes)
    of = [names[i % classes] for i in range(3 * classes)]
    return replace(
        report_data(),
        class_counts={split: {name: int(rng.integers(1, 900)) for name in names} for split in ("train", "index", "query")},
        confusion_labels=labels,
        confusion=confusion,
        history={"loss": [0.5, 0.25], "val_loss": [0.75, 0.5], "recall_at_1": [0.25, 0.875], "learning_rate": [0.01, 0.005]},
        projection=Projection(
            rng.normal(size=(len(of), 2)).astype(np.float32), of, [name > "class-05" for name in of], "PCA", ""
        ),
    )


@pytest.fixture(scope="module", params=[7, 40])
def whole(request: pytest.FixtureRequest) -> tuple[ReportData, str]:
    data = with_everything(request.param)
    return data, render(data)


class Tables(HTMLParser):
    """The cells of each table that has an id, row by row, and the figures' references to them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: list[str | None] = []
        self._rows: list[list[str]] | None = None
        self._cell = False
        self.feed(re.sub(r"<svg.*?</svg>", "", page, flags=re.S))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "figure" and "plot" in (found.get("class") or "").split():
            self.figures.append(found.get("aria-details"))
        elif tag == "table":
            self._rows = self.tables.setdefault(str(found["id"]), []) if "id" in found else []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("th", "td") and self._rows is not None:
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._cell and self._rows is not None:
            self._rows[-1][-1] += data


def axis_names(group: ElementTree.Element, axis: str) -> list[str]:
    found = [each for each in group.iter(f"{SVG}g") if each.get("class") == axis]
    return [" ".join(text.text or "" for text in each.iter(f"{SVG}text")) for each in found]


def test_every_drawing_names_its_axes_and_their_units(whole: tuple[ReportData, str]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", whole[1], flags=re.S)
    assert len(drawings) == 8
    for text in drawings:
        root = ElementTree.fromstring(text)
        panels = [group for group in root.iter(f"{SVG}g") if group.get("class") == "panel"]
        assert panels
        for axis in ("axis-x", "axis-y"):
            every = axis_names(root, axis)
            shared = len(every) - sum(len(axis_names(panel, axis)) for panel in panels)
            for panel in panels:
                assert len(axis_names(panel, axis)) + shared == 1, (root.get("aria-label"), axis)
            for name in every:
                assert re.fullmatch(r"\S.+ \(.+\)", name), f"{name!r} has no unit"


def test_every_drawing_has_its_numbers_in_a_table(whole: tuple[ReportData, str]) -> None:
    found = Tables(whole[1])
    assert len(found.figures) == whole[1].count("<svg") == len(set(found.figures))
    for name in found.figures:
        assert name in found.tables
        rows = found.tables[name]
        assert len(rows) >= 2
        assert len({len(row) for row in rows}) == 1
        assert all(cell.strip() for row in rows for cell in row), name


def test_the_numbers_are_those_of_the_drawing(whole: tuple[ReportData, str]) -> None:
    data, page = whole
    found = Tables(page).tables
    assert [row[1:] for row in found["training-table"][1:]] == [
        ["0.5000", "0.7500", "0.2500", "0.0100"],
        ["0.2500", "0.5000", "0.8750", "0.0050"],
    ]
    few = len(data.confusion_labels) <= 30
    cells = found["confusion-table" if few else "worst-table"][1:]
    place = {name: i for i, name in enumerate(data.confusion_labels)}
    for name, *counts in cells:
        row = data.confusion[place[name]]
        assert sum(map(int, counts)) == row.sum()
        assert int(counts[[each[0] for each in cells].index(name)]) == row[place[name]]
        assert int(counts[-1]) == row[-1]
    sizes = {split: sorted(by.values(), reverse=True) for split, by in data.class_counts.items()}
    for first, *counts in found["classes-table"][1:]:
        if few:
            assert counts == [str(by[first]) for by in data.class_counts.values()]
        else:
            assert counts == [str(values[int(first) - 1]) for values in sizes.values()]
    assert data.projection is not None
    points, names = data.projection.points, np.asarray(data.projection.labels)
    for name, count, x, y, seen in found["projection-table"][1:]:
        middle = np.median(points[names == name], axis=0)
        assert int(count) == 3
        np.testing.assert_allclose([float(each.replace(formats.MINUS, "-")) for each in (x, y)], middle, atol=1e-4)
        assert seen == ("never seen" if name > "class-05" else "seen")
    assert data.calibration is not None
    assert data.calibration.scores is not None
    for column, counts in zip((2, 4, 6), data.calibration.scores.counts.values(), strict=True):
        assert sum(int(row[column]) for row in found["distances-table"][1:]) == counts.sum()


def test_intervals_stand_in_a_table(whole: tuple[ReportData, str]) -> None:
    part = whole[0].calibration
    assert part is not None
    table = calibration.band_table(part.curves)
    assert table.columns == ["precision", "recall", "F1", "binary accuracy", "recall of all"]
    ends = [distance for distance, _ in table.rows]
    assert (ends[0], ends[-1]) == (part.curves["distance"][0], part.curves["distance"][-1])
    text = words_of(section(whole[1], "cutpoints"))
    for _, cells in table.rows:
        assert cells[0] in text
    assert calibration.band_table({}).rows == []


def test_the_report_has_the_page_s_look(whole: tuple[ReportData, str]) -> None:
    look = resources.files("simpipe.visualization").joinpath("components.css").read_text(encoding="utf-8")
    assert look in whole[1]
    own = resources.files("simpipe.report").joinpath("style.html").read_text(encoding="utf-8")
    rules = set(re.findall(r"^(\S[^{]*?) \{", look, flags=re.M)) & set(re.findall(r"^(\S[^{]*?) \{", own, flags=re.M))
    assert not {rule for rule in rules if not rule.startswith("@")}, "said twice"
    check_page(whole[1])


def test_long_tables_are_thinned() -> None:
    names = [f"c{i}" for i in range(1000)]
    ranks = tables.rank_rows({"train": {name: i for i, name in enumerate(names)}}, names)
    assert len(ranks) <= 24
    assert ranks[0] == (1, [999])
    assert ranks[-1] == (1000, [0])
    points = Projection(np.zeros((1500, 2), np.float32), [f"c{i % 1000}" for i in range(1500)], [False] * 1500, "PCA", "")
    rows = tables.projection_rows(points, names, limit=50)
    assert [row.points for row in rows] == [2] * 50
    assert tables.rank_rows({}, []) == []
