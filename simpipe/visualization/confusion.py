"""The confusion matrix as a matplotlib figure and as numbers; negative classes, strings and "no match" are classes too."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simpipe.errors import ConfigError
from simpipe.visualization.class_labels import encode, plain, sort_values, value_list
from simpipe.visualization.figures import new_figure, show_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_MATCH = "no match"
MAX_NUMBERS = 30  # classes; with more, cells are too small for numbers
MAX_TICKS = 60
logger = logging.getLogger(__name__)


def confusion_matrix(
    y_pred: Any,
    y_true: Any,
    normalize: bool = True,
    labels: Sequence[Any] | Mapping[Any, Any] | None = None,
    title: str = "Confusion matrix",
    cmap: str = "Blues",
    show: bool = True,
) -> tuple[Axes, np.ndarray]:
    """Draws which classes were predicted for the examples of each class.

    Rows are true classes, columns predicted ones, in sorted order: negative numbers, numbers, strings, None ("no match").
    Without `labels`, the classes are those that occur in `y_true` or `y_pred`.

    Args:
      y_pred: n predicted classes, as `model.match` returns them: numbers (also negative, such as a no-match label -1),
        strings, None, or a mix.
      y_true: n true classes.
      normalize: divide each row by its sum, so that the diagonal is each class's recall; a row without examples stays 0.
      labels: display names. A mapping class -> name is always clear, and its classes get a row also where they do not occur.
        A sequence that holds the classes themselves fixes the order of the rows. Otherwise its names stand for the classes
        0..len - 1 if all classes are such numbers (they all get a row), else for the sorted classes that occur, one by one.
        Negative classes beside a full set of names show their number.
      title: title of the figure.
      cmap: color map.
      show: whether to show the figure with pyplot. Otherwise it is drawn without pyplot, and `ax.figure` saves it.

    Returns:
      ax: the axes of the matrix.
      cm: float64[c, c], rows of sum 1 (or 0), if `normalize`; else int64[c, c] counts.

    Raises:
      ConfigError: `y_pred` and `y_true` differ in length, are empty or no classes, or `labels` do not fit the classes.
    """
    predicted, true = value_list(y_pred, "y_pred"), value_list(y_true, "y_true")
    if len(predicted) != len(true) or not true:
        raise ConfigError(f"{len(predicted)} predictions for {len(true)} true classes", "pass one of each per example")
    classes, codes = encode([*true, *predicted])
    rows, names = _rows(classes, labels)
    place = {value: i for i, value in enumerate(rows)}
    codes = np.asarray([place[value] for value in classes])[codes]
    of_true, of_predicted = codes[: len(true)], codes[len(true) :]
    n = len(rows)
    counts = np.bincount(of_true * n + of_predicted, minlength=n * n).reshape(n, n)
    matrix = counts / np.maximum(counts.sum(1, keepdims=True), 1) if normalize else counts
    accuracy = float((of_true == of_predicted).mean())
    ax = _draw(matrix, names, title, cmap, show)
    ax.set_xlabel(f"Predicted label\naccuracy={accuracy:.4f}; misclass={1 - accuracy:.4f}")
    if show:
        show_figures()
    return ax, matrix


def _rows(classes: list[Any], labels: Sequence[Any] | Mapping[Any, Any] | None) -> tuple[list[Any], list[str]]:
    """The classes that get a row, in order, and their names."""
    if labels is None:
        return classes, [_name(value) for value in classes]
    if isinstance(labels, Mapping):
        known = {plain(key): str(plain(name)) for key, name in labels.items()}
        rows = sort_values([*known, *classes])
        return rows, [known.get(value, _name(value)) for value in rows]
    found = [value for value in classes if value is not None]
    none: list[Any] = [None] if None in classes else []
    rows, names = _named(found, [plain(name) for name in np.asarray(labels, object).ravel()])
    return [*rows, *none], [*names, *map(_name, none)]


def _named(found: list[Any], listed: list[Any]) -> tuple[list[Any], list[str]]:
    """The same for a sequence of names and classes without None."""
    names = list(map(str, listed))
    n, known, strings = len(names), set(listed), any(isinstance(value, str) for value in found)
    unknown = [value for value in found if value not in known]
    free = all(isinstance(value, int) and (strings or value < 0) for value in unknown)  # such as a no-match label
    if len(unknown) < len(found) and free and len(known) == n:
        return [*listed, *unknown], [*names, *map(_name, unknown)]
    if all(isinstance(value, int) for value in found) and max(found, default=0) < n:
        negative = [value for value in found if value < 0]
        if not negative or max(found) == n - 1 or len(found) != n:
            return [*negative, *range(n)], [*map(_name, negative), *names]
        logger.warning("labels: %r taken for class %s; pass a dict class -> name to say otherwise", names[0], found[0])
        names = [f"{name} = {value}" for value, name in zip(found, names, strict=True)]
    if len(found) != n:
        raise ConfigError(
            f"labels: {n} names for {len(found)} classes ({', '.join(map(str, found[:8]))}{', …' * (len(found) > 8)})",
            "pass a dict class -> name, or one name per class in sorted order",
        )
    return found, names


def _name(value: Any) -> str:
    return NO_MATCH if value is None else str(value)


def _draw(matrix: np.ndarray, names: list[str], title: str, cmap: str, show: bool) -> Axes:
    n = len(names)
    side = min(max(0.48 * min(n, MAX_NUMBERS) + 2.2, 5.0), 15.0)
    figure = new_figure((side + 1.2, side), show=show, what="confusion_matrix")
    from simpipe.visualization import style

    ax = figure.add_subplot()
    normalized = matrix.dtype.kind == "f"
    image = ax.imshow(matrix, interpolation="nearest", cmap=cmap, vmin=0, vmax=1 if normalized else max(int(matrix.max()), 1))
    figure.colorbar(image, ax=ax, shrink=0.85, label="share of the true label's examples" if normalized else "examples (number)")
    shown = [style.shorten(name, 18) for name in names]
    ticks = range(0, n, -(-n // MAX_TICKS))
    long = max(len(shown[i]) for i in ticks) > 2 and (n > 4 or max(map(len, shown)) > 10)
    ax.set_xticks(
        ticks, [shown[i] for i in ticks], rotation=45 if long else 0, ha="right" if long else "center",
        rotation_mode="anchor" if long else None, parse_math=False,
    )  # fmt: skip
    ax.set_yticks(ticks, [shown[i] for i in ticks], parse_math=False)
    ax.set_ylabel("True label")
    ax.set_title(style.shorten(title, 80), parse_math=False)
    if n <= MAX_NUMBERS:
        red, green, blue = np.moveaxis(np.asarray(image.to_rgba(matrix))[..., :3], 2, 0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        for row, column in np.ndindex(n, n):
            value = matrix[row, column]
            text = "0" if not value else f"{value:.2f}" if normalized else f"{value:,}"
            ink = "white" if dark[row, column] else style.INK if value else style.FAINT
            ax.text(column, row, text, ha="center", va="center", fontsize=9 if len(text) < 5 else 7, color=ink)
    return ax
