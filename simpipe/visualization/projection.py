"""The 2-d projection of embeddings; classes that training never saw have a mark of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simpipe.visualization import style

MAX_NAMED = 20
_ROOMY = 12  # classes; with more, names are small and stand above their clusters
MAX_VECTOR_POINTS = 3000  # above, points become a picture inside the SVG


@style.drawing("projection")
def projection_scatter(
    points: np.ndarray, labels: Sequence[str], held_out: Sequence[bool], classes: Sequence[str]
) -> tuple[Figure, str] | None:
    """A scatter plot, names at the classes' centres for at most `MAX_NAMED` classes; "" without points.

    Args:
      points: float32[n, 2].
      labels: n class names.
      held_out: n times whether training never saw the class.
      classes: the distinct labels, in order; it fixes the colours.
    """
    if not len(points):
        return None
    figure = style.new_figure(4.5)
    axes = figure.add_subplot()
    number = {name: i for i, name in enumerate(classes)}
    of_class, unseen = np.asarray([number[label] for label in labels]), np.asarray(held_out, bool)
    color = np.asarray([style.PALETTE[i % len(style.PALETTE)] for i in of_class], object)
    raster = len(points) > MAX_VECTOR_POINTS
    size = 13 if len(points) <= 600 else 8 if not raster else 4
    for mask, marker in ((~unseen, "o"), (unseen, "^")):
        if mask.any():
            face = color[mask] if marker == "o" else "none"
            axes.scatter(
                points[mask, 0], points[mask, 1], s=size if marker == "o" else size * 1.7, marker=marker,
                c=face if marker == "o" else None, facecolors=None if marker == "o" else "none",
                edgecolors="none" if marker == "o" else list(color[mask]), linewidths=0 if marker == "o" else 0.9,
                alpha=0.65 if marker == "o" else 0.9, rasterized=raster,
            )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4))
    for spine in axes.spines.values():
        spine.set(visible=True, color=style.GRID)
    style.name_axes(axes, "first projected coordinate (no unit)", "second projected coordinate (no unit)")
    if len(classes) <= MAX_NAMED:
        _name_classes(axes, points, of_class, unseen, classes)
    if unseen.any():
        _legend(figure)
    return figure, f"Projection of {len(points)} embeddings of {len(classes)} classes to two dimensions."


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    seen = Line2D([], [], marker="o", color=style.MUTED, linestyle="", markersize=4, label="class seen in training")
    new = Line2D(
        [],
        [],
        marker="^",
        color=style.MUTED,
        linestyle="",
        markersize=5,
        markerfacecolor="none",
        label="class never seen in training",
    )
    figure.legend(handles=[seen, new], loc="outside lower center", ncols=2, handletextpad=0.2)


def _name_classes(axes: Axes, points: np.ndarray, of_class: np.ndarray, unseen: np.ndarray, classes: Sequence[str]) -> None:
    """Writes each class's name at its member nearest to the class's median, then pushes overlapping names apart."""
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)
    # Many classes make tight clusters: names stand small and above them, and the markers alone tell unseen ones.
    crowded = len(classes) > _ROOMY
    places, texts = [], []
    for i, name in enumerate(classes):
        members = points[of_class == i]
        middle = np.median(members, axis=0)
        place = (members[np.argmin(((members - middle) ** 2).sum(1))] - low) / span
        if crowded:
            place[1] = (members[:, 1].max() - low[1]) / span[1] + 0.035
        places.append(place)
        text = style.shorten(name, 16)
        texts.append(f"{text} (unseen)" if unseen[of_class == i].all() and not crowded else text)
    widths = np.asarray([(0.015 if crowded else 0.022) * len(text) + 0.03 for text in texts])
    spread = _push_apart(np.asarray(places, np.float64), widths, height=0.04 if crowded else 0.06)
    for i, (place, text) in enumerate(zip(spread, texts, strict=True)):
        x, y = place * span + low
        edge = style.PALETTE[i % len(style.PALETTE)]
        axes.text(
            x, y, text, ha="center", va="center", fontsize=8 if crowded else 10, fontweight="bold",
            color=style.INK,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": edge, "alpha": 0.7 if crowded else 0.9},
        )  # fmt: skip


def _push_apart(places: np.ndarray, widths: np.ndarray, height: float = 0.06) -> np.ndarray:
    """Moves boxes (float64[n, 2] centres, float64[n] widths, in shares of the plot) up and down until few overlap."""
    places = places.copy()
    for _ in range(60):
        moved = False
        for i in range(len(places)):
            for j in range(i):
                dx, dy = places[i] - places[j]
                if abs(dx) < (widths[i] + widths[j]) / 2 and abs(dy) < height:
                    push = (height - abs(dy)) / 2 + 1e-3
                    sign = 1.0 if dy >= 0 else -1.0
                    places[i, 1] += sign * push
                    places[j, 1] -= sign * push
                    moved = True
        if not moved:
            break
    return places
