"""ANN recall of each partition; the lowest stands out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from simpipe.visualization import style

MAX_PARTITIONS = 32


@style.drawing("partition-recall")
def partition_recall(
    partitions: Sequence[int], recall: Sequence[float | None], overall: float | None = None
) -> tuple[Figure, str] | None:
    """A dot a partition, the `MAX_PARTITIONS` lowest where there are more; "" for fewer than two with a recall.

    Args:
      partitions: n numbers. recall: of each; None where no true neighbor lies in it.
      overall: drawn as a line.
    """
    known = [(number, value) for number, value in zip(partitions, recall, strict=True) if value is not None]
    if len(known) < 2:
        return None
    worst = min(known, key=lambda pair: (pair[1], pair[0]))
    shown = sorted(sorted(known, key=lambda pair: (pair[1], pair[0]))[:MAX_PARTITIONS])
    values = np.array([value for _, value in shown])
    y = np.arange(len(shown))
    low = max(0.0, min(values.min(), 1.0 if overall is None else overall) - 0.1 * max(1.0 - values.min(), 0.005))
    figure = style.new_figure(max(2.2, 1.0 + 0.19 * len(shown)))
    axes = figure.add_subplot()
    is_worst = np.array([number == worst[0] for number, _ in shown]) & (values.max() > worst[1])
    colors = np.where(is_worst, style.ORANGE, style.BLUE).tolist()
    axes.hlines(y, low, values, color=style.GRID, linewidth=1.2)
    axes.scatter(values, y, color=colors, s=np.where(is_worst, 42, 24), zorder=3)
    if overall is not None:
        axes.axvline(overall, color=style.MUTED, linewidth=1.0, linestyle=style.DASHES[1], label=f"all: {overall:.4f}")
        figure.legend(loc="outside lower center", handlelength=2.4)
    left = worst[1] > low + 0.7 * (1 - low)
    for place in np.flatnonzero(is_worst).tolist():
        axes.annotate(
            f"lowest: {worst[1]:.4f}", (worst[1], place), xytext=(-7 if left else 7, 0), textcoords="offset points",
            va="center", ha="right" if left else "left", fontsize=9, color=style.ORANGE, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    axes.set_yticks(y, [str(number) for number, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(low, 1 + 0.03 * (1 - low))
    style.name_axes(axes, "ANN recall of the partition's items (share of true neighbors, 0 to 1)", "partition (number)")
    style.grid_lines(axes, "x")
    part = "" if len(shown) == len(known) else f" the {len(shown)} lowest of"
    return figure, f"ANN recall of{part} {len(known)} partitions; the lowest is partition {worst[0]} with {worst[1]:.4f}."
