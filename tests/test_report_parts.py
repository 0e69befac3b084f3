"""Parts of the report on their own: formats, tables, curves, pictures, projection."""

from __future__ import annotations

import numpy as np
import pytest

from simpipe.report import formats, tables
from simpipe.report.model import Projection, ReportData
from simpipe.report.render import meaning
from simpipe.visualization import style
from simpipe.visualization.class_counts import class_counts
from simpipe.visualization.confusion_svg import confusion_svg
from simpipe.visualization.data_uri import is_small, picture
from simpipe.visualization.embed2d import project
from simpipe.visualization.threshold_curves import thin, threshold_curves
from simpipe.visualization.training_curve import training_curve


def test_thin_sorts_and_drops_what_is_not_finite() -> None:
    columns = thin({"distance": [0.3, float("inf"), 0.1], "recall": [3.0, 9.0, 1.0]})
    assert columns["distance"].tolist() == [0.1, 0.3]
    assert columns["recall"].tolist() == [1.0, 3.0]


def test_ranked_tables() -> None:
    confusion = np.asarray([[5, 3, 0, 2], [0, 8, 0, 0], [0, 1, 9, 0]])
    pairs = tables.confused_pairs(["a", "b", "c"], confusion)
    assert [(pair.true, pair.matched, pair.count, pair.share) for pair in pairs] == [("a", "b", 3, 0.3), ("c", "b", 1, 0.1)]
    worst = tables.class_results(["a", "b", "c"], confusion)[0]
    assert (worst.label, worst.right, worst.wrong, worst.no_match, worst.recall) == ("a", 5, 3, 2, 0.5)
    (row,) = tables.split_counts({"train": {"a": 1, "b": 5, "c": 0}}, ["a", "b", "c"])
    assert (row.classes, row.smallest, row.median, row.largest) == (2, 1, 3.0, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.98765, "0.9877"), (12.345, "12.35"), (12345.6, "12,346"), (0.0, "0.0000"),
     (1e-5, "1.00e-05"), (None, formats.MISSING), (float("nan"), formats.MISSING), (-0.25, f"{formats.MINUS}0.2500"),
     (np.float32(0.5), "0.5000")],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert formats.number(value) == text


def test_soft_breaks_names_and_escapes_them() -> None:
    assert str(formats.soft("Latin/a_<b>")) == "Latin/<wbr>a_<wbr>&lt;b&gt;"


def test_words() -> None:
    assert formats.words("ann_recall_at_10") == "ANN recall@10"
    assert meaning("label_precision_at_1") != meaning("label_precision_at_10") != ""
    assert meaning("ann_recall@5") != meaning("recall_at_5") != ""
    assert meaning("map_at_10")
    assert meaning("queries") == ""


def test_shorten() -> None:
    assert style.shorten("a" * 24) == "a" * 24
    assert len(style.shorten("x" * 500)) == style.MAX_LABEL
    assert style.shorten("a\x00b\n") == "a b"


def test_picture() -> None:
    small, large = np.zeros((8, 8, 1), np.uint8), np.zeros((200, 300, 3), np.uint8)
    assert is_small(small)
    assert not is_small(large)
    assert picture(small).startswith("data:image/png;base64,")
    assert picture(large).startswith("data:image/jpeg;base64,")
    assert picture(np.zeros((8, 8, 4), np.uint8)).startswith("data:image/png")
    with pytest.raises(ValueError, match="float64"):
        picture(np.zeros((8, 8)))


@pytest.mark.parametrize(("n", "method"), [(0, "PCA"), (1, "PCA"), (49, "PCA"), (60, "t-SNE"), (3001, "PCA")])
def test_project(n: int, method: str) -> None:
    vectors = np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32)
    points, name, explained = project(vectors, seed=3)
    again, _, _ = project(vectors, seed=3)
    assert (points.shape, points.dtype, name) == ((n, 2), np.float32, method)
    assert explained
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points, again)


def test_project_equal_vectors() -> None:
    points, name, _ = project(np.ones((100, 4), np.float32), seed=0)
    assert name == "PCA"
    assert not points.any()


def test_drawings_are_empty_without_data() -> None:
    assert threshold_curves({}, []) == training_curve({}) == class_counts({}, []) == ""
    assert confusion_svg([], np.zeros((0, 1), np.int64)) == ""


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="confusion has shape"):
        ReportData("t", "r", "c", confusion_labels=["a"], confusion=np.zeros((1, 1), np.int64))
    with pytest.raises(ValueError, match="one length"):
        ReportData("t", "r", "c", thresholds={"distance": [1.0], "recall": []})
    with pytest.raises(ValueError, match="projection"):
        Projection(np.zeros((2, 2), np.float32), ["a"], [False], "PCA", "")
