"""The report's confusion matrix with numbers in its cells; the queries without a match stand apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simpipe.visualization import style

MAX_CLASSES = 30
_GAP = 0.4
_RIGHT = LinearSegmentedColormap.from_list("right", ["#e8f1f8", style.BLUE])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#fdeee3", style.ORANGE])
_NONE = LinearSegmentedColormap.from_list("none", ["#eff1f3", "#6b7785"])


@style.drawing("confusion")
def confusion_svg(labels: Sequence[str], counts: np.ndarray, others: np.ndarray | None = None) -> tuple[Figure, str] | None:
    """Blue cells are right, orange ones wrong, grey ones without a match; "" for no class or more than `MAX_CLASSES`.

    Args:
      labels: n class names.
      counts: int64[n, n + 1]: rows are true labels, columns matched labels, the last one "no match".
      others: int64[n]: queries matched to classes that are not among `labels`, as a column of their own.
    """
    n, extra = len(labels), int(others is not None)
    if not 0 < n <= MAX_CLASSES:
        return None
    side = min(0.40, 4.0 / n) if n <= 14 else 0.32
    names = [style.shorten(label, 14) for label in labels]
    long = max(map(len, names)) > 3
    margin = 0.35 + 0.075 * max(map(len, names))
    columns = n + 1 + extra
    figure = style.new_figure(side * n + margin + 0.45, max(style.WIDTH, side * (columns + _GAP) + margin + 0.4))
    axes = figure.add_subplot()
    if others is not None:
        counts = np.insert(counts, n, others, axis=1)
    totals = np.maximum(counts.sum(1), 1)
    size = min(9.0, side * 25)
    for row in range(n):
        for column in range(columns):
            count = int(counts[row, column])
            share = count / totals[row]
            palette = _NONE if column == columns - 1 else _RIGHT if row == column else _WRONG
            x = column + (_GAP if column >= n else 0.0)
            color = palette(share if row == column else np.sqrt(share)) if count else (1.0, 1.0, 1.0, 1.0)
            _cell(axes, x, row, count, color, size, side * 72)
    positions = [*range(n), *(column + _GAP for column in range(n, columns))]
    ends = (["other class"] if long else ["other\nclass"]) * extra + ["no match" if long else "no\nmatch"]
    axes.set_xticks(positions, [*names, *ends], rotation=90 if long else 0, fontsize=max(6.5, size))
    axes.set_yticks(range(n), names, fontsize=max(6.5, size))
    axes.set_xlim(-0.5, columns - 0.5 + _GAP)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    style.name_axes(axes, "matched label (name; cells: number of queries)", "true label (name)")
    right = int(np.trace(counts[:, :n]))
    of = f"{n} classes" if others is None else f"{n} classes, of more"
    return figure, f"Confusion matrix of {of}: {right} of {int(counts.sum())} queries matched to their own label."


def _cell(axes: Axes, x: float, y: float, count: int, color: tuple[float, ...], size: float, side: float) -> None:
    axes.add_artist(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=color, edgecolor=style.GRID, linewidth=0.6))
    text = f"{count:,}" if count < 10_000 else f"{count / 1000:,.0f}k"
    red, green, blue = color[:3]
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    fit = min(size, 0.92 * side / (0.62 * len(text)))
    ink = style.FAINT if not count else "#ffffff" if dark else style.INK
    written = axes.text(x, y, text if count else "·", ha="center", va="center", fontsize=fit, color=ink)
    written.set_in_layout(False)  # it lies inside, and there are hundreds
