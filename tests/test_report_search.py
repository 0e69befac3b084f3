"""The search profile and the planner's measurements in the report."""

from __future__ import annotations

from simpipe.index.profile import Profile, ProfilePoint
from simpipe.index.setting import SearchSetting
from simpipe.report.model import ReportData
from simpipe.report.render import render
from simpipe.report.search import about_profile, in_words, router_rows, search_rows

CHEAP = ProfilePoint(0.9123, 0.9078, 1.25, 11.4, SearchSetting(margin=0.031, backend={"leaves_to_search": 4}))
DEAR = ProfilePoint(0.9931, 0.9917, 3.0, 42.0, SearchSetting(probes=3, backend={"ef": 80}))
PROFILE = Profile(10, 1000, "queries", {0.9: CHEAP, 0.99: DEAR}, (CHEAP, DEAR))
ROUTER = {
    "kind": "packed",
    "partitions": 8,
    "spill": "none",
    "planner": {
        "least_partitions": 1,
        "candidates": [
            {
                "router": "hash",
                "partitions": 1,
                "spill": "none",
                "centroids": 0,
                "rows": 1.0,
                "probes": 1.0,
                "microseconds": 56.0,
            },
            {
                "router": "packed",
                "partitions": 8,
                "spill": "none",
                "centroids": 4,
                "rows": 1.0,
                "probes": 1.1,
                "microseconds": 42.0,
            },
            {
                "router": "kmeans",
                "partitions": 8,
                "spill": "nearest",
                "centroids": 4,
                "rows": 1.3,
                "probes": 3,
                "microseconds": 90.0,
            },
        ],
    },
}


def test_settings_in_words():
    assert in_words(CHEAP.setting) == "margin 0.031, leaves to search 4"
    assert in_words(DEAR.setting) == "3 partitions, ef 80"
    assert in_words(SearchSetting()) == "everything"


def test_the_page_shows_promises_and_what_was_chosen():
    data = ReportData(
        "shoes",
        "r1",
        "2026",
        search=search_rows(PROFILE),
        search_about=about_profile(PROFILE),
        routers=router_rows(ROUTER),
    )
    section = render(data).split('<section id="search">')[1].split("</section>")[0]
    for text in (
        "0.9123",
        "0.9078",
        "1.25",
        "margin 0.031",
        "at best 0.9931",
        "1,000 held-out queries",
        "kmeans with nearest spill",
    ):
        assert text in section
    chosen = [row for row in section.split("<tr>") if "chosen" in row]
    assert len(chosen) == 1
    assert "packed" in chosen[0]


def test_a_release_without_a_profile_says_so():
    assert search_rows(None) == []
    assert router_rows({"kind": "hash", "partitions": 1}) == []
    assert "no search profile" in render(ReportData("shoes", "r1", "2026"))
