"""Distances of right matches, wrong matches and open-set queries over each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from simpipe.visualization import style

FEW = 20  # a kind with fewer queries is drawn as marks: shares of so few say little
_COLORS = (style.BLUE, style.ORANGE, style.PURPLE)


@style.drawing("score-distribution")
def score_distribution(
    low: np.ndarray,
    high: np.ndarray,
    counts: Mapping[str, np.ndarray],
    cutpoint: tuple[str, float] | None = None,
    distance_name: str = "distance",
) -> tuple[Figure, str] | None:
    """A step curve a kind, each as shares of its own queries, or marks for fewer than `FEW`; "" where there are none.

    Args:
      low, high: float64[n] edges of bins that do not overlap; a last bin that goes on far is drawn short.
      counts: up to three kinds, each int64[n]; a kind without queries is left out.
      cutpoint: name and distance, drawn as a line.
      distance_name: the x axis.
    """
    shown = {kind: np.asarray(values, np.int64) for kind, values in counts.items() if np.sum(values)}
    if not shown:
        return None
    far = _far_end(low, high)
    edges = np.unique(np.concatenate([low, high if far is None else np.append(high[:-1], far)]))
    if len(edges) < 2:  # all distances are equal
        edges = edges[0] + np.array([-0.5, 0.5]) * max(abs(edges[0]) * 0.01, 1e-6)
    place = np.minimum(np.searchsorted(edges, low), len(edges) - 2)
    figure = style.new_figure(3.0)
    axes = figure.add_subplot()
    few: list[tuple[str, np.ndarray, str]] = []
    for (kind, values), color, dashes in zip(shown.items(), _colors_of(counts, shown), style.DASHES, strict=False):
        total = int(values.sum())
        if total < FEW:
            few.append((kind, values, color))
            continue
        share = np.zeros(len(edges) - 1)
        np.add.at(share, place, values / total)
        label = f"{style.shorten(kind)} ({total:,})"
        axes.stairs(share, edges, fill=True, color=color, alpha=0.18, linewidth=0)
        axes.stairs(share, edges, color=color, linewidth=1.5, linestyle=dashes, label=label)
    top = axes.get_ylim()[1] if len(few) < len(shown) else 1.0
    for row, (kind, values, color) in enumerate(few):
        at, label = np.flatnonzero(values), f"{style.shorten(kind)} ({int(values.sum()):,}, as marks)"
        middle = (edges[place[at]] + edges[place[at] + 1]) / 2
        axes.plot(
            middle, np.full(len(at), top * (0.05 + 0.07 * row)), color=color, linestyle="", marker="od^"[row], markersize=6,
            markeredgecolor="white", markeredgewidth=0.6, zorder=4, label=label,
        )  # fmt: skip
    said = ""
    if cutpoint is not None and np.isfinite(cutpoint[1]):
        name, distance = style.shorten(cutpoint[0]), cutpoint[1]
        axes.axvline(distance, color=style.INK, linewidth=1.0, linestyle=(0, (2, 1.5)))
        left = distance > edges[0] + 0.6 * (edges[-1] - edges[0])
        axes.annotate(
            f"{name}: {distance:.4f}", (distance, 1), xytext=(-3 if left else 3, 3), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", fontsize=9, color=style.INK, ha="right" if left else "left", va="bottom",
        )  # fmt: skip
        said = f" Cutpoint {name} at {distance:.4g}."
    axes.set_ylim(0, top * 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if axes.get_ylim()[1] >= 0.05 else 1, symbol=" %"))
    last = "" if far is None else f"; last bin: up to {high[-1]:.4g}"
    style.name_axes(axes, f"{distance_name} of the match (no unit{last})", "share of the kind's queries a bin (%)")
    style.grid_lines(axes)
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.2, columnspacing=1.2, handletextpad=0.4)
    kinds = ", ".join(f"{int(values.sum()):,} {kind}" for kind, values in shown.items())
    return figure, f"Histograms of the match's distance: {kinds} queries.{said}"


def _far_end(low: np.ndarray, high: np.ndarray) -> float | None:
    """Where a last bin that is far wider than the others ends in the picture; None where it is not."""
    width = np.median(high - low)
    return float(low[-1] + 2 * width) if len(low) > 2 and high[-1] - low[-1] > 3 * width > 0 else None


def _colors_of(counts: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray]) -> list[str]:
    """A kind keeps its colour where another one is left out."""
    return [_COLORS[place % len(_COLORS)] for place, kind in enumerate(counts) if kind in shown]
