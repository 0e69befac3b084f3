"""The projector's page and its thumbnails: self-contained, complete, and safe with hostile input."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from simpipe.errors import ConfigError, SimpipeError
from simpipe.visualization import projector
from simpipe.visualization.projector_page import COLORS
from simpipe.visualization.thumbnails import COLUMNS, PER_SHEET, pack

EVIL = "</script><script>alert('x')</script>&\"$\\frac$"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures float64[n, 8, 8] in 0..16 and labels int64[n]."""
    data: Any = load_digits()
    return data.images, data.target


class Elements(HTMLParser):
    """Attributes of all elements, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self._script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._script = tag == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data


def embedded(page: str) -> dict[str, Any]:
    return json.loads(Elements(page).scripts[0])


@pytest.fixture(scope="module")
def digits_page() -> Any:
    images, labels = digits()
    vectors = images.reshape(-1, 64)[:300]
    return projector(
        vectors, labels=labels[:300], class_mapping={i: f"digit {i}" for i in range(9)}, images=images[:300],
        tooltips_info={"mean": vectors.mean(1), "name": [f"row-{i}" for i in range(300)]},
    )  # fmt: skip


def test_page_loads_nothing_from_elsewhere(digits_page: Any) -> None:
    page = digits_page.html
    assert not re.search(r"https?:|@import|url\(", page)
    found = Elements(page)
    for tag, name, value in found.attributes:
        assert name not in ("src", "href", "srcset", "action"), (tag, name, value)
        assert not name.startswith("on"), "no inline handlers: the policy would block them"
    assert not set(found.tags) & {"link", "iframe", "object", "img", "base"}
    policy = next(value for _, name, value in found.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", found.scripts[1])


def test_every_point_and_label_is_in_the_page(digits_page: Any) -> None:
    _, labels = digits()
    data = embedded(digits_page.html)
    assert data["n"] == len(data["x"]) == len(data["y"]) == len(data["codes"]) == 300
    names = [kind["name"] for kind in data["classes"]]
    assert names == [*(f"digit {i}" for i in range(9)), "9"]
    assert [names[code] for code in data["codes"]] == [f"digit {i}" if i < 9 else "9" for i in labels[:300]]
    assert data["info"][1] == {"name": "name", "values": [f"row-{i}" for i in range(300)]}
    assert all(isinstance(value, str) for value in data["info"][0]["values"])
    assert digits_page.method == "t-SNE"
    points = digits_page.points
    laid_out = np.column_stack([data["x"], data["y"]])
    assert laid_out.min() >= 0
    assert laid_out.max() <= 1
    scale = (points.max(0) - points.min(0)).max()
    np.testing.assert_allclose(laid_out - laid_out[0], (points - points[0]) / scale, atol=3e-5)


def test_neighbors_on_the_map_are_neighbors(digits_page: Any) -> None:
    _, labels = digits()
    points = digits_page.points
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[:300][distances.argmin(1)] == labels[:300]).mean() > 0.9


def test_thumbnails_are_the_pictures(digits_page: Any) -> None:
    images, _ = digits()
    thumbs = embedded(digits_page.html)["thumbs"]
    assert (thumbs["width"], thumbs["height"], thumbs["shownWidth"]) == (8, 8, 64)
    assert len(thumbs["sheets"]) == 2  # 300 pictures, 256 a sheet
    for row in (0, 17, 299):
        sheet = decode(thumbs["sheets"][row // thumbs["perSheet"]])
        cell = row % thumbs["perSheet"]
        top, left = cell // thumbs["columns"] * thumbs["cellHeight"], cell % thumbs["columns"] * thumbs["cellWidth"]
        np.testing.assert_array_equal(sheet[top : top + 8, left : left + 8], np.rint(images[row] / 16 * 255))


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_what_users_pass_is_escaped() -> None:
    page = projector(
        [[0, 0], [1, 1]], labels=[EVIL, "b\ud800"], tooltips_info={EVIL: [EVIL, b"bytes"]}, images=np.zeros((2, 4, 4), np.uint8)
    )
    found = Elements(page.html)
    assert found.tags.count("script") == 2
    assert "<script>alert" not in page.html
    data = json.loads(found.scripts[0])
    assert EVIL in [kind["name"] for kind in data["classes"]]
    assert data["info"] == [{"name": EVIL, "values": [EVIL, "bytes"]}]
    page.html.encode()  # no lone surrogates


def test_notebook_frame_holds_the_whole_page(digits_page: Any) -> None:
    frame = digits_page._repr_html_()
    attributes = {name: value for tag, name, value in Elements(frame).attributes if tag == "iframe"}
    assert attributes["srcdoc"] == digits_page.html
    assert attributes["sandbox"] == "allow-scripts"
    assert f"height:{digits_page.height}px" in attributes["style"]
    assert len(repr(digits_page)) < 200


def test_page_is_written(tmp_path: Path) -> None:
    page = projector(np.eye(4), labels=[0, 0, 1, 1], path=tmp_path / "deep" / "map.html")
    assert (tmp_path / "deep" / "map.html").read_text("utf-8") == page.html
    assert page.save(tmp_path / "again.html").read_bytes() == page.html.encode()
    assert page.method == "PCA"
    with pytest.raises(SimpipeError, match="must be local"):
        page.save("gs://bucket/map.html")


def test_same_input_same_page() -> None:
    images, labels = digits()
    vectors = images.reshape(-1, 64)[:60]
    assert projector(vectors, labels=labels[:60]).html == projector(vectors, labels=labels[:60]).html


def test_options_of_the_look() -> None:
    labels = list(range(25))
    data = embedded(projector(np.random.default_rng(0).normal(size=(25, 2)), labels=labels, pastel_factor=0.0).html)
    looks = [(kind["color"], kind["shape"]) for kind in data["classes"]]
    assert len(set(looks)) == 25, "with more classes than colours the marks differ"
    assert looks[0] == (COLORS[0], 0)
    data = embedded(projector([[0, 1]], labels=["a"], pastel_factor=1.0, pt_size=5, plot_size=800, active_drag="pan").html)
    assert data["classes"][0]["color"] == "#ffffff"
    assert (data["radius"], data["size"], data["drag"]) == (5, 800, "pan")
    data = embedded(projector(np.eye(3), labels=[1, 2, 3], colorize=False, densmap=False).html)
    assert len({kind["color"] for kind in data["classes"]}) == 1


def test_without_labels_there_are_no_classes() -> None:
    page = projector(np.eye(5))
    data = embedded(page.html)
    assert not data["labelled"]
    assert data["codes"] == [0] * 5
    assert "<title>5 embeddings</title>" in page.html


def test_classes_of_one_name_are_one_class() -> None:
    data = embedded(projector(np.eye(3), labels=[1, 2, None], class_mapping={1: "cat", 2: "cat"}).html)
    assert [kind["name"] for kind in data["classes"]] == ["cat", "no label"]
    assert data["codes"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        (np.zeros((0, 3)), {}, "at least one"),
        (np.zeros(3), {}, "expected"),
        ([["a", "b"]], {}, "not an array of numbers"),
        ([[0.0, np.nan]], {}, "NaN or infinity, first number 0"),
        (np.eye(2), {"labels": [1]}, "labels: 1 for 2"),
        (np.eye(2), {"images": np.zeros((3, 4, 4))}, "images: 3 for 2"),
        (np.eye(2), {"images": np.zeros((2, 4))}, "images: shape"),
        (np.eye(2), {"images": [np.eye(2), "x"]}, "images"),
        (np.eye(2), {"images": np.zeros((2, 4, 4)), "image_size": 0}, "image_size"),
        (np.eye(2), {"tooltips_info": {"a": [1]}}, "1 values for 2"),
        (np.eye(2), {"active_drag": "lasso"}, "box_zoom, pan"),
        (np.eye(2), {"pastel_factor": 2.0}, "pastel_factor"),
        (np.eye(2), {"plot_size": 0}, "plot_size"),
    ],
)
def test_projector_refuses(embeddings: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        projector(embeddings, **options)


# ---- thumbnails ----


def test_large_pictures_are_made_smaller_by_means() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 60, 90, 3)).astype(np.uint8)
    sheets = pack(images, 32)
    assert (sheets.width, sheets.height) == (30, 20)
    expected = images.reshape(3, 20, 3, 30, 3, 3).mean((2, 4))
    sheet = decode(sheets.uris[0])
    assert sheet.shape == (20, 30 * COLUMNS, 3)
    for i in range(3):
        np.testing.assert_allclose(sheet[:, 30 * i : 30 * (i + 1)], expected[i], atol=1)


def test_photographs_go_to_sheets_of_jpeg_in_whole_blocks() -> None:
    smooth = np.broadcast_to(np.linspace(0, 1, 50)[None, :, None, None], (PER_SHEET + 1, 50, 50, 3))
    sheets = pack(smooth, 64)
    assert [uri[:15] for uri in sheets.uris] == ["data:image/jpeg"] * 2
    assert (sheets.cell_width, sheets.cell_height, sheets.width) == (64, 64, 50)
    np.testing.assert_allclose(decode(sheets.uris[1])[:50, :50] / 255, smooth[0], atol=0.05)


def test_pictures_of_different_sizes_and_missing_ones() -> None:
    grey, wide = np.full((4, 4), 200, np.uint8), np.zeros((10, 40, 3), np.uint8)
    wide[..., 0] = 255
    sheets = pack([grey, None, wide, np.zeros((4, 4), np.uint8)], 20)
    assert sheets.missing == [1]
    sheet = decode(sheets.uris[0]).reshape(20, COLUMNS, 20, 4).swapaxes(0, 1)
    assert (sheet[0, 8:12, 8:12] == [255, 255, 255, 255]).all()  # the brightest grey of the set, in the middle
    assert sheet[0, :8].sum() == 0
    assert not sheet[1].any()
    assert (sheet[2, 8:12] == [255, 0, 0, 255]).all()  # 40 x 10 became 20 x 5
    assert not sheet[2, :7].any()


def test_alpha_survives() -> None:
    image = np.zeros((1, 50, 50, 4), np.uint8)
    image[..., 3] = 128
    uri = pack(image, 64).uris[0]
    assert uri.startswith("data:image/png")
    assert decode(uri)[10, 10].tolist() == [0, 0, 0, 128]
