"""Examples by class and split: bars for few classes, a ranked curve for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from simpipe.visualization import style

MAX_BARS = 30


@style.drawing("class-counts")
def class_counts(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> tuple[Figure, str] | None:
    """A panel of bars a split, or for more than `MAX_BARS` classes a curve a split from largest to smallest; "" without counts.

    Args:
      counts: split -> class -> number of examples.
      classes: all classes, in order.
    """
    if not classes or not counts:
        return None
    words = f"Examples of {len(classes)} classes in the splits {', '.join(counts)}."
    return (_bars(counts, classes) if len(classes) <= MAX_BARS else _curves(counts, classes)), words


def _bars(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Figure:
    figure = style.new_figure(0.75 + 0.2 * len(classes))
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    y = np.arange(len(classes))
    for axes, (split, by_class), color in zip(panels, counts.items(), style.PALETTE * len(counts), strict=False):
        values = [by_class.get(name, 0) for name in classes]
        axes.barh(y, values, height=0.7, color=color)
        high = max(max(values), 1)
        for row, value in enumerate(values):
            axes.text(value + high * 0.03, row, f"{value:,}" if value else "none", va="center", fontsize=8, color=style.MUTED)
        axes.set_xlim(0, high * 1.38)
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_title(style.shorten(split, 20), loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(y, [style.shorten(name, 18) for name in classes])
    style.name_figure(figure, "examples (number)", "class (name)")
    return figure


def _curves(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Figure:
    figure = style.new_figure(2.6)
    axes = figure.add_subplot()
    rank = np.arange(1, len(classes) + 1)
    keep = np.unique(np.linspace(0, len(classes) - 1, min(len(classes), 400)).round().astype(int))
    for position, (split, by_class) in enumerate(counts.items()):
        values = np.sort([by_class.get(name, 0) for name in classes])[::-1]
        axes.plot(
            rank[keep], values[keep], color=style.PALETTE[position % len(style.PALETTE)], linewidth=1.8,
            linestyle=style.DASHES[position % len(style.DASHES)], label=style.shorten(split, 20),
        )  # fmt: skip
    axes.set_xlim(1, len(classes))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    style.name_axes(axes, "class by size in its split (rank, largest first)", "examples (number)")
    style.grid_lines(axes)
    figure.legend(loc="outside lower center", ncols=min(len(counts), 4), handlelength=2.6)
    return figure
