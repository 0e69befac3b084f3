"""The page over answers that are scripted here: what a real release hardly ever says. And its files, without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from page_server import Watched, browser, browser_path

from simpipe.serve.page_files import POLICY, page_files

URL = "http://page.test"
HOSTILE = '<img src=x onerror="document.title=1">'
# A browser is a program that pip does not install; CI installs one. What the page asks for is tested over HTTP without it.
needs_browser = pytest.mark.skipif(
    browser_path() is None, reason="no chromium or google-chrome is installed: the page is not driven"
)


def neighbor(rank: int, label: str | None, distance: float, **more: Any) -> dict[str, Any]:
    return {"rank": rank, "id": f"n{rank}", "label": label, "distance": distance, **more}


class Script:
    """Answers by path; what is a number is a refusal with that status. Files of the page are the real ones."""

    def __init__(self) -> None:
        self.release = {"release": "r1", "items": 3, "dim": 2, "distance": "euclidean", "metadata": [], "pictures": False}
        self.release |= {
            "cutpoints": [],
            "thresholds": None,
            "metrics": {},
            "calibration": None,
            "encoder": {"fingerprint": "none"},
        }
        self.neighbors = [neighbor(0, "a", 0.0)]
        self.match: dict[str, Any] = {}
        self.status = 200
        self.bodies: list[dict[str, Any]] = []

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/v1/releases":
            return {"releases": [{"release": "r1", "live": True, "previous": False, "tags": [], "items": 3, "created_at": ""}]}
        if path == "/v1/items":
            return {"release": "r1", "items": [{"id": HOSTILE, "label": HOSTILE, "partition": 0}]}
        if path in ("/v1/lookup", "/v1/match"):
            result = {"query": "q", "label": "a", "neighbors": self.neighbors, "match": self.match}
            return {"release": "r1", "distance": "euclidean", "results": [result]}
        return self.release

    def __call__(self, route: Any) -> None:
        path = urlsplit(route.request.url).path
        if path in page_files():
            file = page_files()[path]
            headers = {"content-type": file.type, "content-security-policy": POLICY}
            return route.fulfill(status=200, headers=headers, body=file.content)
        if route.request.post_data:
            self.bodies.append({"path": path, **json.loads(route.request.post_data)})
        if self.status == 0 and path == "/v1/lookup":
            return route.abort()
        if self.status != 200 and path == "/v1/lookup":
            error = {"code": "queue_full", "message": "too many queries wait", "cure": "ask again in a moment"}
            return route.fulfill(status=self.status, json={"error": error, "request_id": "abc"})
        return route.fulfill(status=200, json=self.answer(path))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser(browser_path() or "") as opened:
        yield opened


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def watched(chromium: Any, script: Script) -> Iterator[Watched]:
    context = chromium.new_context()
    context.route("**/*", script)
    yield Watched(context, URL)
    context.close()


@needs_browser
def test_labels_and_ids_are_text_whatever_they_say(watched: Watched, script: Script) -> None:
    script.neighbors = [{**neighbor(1, HOSTILE, 0.5), "id": HOSTILE, "column": HOSTILE}]
    script.release["metadata"] = ["column"]
    page = watched.open("/?id=q")
    page.wait_for_selector(".card")
    assert page.locator(".card").inner_text().count(HOSTILE) == 4, "label, large and small, id, and the column's value"
    assert HOSTILE in page.locator(".pick").inner_text()
    assert page.locator("main img").count() == 0
    assert page.title() == "simpipe: r1"
    assert not watched.complaints


@needs_browser
def test_a_release_without_calibration_has_no_slider_and_says_so(watched: Watched, script: Script) -> None:
    script.neighbors = [neighbor(1, "a", 0.0) | {"id": "q"}, neighbor(2, "b", 0.25), neighbor(3, None, 0.5)]
    page = watched.open("/?id=q&k=2")
    page.wait_for_selector(".card")
    assert [(card["id"], card["beyond"]) for card in watched.cards()] == [("n2", False), ("n3", False)], "without itself"
    assert "no label" in watched.cards()[1]["text"]
    assert page.locator("input[type=range]").count() == 0
    assert "was not calibrated" in page.inner_text(".verdict")
    assert "was not calibrated" in page.inner_text("#curves")
    assert script.bodies == [{"path": "/v1/lookup", "ids": ["q"], "k": 3}]


@needs_browser
def test_several_neighbors_vote_as_the_calibrated_matcher_counts(watched: Watched, script: Script) -> None:
    script.release["calibration"] = {"matcher": "match_majority_vote@3", "matchers": ["match_majority_vote@3"]}
    script.release["cutpoints"] = [{"name": "optimal", "distance": 0.4, "precision": 0.9, "recall": 0.8, "f1": 0.85}]
    script.neighbors = [neighbor(1, "c", 0.1), neighbor(2, "b", 0.2), neighbor(3, "b", 0.6), neighbor(4, "c", 0.7)]
    script.match = {"label": "b", "distance": 0.3, "probability": 0.75, "matcher": "match_majority_vote@3"}
    page = watched.open("/?id=q&k=1")
    page.wait_for_selector(".card")
    assert len(watched.cards()) == 1, "two more are asked for to vote, not to be shown"
    said = page.inner_text(".verdict")
    assert "Match: b" in said
    assert "mean of 3 neighbors at 0.3" in said
    assert "75" in said
    assert {(each["path"], each["k"]) for each in script.bodies} == {("/v1/lookup", 4), ("/v1/match", 1)}
    page.locator("#cut-1").fill("0.2")
    assert "No match" in page.inner_text(".verdict")
    assert not watched.cards()[0]["beyond"], "the nearest one is within, but it does not decide alone"


@needs_browser
@pytest.mark.parametrize(("status", "said"), [(429, "Too many queries wait"), (0, "The server cannot be reached")])
def test_what_passes_can_be_asked_again(watched: Watched, script: Script, status: int, said: str) -> None:
    script.neighbors, script.status = [neighbor(1, "a", 0.5)], status
    page = watched.open("/?id=q")
    page.locator("#trouble .alert").wait_for()
    assert said in page.inner_text("#trouble")
    assert not watched.cards() if page.locator(".side").count() else True
    script.status = 200
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_selector(".card")
    assert page.locator("#trouble .alert").count() == 0


READ = {
    "country=de": {"country": "de"},
    "price>=10, price<20": {"price": {"gte": 10, "lt": 20}},
    "brand=a|b": {"brand": {"in": ["a", "b"]}},
    "name^=ab": {"name": {"prefix": "ab"}},
    "name^=12": {"name": {"prefix": "12"}},
    "seen=null, ok = true": {"seen": None, "ok": True},
    'zip="01234"': {"zip": "01234"},
    '"odd, name" = "a|b \\"q\\""|c': {"odd, name": {"in": ['a|b "q"', "c"]}},
    "x=-1.5e3": {"x": -1500},
    "label=3|6": {"label": {"in": ["3", "6"]}},
    '{"price": {"gt": 1}}': {"price": {"gt": 1}},
    "toString=1": {"toString": 1},
    " ": None,
}
REFUSED = ("label", "label>", "=3", "a=1, a=2", "a>1|2", "{", 'a="', "a=1 b=2=")


@needs_browser
def test_filters_are_read_as_typed(watched: Watched) -> None:
    page = watched.open()
    read = "async text => { try { return (await import('/filter.js')).parse(text) } catch (error) { return error.message } }"
    for text, expected in READ.items():
        assert page.evaluate(read, text) == expected, text
    for text in REFUSED:
        assert isinstance(page.evaluate(read, text), str), text


def test_the_files_name_each_other_and_nothing_else() -> None:
    files = {path: file.content.decode() for path, file in page_files().items()}
    html = files["/"]
    assert {"/", "/app.js", "/style.css", "/components.css", "/icon.svg"} <= files.keys()
    named = re.findall(r'(?:href|src)="([^"#]+)"', html)
    assert {f"/{name}" for name in named} <= files.keys() | {"/openapi.json"}
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html), "the policy forbids them"
    for path, text in files.items():
        if path.endswith(".js"):
            assert {f"/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)} <= files.keys(), path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), path
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]+\.", text), f"{path} names no other host"
        assert len(text.splitlines()) <= 400, path
    used = {each for path in ("/style.css", "/components.css") for each in re.findall(r"var\((--[\w-]+)", files[path])}
    defined = set(re.findall(r"(--[\w-]+):", files["/components.css"] + files["/style.css"]))
    assert used <= defined, "every token is defined"
