"""Calibration in the report: from the files of a release to the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from report_data import DISTANCES, record_of, release_files, report_data, section, words_of
from test_report import check_page

from simpipe.report import calibration, formats
from simpipe.report.from_files import calibration_part, evaluation_part
from simpipe.report.model import ReportData
from simpipe.report.parts import EXTREMES
from simpipe.report.render import render
from simpipe.visualization.partition_recall import MAX_PARTITIONS, partition_recall
from simpipe.visualization.reliability import reliability
from simpipe.visualization.score_distribution import score_distribution
from simpipe.visualization.threshold_curves import threshold_curves


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def test_the_page_is_whole_and_the_same_each_time(data: ReportData, page: str) -> None:
    parser = check_page(page)
    sections = [value for tag, name, value in parser.attributes if tag == "section" and name == "id"]
    assert sections[:7] == ["cutpoints", "distances", "probability", "groups", "metrics", "classes", "slices"]
    for name in sections:
        if name in ("distances", "probability", "groups", "classes", "slices", "partitions"):
            assert f'href="#{name}"' in page
    assert render(data) == page


def test_drawings_are_well_formed_and_named(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(drawings) == 5  # curves, distances, reliability, partitions, confusion of the worst
    for text in drawings:
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert root.get("aria-label")


def test_cutpoints_show_their_intervals(data: ReportData, page: str) -> None:
    text = words_of(section(page, "cutpoints"))
    for point in data.cutpoints:
        for key in ("distance", "precision", "recall", "recall_all", "f1", "fpr", "open_set_fpr"):
            low, high = point["interval"][key]
            digits = 3 if high >= 0.1 else 4
            assert f"{point[key]:.4f} ({low:.{digits}f} to {high:.{digits}f})" in text.replace(formats.MINUS, "-"), (
                point["name"],
                key,
            )
    for words in (
        "95% intervals",
        "Poisson bootstrap",
        "200 replicates",
        "last 2 bits",
        "Reached at no distance, so without a cutpoint: recall_all&gt;=0.999",
        "3.10e-07",
        "48 queries are open-set",
    ):
        assert words in text
    assert "Recall is among queries whose match has the right label; recall of all is among all queries" in text
    assert "Matcher match_majority_vote, k 5" in text


def test_intervals_are_drawn_where_given(data: ReportData) -> None:
    part = data.calibration
    assert part is not None
    assert len(part.curves["distance"]) == len(DISTANCES), "the other matcher's curve stays out"
    bare = [{key: value for key, value in point.items() if key != "interval"} for point in data.cutpoints]
    plain = threshold_curves(data.thresholds, bare)
    strips = threshold_curves(data.thresholds, data.cutpoints)
    banded = threshold_curves(data.thresholds, data.cutpoints, bands=part.curves)

    def filled(svg: str) -> int:
        return svg.count("opacity: 0.17")

    assert (filled(plain), filled(strips), filled(banded)) == (0, 0, 4)
    assert (plain.count("stroke-width: 2.2"), strips.count("stroke-width: 2.2")) == (0, 3)
    assert "with intervals" not in plain
    assert "recall of all" in banded
    assert "recall of all" not in strips


def test_distances_by_kind(data: ReportData, page: str) -> None:
    part = data.calibration
    assert part is not None
    assert part.scores is not None
    rows = {row.kind: row for row in calibration.score_rows(part.scores, 0.4031)}
    drawn = np.repeat((part.scores.low + part.scores.high) / 2, part.scores.counts["right"])
    assert rows["right"].queries == len(drawn)
    assert rows["right"].median == pytest.approx(np.median(drawn), abs=0.011)
    assert rows["right"].within == pytest.approx((drawn <= 0.4031).mean(), abs=0.01)
    assert rows["open set"].median > rows["wrong"].median > rows["right"].median
    text = section(page, "distances")
    for row in rows.values():
        assert f"{row.kind} ({row.queries:,})" in text
        assert formats.number(row.median) in text
        assert f"{row.within:.1%}" in text
    assert "optimal: 0.4031" in text


def test_probability(data: ReportData, page: str) -> None:
    text = words_of(section(page, "probability"))
    assert "isotonic" in text
    assert "0.0234" in text
    assert "0.5100 0.4500 (0.307 to 0.602) 40" in text
    assert "0.7000" not in text, "a bin without queries"


def test_groups_show_the_extremes(data: ReportData, page: str) -> None:
    part = data.calibration
    assert part is not None
    assert part.groups is not None
    assert part.groups.total == 40, "of one cutpoint"
    (_, low), (_, high) = calibration.group_tables(part.groups)
    table = release_files()["groups"].to_pylist()
    distances = sorted(row["distance"] for row in table if row["cutpoint"] == "optimal")
    assert [row["distance"] for row in low] == distances[:EXTREMES]
    assert [row["distance"] for row in high] == distances[::-1][:EXTREMES]
    text = section(page, "groups")
    assert "40 values" in text
    assert "class-<wbr>00" in text


def test_calibrated_without_labels() -> None:
    record = {**record_of(), "cutpoints": {}, "labelled": 0, "open_set": 0, "probability": None, "bootstrap": None, "by": None}
    empty = pa.table({name: pa.array([], pa.string() if name == "matcher" else pa.float64()) for name in ("matcher", "distance")})
    part = calibration_part(record, curves=empty, distributions=None, groups=None)
    assert part.curves == {}
    check_page(render(ReportData("t", "r", "c", calibration=part, evaluation=evaluation_part({"metrics": {}}))))


def test_drawings_of_next_to_nothing() -> None:
    one = np.array([0.5])
    assert score_distribution(one, one, {"right": np.array([0])}) == ""
    ElementTree.fromstring(score_distribution(one, one, {"right": np.array([7]), "wrong": np.array([0])}, ("c", 0.5)))
    assert reliability([0.5], [0.5], [0], [0.0], [1.0]) == ""
    ElementTree.fromstring(reliability([0.5], [1.0], [3], [0.4], [1.0]))
    assert partition_recall([0], [0.9]) == ""
    assert partition_recall([0, 1], [None, None]) == ""
    many = partition_recall(list(range(500)), [1 - i / 5000 for i in range(500)], 0.97)
    assert f"{MAX_PARTITIONS} lowest of 500 partitions" in many
    assert "partition 499" in many


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.98124, 0.9919, "(0.981 to 0.992)"), (0.0123, 0.0456, "(0.0123 to 0.0456)"), (0.9812, 0.9814, "(0.9812 to 0.9814)"),
     (1.0, 1.0, "(1.000 to 1.000)"), (-0.5, 0.5, f"({formats.MINUS}0.500 to 0.500)"), (12.0, 345.6, "(12.00 to 345.6)")],
)  # fmt: skip
def test_interval(low: float, high: float, text: str) -> None:
    assert formats.interval(low, high) == text
