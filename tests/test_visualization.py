"""TF Similarity's plots (matplotlib), on scikit-learn's digits and on hostile input."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix as oracle

from simpipe.errors import ConfigError
from simpipe.visualization import (
    confusion_matrix,
    visualize_views,
    viz_neigbors_imgs,
    viz_neighbors_imgs,
)
from simpipe.visualization.class_labels import display_name, encode, value_list

EVIL = "</script><script>alert('x')</script>&\"$\\frac$"


@pytest.fixture(autouse=True)
def headless() -> Iterator[None]:
    """Every test runs on the backend without a screen and leaves no figure behind."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures float64[n, 8, 8] in 0..16 and labels int64[n]."""
    data: Any = load_digits()
    return data.images, data.target


def lookup(label: Any, distance: float, data: Any) -> Any:
    return SimpleNamespace(rank=1, distance=distance, label=label, embedding=None, data=data)


def shown(ax: Any) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def ticks(ax: Any) -> list[str]:
    assert [text.get_text() for text in ax.get_xticklabels()] == [text.get_text() for text in ax.get_yticklabels()]
    return [text.get_text() for text in ax.get_yticklabels()]


# ---- package ----


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_its_names_loads_no_drawing_library() -> None:
    out = run_python(
        "import sys, simpipe.visualization as v\n"
        "from simpipe.visualization import confusion_matrix, projector, visualize_views, viz_neigbors_imgs, viz_neighbors_imgs\n"
        "print([name for name in ('matplotlib', 'sklearn', 'PIL', 'tensorflow', 'keras') if name in sys.modules])\n"
        "print(all(callable(getattr(v, name)) for name in v.__all__))"
    )
    assert out.split("\n")[:2] == ["[]", "True"]


def test_without_matplotlib_only_the_plots_fail_and_say_what_to_install() -> None:
    out = run_python(
        "import sys\nsys.modules['matplotlib'] = None\n"
        "from simpipe.errors import SimpipeError\n"
        "from simpipe.visualization import confusion_matrix, projector\n"
        "print(projector([[0.0, 1.0], [1.0, 0.0]], labels=['a', 'b']).method)\n"
        "try:\n    confusion_matrix([1], [1])\nexcept SimpipeError as error:\n    print(error)"
    )
    assert out.startswith("none\n")
    assert "confusion_matrix needs matplotlib" in out
    assert "pip install matplotlib" in out


def test_without_pyplot_show_false_leaves_no_global_state() -> None:
    out = run_python(
        "import sys, matplotlib, numpy as np\n"
        "params = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = params()\n"
        "from simpipe.visualization import confusion_matrix, visualize_views\n"
        "ax, _ = confusion_matrix([1, 2], [1, 1], show=False)\n"
        "visualize_views([np.zeros((2, 4, 4))], show=False)\n"
        "ax.figure.savefig('/dev/null', format='png')\n"
        "print('matplotlib.pyplot' in sys.modules, params() == before)"
    )
    assert out == "False True\n"


def test_showing_on_a_backend_without_a_screen_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    from matplotlib import pyplot

    confusion_matrix([1], [1])
    viz_neigbors_imgs(np.eye(4), 1, [])
    visualize_views([np.zeros((1, 4, 4))])
    assert len(pyplot.get_fignums()) == 3
    assert not [warning for warning in recwarn if "interactive" in str(warning.message)]


def test_unknown_names_are_refused() -> None:
    import simpipe.visualization

    with pytest.raises(AttributeError, match="no_such_plot"):
        simpipe.visualization.no_such_plot  # noqa: B018  the access is the test


# ---- neighbors ----


def test_neighbors_keep_their_order_titles_and_pixels() -> None:
    assert viz_neigbors_imgs is viz_neighbors_imgs
    images, _ = digits()
    near = [lookup(np.int64(3), 0.125, images[1][..., None]), lookup(7, 0.5, images[2])]
    axes = viz_neigbors_imgs(images[0], np.int64(3), near, fig_size=(9, 3), cmap="viridis", show=False)
    assert axes.shape == (3,)
    assert [ax.get_title() for ax in axes] == ["query: 3", "3\ndistance 0.12500", "✗ 7\ndistance 0.50000"]
    for ax, image in zip(axes, images[:3], strict=True):
        np.testing.assert_array_equal(shown(ax), image)
    assert [ax.images[0].get_cmap().name for ax in axes] == ["viridis", "viridis", "Reds"]
    assert {ax.images[0].get_clim() for ax in axes} == {(images[:3].min(), images[:3].max())}
    assert axes[0].figure.get_size_inches().tolist() == [9, 3]
    frames = [matplotlib.colors.to_hex(ax.spines["top"].get_edgecolor()) for ax in axes]
    assert frames[0] == frames[1] != frames[2] == "#c1121f"
    assert not axes[0].get_xticks().size


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_color_neighbors_stay_as_they_are_and_wrong_ones_turn_red(dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    data = image if dtype == np.uint8 else (image / 255).astype(dtype)
    axes = viz_neighbors_imgs(data, "cat", [lookup("cat", 0.1, data), lookup("dog", 0.2, data)], show=False)
    for ax in axes[:2]:
        np.testing.assert_allclose(shown(ax), image / 255, atol=1e-6)
    tinted = shown(axes[2])
    assert tinted.shape == image.shape
    assert (tinted[..., 0] - tinted[..., 1:].mean(-1)).mean() > 0.2
    # the picture stays legible: its pixels keep their order from dark to bright
    assert np.corrcoef(tinted.ravel(), (image / 255).ravel())[0, 1] > 0.7


def test_colors_of_other_ranges() -> None:
    image = np.linspace(0, 255, 27).reshape(3, 3, 3)
    ax = viz_neighbors_imgs(image, 0, [], show=False)[0]  # floats 0..255
    np.testing.assert_allclose(shown(ax), image / 255, atol=1e-6)
    ax = viz_neighbors_imgs(image / 127.5 - 1, 0, [], show=False)[0]  # -1..1
    np.testing.assert_allclose(shown(ax), image / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({1: "one", -1: "none"}, ["query: one", "✗ 2", "✗ none", "no label"]),
        (["zero", "one", "two"], ["query: one", "✗ two", "✗ -1", "no label"]),
        (None, ["query: 1", "✗ 2", "✗ -1", "no label"]),
    ],
)
def test_names_of_neighbors(mapping: Any, expected: list[str]) -> None:
    image = np.eye(3)
    near = [lookup(2, 0.1, image), lookup(-1, 0.2, image), lookup(None, 0.3, image)]
    axes = viz_neighbors_imgs(image, np.asarray(1, np.int32), near, class_mapping=mapping, show=False)
    assert [ax.get_title().split("\n")[0] for ax in axes] == expected


def test_without_a_class_of_the_query_no_neighbor_is_wrong() -> None:
    image = np.eye(3)
    axes = viz_neighbors_imgs(image, None, [lookup("dog", 0.1, image)], show=False)
    assert axes[1].get_title() == "dog\ndistance 0.10000"
    assert axes[1].images[0].get_cmap().name == "viridis"


def test_neighbors_without_a_picture_get_words() -> None:
    axes = viz_neighbors_imgs(
        np.eye(3), 1, [lookup(1, 0.1, None), lookup(1, 0.2, np.zeros(5)), lookup(1, 0.3, "text")], show=False
    )
    words = [ax.texts[0].get_text() for ax in axes[1:]]
    assert words == ["no picture", "no picture:\nndarray (5,)", "no picture:\nstr"]
    axes[0].figure.savefig(io.BytesIO())


def test_neighbors_of_a_whole_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="several queries"):
        viz_neighbors_imgs(np.eye(3), 1, [[lookup(1, 0.1, None)]], show=False)


def test_names_with_dollars_are_no_formulas() -> None:
    axes = viz_neighbors_imgs(np.eye(3), EVIL, [], show=False)
    ax, _ = confusion_matrix([EVIL], [EVIL], title=EVIL, show=False)
    for figure in (axes[0].figure, ax.figure):
        figure.savefig(io.BytesIO())  # "$\frac$" would fail as a formula


# ---- confusion matrix ----


def test_known_matrix() -> None:
    predicted, true = [0, 1, 2, 4, 3, 0, 1, 4, 4, 4], [0, 1, 2, 3, 4] * 2
    ax, matrix = confusion_matrix(predicted, true, show=False)
    np.testing.assert_array_equal(matrix[2], [0, 0, 0.5, 0, 0.5])
    np.testing.assert_array_equal(matrix[4], [0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(matrix, oracle(true, predicted, normalize="true"))
    np.testing.assert_array_equal(shown(ax), matrix)
    assert ax.get_xlabel() == "Predicted label\naccuracy=0.6000; misclass=0.4000"
    assert ax.get_ylabel() == "True label"
    assert ax.get_title() == "Confusion matrix"
    assert ticks(ax) == ["0", "1", "2", "3", "4"]
    assert ax.images[0].get_cmap().name == "Blues"
    cells = {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}
    assert cells[2, 2] == cells[4, 2] == "0.50"  # x is the predicted class, y the true one
    assert cells[0, 0] == "1.00"
    assert cells[3, 3] == "0"


def test_counts_of_the_tutorial_with_a_class_for_no_match() -> None:
    names = ["airplane", "automobile", "bird", "Unknown"]
    true = np.asarray([0, 0, 2, 2, 2], np.int64)
    ax, matrix = confusion_matrix([0, 3, 2, 2, 0], true, labels=names, normalize=False, title="at optimal", show=False)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    assert ticks(ax) == names
    assert ax.get_title() == "at optimal"
    assert sorted(text.get_text() for text in ax.texts if text.get_text() != "0") == ["1", "1", "1", "2"]


def test_a_row_without_examples_stays_zero() -> None:
    _, matrix = confusion_matrix([1, 1], [0, 0], labels=["a", "b", "c"], show=False)
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_negative_classes_come_first() -> None:
    predicted, true = [-1, 0, 1, -1, 1], [0, 0, 1, 1, 0]
    ax, matrix = confusion_matrix(predicted, true, normalize=False, show=False)
    np.testing.assert_array_equal(matrix, oracle(true, predicted))
    assert ticks(ax) == ["-1", "0", "1"]
    assert ax.get_xlabel().endswith("accuracy=0.4000; misclass=0.6000")


def test_strings_with_no_match_as_a_number_or_none() -> None:
    true = ["cat", "dog", "dog", "emu"]
    ax, matrix = confusion_matrix(["cat", -1, "dog", "cat"], true, normalize=False, show=False)
    assert ticks(ax) == ["-1", "cat", "dog", "emu"]
    np.testing.assert_array_equal(matrix, [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]])
    ax, other = confusion_matrix(np.asarray(["cat", None, "dog", "cat"], object), np.asarray(true), normalize=False, show=False)
    assert ticks(ax) == ["cat", "dog", "emu", "no match"]
    np.testing.assert_array_equal(other, [[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("predicted", "true", "labels", "expected"),
    [
        ([10, 30], [10, 20], ["a", "b", "c"], ["a", "b", "c"]),  # sorted classes, one by one
        ([10, 30], [10, 20], {10: "a", 40: "d"}, ["a", "20", "30", "d"]),
        (["x", "z"], ["x", "x"], ["z", "y", "x"], ["z", "y", "x"]),  # the classes themselves, in this order
        (["x", -1], ["x", "z"], ["z", "x"], ["z", "x", "-1"]),
        ([1, 3], [1, 2], [1, 2, 3, 4], ["1", "2", "3", "4"]),
        ([0, -1], [0, 1], ["a", "b"], ["-1", "a", "b"]),
        ([0, -1], [0, 0], {-1: "none", 0: "a", 1: "b"}, ["none", "a", "b"]),
        ([0, None], [0, 1], ["a", "b"], ["a", "b", "no match"]),
        ([1.0, 0.0], [[1], [1]], np.asarray(["a", "b"]), ["a", "b"]),
    ],
)
def test_display_names(predicted: Any, true: Any, labels: Any, expected: list[str]) -> None:
    ax, matrix = confusion_matrix(predicted, true, labels=labels, normalize=False, show=False)
    assert ticks(ax) == expected
    assert matrix.shape == (len(expected), len(expected))
    assert matrix.sum() == 2
    assert np.trace(matrix) == 1


def test_names_that_could_be_read_two_ways_show_their_class(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ax, _ = confusion_matrix([0, -1], [0, 1], labels=["none", "a", "b"], show=False)
    assert ticks(ax) == ["none = -1", "a = 0", "b = 1"]
    assert "'none' taken for class -1" in caplog.text


classes = st.one_of(st.integers(-3, 40), st.sampled_from(["a", "B", "", "ä"]))


@pytest.mark.filterwarnings("ignore:A single label")
@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(classes, classes), min_size=1, max_size=40), normalize=st.booleans())
def test_any_classes_agree_with_scikit_learn(pairs: list[tuple[Any, Any]], normalize: bool) -> None:
    true, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    order = sorted({value for pair in pairs for value in pair}, key=lambda value: (isinstance(value, str), value))
    place = {value: i for i, value in enumerate(order)}
    _, matrix = confusion_matrix(predicted, true, normalize=normalize, show=False)
    expected = oracle(
        [place[value] for value in true], [place[value] for value in predicted], labels=range(len(order)),
        normalize="true" if normalize else None,
    )  # fmt: skip
    np.testing.assert_allclose(matrix, expected)


def test_many_classes_have_no_numbers_and_few_ticks() -> None:
    ax, matrix = confusion_matrix(np.arange(150), np.arange(150), show=False)
    np.testing.assert_array_equal(matrix, np.eye(150))
    assert not ax.texts
    assert ticks(ax) == [str(i) for i in range(0, 150, 3)]


@pytest.mark.parametrize(
    ("predicted", "true", "labels", "message"),
    [
        ([1, 2], [1], None, "2 predictions for 1"),
        ([], [], None, "0 predictions"),
        ([0.5, 1.0], [0, 1], None, "y_pred: holds fractions"),
        (np.zeros((2, 3)), [0, 1], None, r"y_pred: shape \(2, 3\)"),
        ([0, 5], [0, 5], ["a", "b", "c"], "3 names for 2 classes"),
        (["x", "y"], ["x", "y"], ["a"], "1 names for 2 classes"),
    ],
)
def test_confusion_refuses(predicted: Any, true: Any, labels: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        confusion_matrix(predicted, true, labels=labels, show=False)


def test_class_values_of_all_kinds() -> None:
    values = value_list([np.int64(3), b"x", "x", None, float("nan"), 2.0, True, -1], "labels")
    known, codes = encode(values)
    assert known == [-1, 1, 2, 3, "x", None]
    assert codes.tolist() == [3, 4, 4, 5, 5, 2, 1, 0]
    assert display_name(2**40) == str(2**40)
    assert display_name(np.asarray(["a"])) == "a"


# ---- views ----


def test_views_stand_side_by_side() -> None:
    images, labels = digits()
    one, two = images[:5, ..., None], images[:5, :, ::-1, None]
    axes = visualize_views(
        [one, two], labels=labels[:5], predictions=np.full((5, 1), 0.25), views_per_col=3, max_pixel_value=16.0, show=False
    )
    assert axes.shape == (2, 3)
    cell = shown(axes[0, 1])
    np.testing.assert_allclose(cell[:, :8], images[1] / 16, atol=1e-6)
    np.testing.assert_allclose(cell[:, -8:], images[1, :, ::-1] / 16, atol=1e-6)
    assert (cell[:, 8:-8] == 1).all()
    assert cell.shape[1] > 16
    assert axes[1, 0].get_title() == "Label: 3 | Pred: 0.25000"
    assert not axes[1, 2].images


def test_views_of_colors_are_scaled_and_cut_off() -> None:
    view = np.asarray([-2.0, -1.0, 0.0, 1.0, 2.0, 1.0]).reshape(1, 2, 1, 3)
    axes = visualize_views([view], min_pixel_value=-1.0, max_pixel_value=1.0, show=False)
    np.testing.assert_allclose(shown(axes[0, 0]).ravel(), [0, 0, 0.5, 1, 1, 1])
    assert axes.shape == (1, 4)


@pytest.mark.parametrize(
    ("prediction", "text"),
    [(np.float32(0.5), "0.50000"), (3, "3"), ("cat", "cat"), (np.asarray([0.1, 0.7, 0.2]), "1 (0.70000)")],
)
def test_views_show_predictions_of_all_kinds(prediction: Any, text: str) -> None:
    axes = visualize_views([np.zeros((1, 2, 2))], predictions=[prediction], num_imgs=4, show=False)
    assert axes[0, 0].get_title() == f"Pred: {text}"


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ([], {}, "nothing to draw"),
        ([np.zeros((2, 4))], {}, "example 0 has shape"),
        ([np.zeros((2, 4, 4)), np.zeros((2, 5, 4))], {}, "views of shapes"),
        ([np.zeros((2, 4, 4))], {"labels": [1]}, "labels: 1 for 2"),
        ([np.zeros((2, 4, 4))], {"max_pixel_value": 0.0}, "not above"),
        ([np.zeros((2, 4, 4))], {"views_per_col": 0}, "views_per_col"),
    ],
)
def test_views_refuse(views: list[np.ndarray], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        visualize_views(views, **options, show=False)
