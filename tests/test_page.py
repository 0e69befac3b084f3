"""The web page in a real browser, over a real server: what it shows against what the server answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from page_server import ITEM, Watched, about, asked, browser, browser_path, make_digits, releases_of, served

from simpipe import releases

# A browser is a program that pip does not install; CI installs one. What the page asks for is tested over HTTP without it.
pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="no chromium or google-chrome is installed: the page is not driven"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make_digits(folder / "root", folder)
    return folder / "root"


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with served(root) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with browser(browser_path() or "") as opened:
        yield opened


@pytest.fixture
def watched(chromium, url: str) -> Iterator[Watched]:
    """A fresh page; at the end nothing may have left the host, and nothing may have been complained of."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    found = Watched(context, url)
    yield found
    hosts = {urlsplit(each).netloc for each in found.requests if not each.startswith(("blob:", "data:"))}
    assert hosts == {urlsplit(url).netloc}
    assert not found.complaints
    context.close()


def test_an_item_is_picked_and_its_neighbors_are_those_of_the_server(watched: Watched, url: str) -> None:
    page = watched.open()
    page.locator(".pick").nth(2).click()
    watched.settled()
    name = page.input_value("#id")
    cards, expected = watched.cards(), asked(url, name=name)
    assert [(card["id"], card["distance"]) for card in cards] == [(each["id"], each["distance"]) for each in expected]
    assert len(cards) == 5
    assert watched.pictures() == [8] * 5, "as they were indexed"
    for card, each in zip(cards, expected, strict=True):
        assert each["label"] == card["text"].split()[0]
        assert f"rank {expected.index(each) + 1} " in card["text"]
        assert "probability" in card["text"]
        assert card["beyond"] is not each["within"]
    assert f"id={name}" in page.url
    assert "digits-" in page.inner_text("#said") or "neighbors within the cutpoint" in page.inner_text("#said")


def test_the_slider_moves_the_verdict_the_fading_and_the_measured_values(watched: Watched, url: str) -> None:
    page = watched.open(f"/?id={ITEM}&k=9")
    facts, expected = about(url), asked(url, 9)
    slider, verdict = page.locator("#cut-1"), page.locator(".verdict")
    assert "Match: " in verdict.inner_text()

    def check() -> float:
        cut = float(page.get_attribute("#cut-1", "aria-valuetext").split(",")[0])
        shown = [card["beyond"] for card in watched.cards()]
        assert shown == [each["distance"] > cut for each in expected]
        assert ("No match" in verdict.inner_text()) == (expected[0]["distance"] > cut)
        rows = [row for row, distance in enumerate(facts["thresholds"]["distance"]) if distance <= cut]
        for name in ("precision", "recall", "f1") if rows else ():
            assert page.inner_text(f".value-{name}").startswith(
                f"{100 * facts['thresholds'][name][rows[-1]]:.1f}".removesuffix(".0")
            )
        return cut

    middle = (expected[3]["distance"] + expected[4]["distance"]) / 2
    slider.fill(str(middle))
    assert check() == pytest.approx(middle, rel=0.2)
    slider.focus()
    seen = [check()]
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
        seen.append(check())
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 4
    page.keyboard.press("Home")
    check()
    assert "No match" in verdict.inner_text()
    assert all(card["beyond"] and "beyond cutpoint" in card["text"] for card in watched.cards())
    page.keyboard.press("End")
    check()
    for point in facts["cutpoints"]:
        page.get_by_role("button", name=point["name"]).click()
        assert [card["beyond"] for card in watched.cards()] == [each["distance"] > point["distance"] for each in expected]
        assert page.inner_text(".value-recall").startswith(f"{100 * point['recall']:.1f}".removesuffix(".0"))
    watched.until("location.search.includes('cut=')")


def test_an_address_is_shared_and_the_back_button_works(watched: Watched, url: str) -> None:
    page = watched.open(f"/?id={ITEM}&k=3&cut=0.004")
    assert len(watched.cards()) == 3
    assert "0.004 cosine distance" in page.inner_text(".slider label")
    another = asked(url)[4]["id"]
    page.fill("#id", another)
    page.keyboard.press("Enter")
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{another}')")
    assert "cut=0.004" in page.url, "what was set stays"
    page.go_back()
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{ITEM}')")
    watched.settled()
    assert page.input_value("#id") == ITEM
    assert [card["id"] for card in watched.cards()] == [each["id"] for each in asked(url, 3)]


def test_another_release_is_asked_and_two_are_compared(watched: Watched, url: str) -> None:
    live, before = releases_of(url)
    page = watched.open(f"/?id={ITEM}")
    page.select_option("#release", before)
    watched.until(f"document.querySelector('#about').textContent.includes('{before}')")
    watched.settled()
    theirs = asked(url, release=before)
    assert [card["id"] for card in watched.cards()] == [each["id"] for each in theirs]
    assert not watched.pictures(), "this one has none"
    assert all("ink: " in card["text"] for card in watched.cards()), "a metadata column"
    page.select_option("#release", "")
    page.select_option("#with", before)
    page.wait_for_selector(".side >> nth=1")
    watched.settled()
    ours = asked(url)
    ranks = [{each["id"]: each["rank"] for each in watched_side} for watched_side in (numbered(ours), numbered(theirs))]
    for side in (0, 1):
        for card in watched.cards(side):
            there = ranks[1 - side].get(card["id"])
            same = there == ranks[side][card["id"]]
            assert card["badge"] == ("only here" if there is None else "" if same else f"rank {there} there")
    shared = len(ranks[0].keys() & ranks[1].keys())
    assert f"{shared} of 5 neighbors in both" in page.inner_text("#differs")
    assert "encoders differ" in page.inner_text("#differs")
    before_move = watched.cards(1)
    page.locator("#cut-2").focus()
    page.keyboard.press("Home")
    assert all(card["beyond"] for card in watched.cards(1))
    assert [card["beyond"] for card in watched.cards(0)] == [not each["within"] for each in ours], "each side has its own"
    assert [card["id"] for card in watched.cards(1)] == [card["id"] for card in before_move]
    assert live in page.inner_text("#differs")


def numbered(found: list[dict]) -> list[dict]:
    return [{**each, "rank": rank} for rank, each in enumerate(found, 1)]


def test_a_picture_is_dropped_chosen_and_pasted(watched: Watched, url: str, tmp_path: Path) -> None:
    page = watched.open()
    png = httpx.get(f"{url}/v1/items/{ITEM}/picture", timeout=60).content
    for way in ("drop", "paste"):
        page.evaluate(
            """async ([way, source]) => {
                 const blob = await (await fetch(source)).blob();
                 const data = new DataTransfer();
                 data.items.add(new File([blob], `${way}.png`, {type: "image/png"}));
                 const about = {bubbles: true, cancelable: true};
                 document.body.dispatchEvent(way === "drop" ? new DragEvent(way, {...about, dataTransfer: data})
                                                            : new ClipboardEvent(way, {...about, clipboardData: data}));
               }""",
            [way, f"v1/items/{ITEM}/picture"],
        )
        watched.until(f"document.querySelector('.asked .id')?.textContent.includes('{way}.png')")
        first = watched.cards()[0]
        assert first["id"] == ITEM, "an indexed picture is its own nearest neighbor"
        assert first["distance"] < 1e-4
    (tmp_path / "chosen.png").write_bytes(png)
    page.set_input_files("#file", tmp_path / "chosen.png")
    watched.until("document.querySelector('.asked .id')?.textContent.includes('chosen.png')")
    watched.settled()
    assert watched.cards()[0]["id"] == ITEM
    assert page.locator(".asked img").evaluate("each => each.naturalWidth") == 8
    page.go_back()
    watched.until("document.querySelector('.asked .id')?.textContent.includes('paste.png')")


def test_what_is_wrong_is_said_with_its_cure(watched: Watched, url: str, tmp_path: Path) -> None:
    page = watched.open()
    alert = page.locator("#trouble .alert")
    page.fill("#id", "no-such-item")
    page.keyboard.press("Enter")
    alert.wait_for()
    assert "no-such-item" in alert.inner_text()
    assert "request " in alert.inner_text(), "what the server's log calls it"
    assert page.get_attribute("#trouble", "role") == "alert"
    page.fill("#id", ITEM)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    assert alert.count() == 0, "an answer takes the complaint away"
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    alert.wait_for()
    assert "cannot be read as a picture" in alert.inner_text()
    assert "PNG or JPEG" in alert.inner_text()
    page.fill("#filter", "label>")
    page.keyboard.press("Enter")
    watched.until("document.querySelector('#trouble').innerText.length > 0")
    page.goto(f"{url}/?id={ITEM}&release=no-such-release")
    alert.wait_for()
    assert "no-such-release" in alert.inner_text()
    refused = [each for each in watched.complaints if "status of 4" in each]
    assert len(refused) == len(watched.complaints) >= 2, "the browser names the requests that were refused, and nothing else"
    watched.complaints.clear()


def test_it_is_used_by_the_keyboard_alone(watched: Watched, url: str) -> None:
    page = watched.open()
    focused = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"

    def tab_to(wanted: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if wanted in page.evaluate(focused):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                around = page.evaluate("document.activeElement.id === 'file'")  # its button shows the focus
                assert around or outline != "none", f"{wanted} shows that it has the focus"
                return
        raise AssertionError(f"Tab never comes to {wanted}")

    tab_to("skip")
    for name in ("release", "with", "file", "id"):
        tab_to(name)
    page.keyboard.type(ITEM)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    tab_to("pick")
    tab_to("cut-1")
    page.keyboard.press("Home")
    assert all(card["beyond"] for card in watched.cards())
    tab_to("button small")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    tab_to("again")
    again = watched.cards()[0]["id"]
    page.keyboard.press("Enter")
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{again}')")
    assert [card["id"] for card in watched.cards()] == [each["id"] for each in asked(url, name=again)]
    page.locator("#map").scroll_into_view_if_needed()
    page.wait_for_selector(".frame canvas")
    page.locator(".frame canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "+", "ArrowLeft"):
        page.keyboard.press(key)
    point = page.inner_text("#map-said").rsplit(", ", 1)[1]
    assert point in page.inner_text(".tip")
    page.keyboard.press("Enter")
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{point}')")
    assert page.input_value("#id") == point


def test_a_point_of_the_map_is_hovered_clicked_and_listed(watched: Watched, url: str) -> None:
    page = watched.open(f"/?id={ITEM}")
    page.locator("#map").scroll_into_view_if_needed()
    page.wait_for_selector(".frame canvas")
    shown = httpx.get(f"{url}/v1/map", timeout=60).json()
    page.locator(".frame canvas").scroll_into_view_if_needed()
    box = page.locator(".frame canvas").bounding_box()
    # The place of a point that lies alone, by the page's own rule: 16 pixels of margin, upwards is up.
    x, y = np.array(shown["x"]), np.array(shown["y"])
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9 * np.eye(len(x))
    alone = int(apart.min(axis=1).argmax())
    inner = box["width"] - 32
    place = box["x"] + 16 + x[alone] * inner, box["y"] + 16 + (1 - y[alone]) * inner
    page.mouse.move(*place)
    assert shown["ids"][alone] in page.inner_text(".tip")
    page.mouse.click(*place)
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{shown['ids'][alone]}')")
    page.get_by_text("Points as a table").click()
    rows = page.locator("#map tbody tr")
    assert rows.count() == min(200, len(shown["ids"]))
    assert rows.first.inner_text().split()[:2] == [shown["ids"][0], shown["labels"][0]]
    page.locator("#map tbody button").nth(3).click()
    watched.until(f"document.querySelector('.asked .id').textContent.includes('{shown['ids'][3]}')")


def test_a_phone_shows_it_without_scrolling_sideways_and_controls_have_names(watched: Watched, url: str) -> None:
    watched.page.set_viewport_size({"width": 360, "height": 740})
    page = watched.open(f"/?id={ITEM}&with=previous&filter=")
    page.wait_for_selector(".side >> nth=1")
    page.locator("#map").scroll_into_view_if_needed()
    page.wait_for_selector(".frame canvas")
    page.get_by_text("How to write a filter").click()
    assert watched.sideways() == 0
    wide = """() => [...document.querySelectorAll("body *")].filter(each => !each.closest(".scroll, .sr, .skip, svg")
                && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    nameless = """() => [...document.querySelectorAll("button, input, select, canvas, [role=region], [role=img], img")]
                    .filter(each => !each.closest("[aria-hidden]") && !each.getAttribute("aria-label") && !each.labels?.length
                                    && !each.textContent.trim() && !each.hasAttribute("alt"))
                    .map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("[...document.querySelectorAll('[tabindex]')].every(each => each.tabIndex <= 0)"), (
        "the order of the page"
    )
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).transitionDuration") in ("0s", ""), "no motion asked"


def test_a_filter_gives_what_fits_and_says_how(watched: Watched, url: str) -> None:
    page = watched.open(f"/?id={ITEM}&release=previous")
    page.fill("#filter", "label=3|6, ink>=4, ink<5.5")
    page.keyboard.press("Enter")
    page.wait_for_selector(".filtered")
    watched.settled()
    body = {"ids": [ITEM], "k": 1000, "metadata": True, "release": "previous"}
    everything = httpx.post(f"{url}/v1/lookup", json=body, timeout=60).json()["results"][0]["neighbors"]
    fits = [each for each in everything if each["label"] in ("3", "6") and 4 <= each["ink"] < 5.5 and each["id"] != ITEM]
    assert [card["id"] for card in watched.cards()] == [each["id"] for each in fits[:5]]
    query = {"label": {"in": ["3", "6"]}, "ink": {"gte": 4, "lt": 5.5}}
    assert json.loads(page.inner_text("#filter-read code")) == query
    how = httpx.post(f"{url}/v1/lookup", json={**body, "k": 5, "filter": query}, timeout=60).json()["filter"]
    assert f"{how['matching']} items fit; {how['how']}" in page.inner_text(".filtered")
    page.fill("#filter", "colour=red")
    page.keyboard.press("Enter")
    page.locator("#trouble .alert").wait_for()
    assert "colour" in page.inner_text("#trouble")
    watched.complaints.clear()  # the browser names the refused request
    page.fill("#filter", "ink>1000")
    page.keyboard.press("Enter")
    watched.until("document.querySelector('#results').innerText.includes('No item fits the filter')")


def test_a_release_that_goes_live_meanwhile_is_shown_with_the_next_answer(watched: Watched, url: str, root: Path) -> None:
    page = watched.open(f"/?id={ITEM}")
    page.wait_for_selector(".card")
    live, before = releases_of(url)
    assert live in page.inner_text("#about")

    def comes(release: str) -> None:
        for _ in range(600):
            if httpx.get(f"{url}/readyz", timeout=60).json().get("release") == release:
                return
            time.sleep(0.1)
        raise AssertionError(f"{release} never went live")

    releases.rollback(root)
    comes(before)
    page.get_by_role("button", name="Apply").click()
    page.wait_for_selector(f"#about:has-text('{before}')")
    watched.settled()
    assert [card["id"] for card in watched.cards()] == [each["id"] for each in asked(url)]
    assert all("ink: " in card["text"] for card in watched.cards())
    releases.rollback(root)  # the other tests' release
    comes(live)
