"""The reliability plot: how often queries of a stated probability are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from simpipe.visualization import style

_BARS = 25


@style.drawing("reliability")
def reliability(
    mean: Sequence[float], share: Sequence[float], queries: Sequence[int], low: Sequence[float], high: Sequence[float]
) -> tuple[Figure, str] | None:
    """Shares with intervals against the diagonal, and bars of the bins' queries below; "" without queries.

    Args:
      mean: n mean probabilities of bins. share: of right queries in each.
      queries: in each; bins without any are left out. low, high: the interval of each share.
    """
    n = np.asarray(queries, np.int64)
    keep = n > 0
    if not keep.any():
        return None
    x, y, below, above = (np.asarray(each, np.float64)[keep] for each in (mean, share, low, high))
    order = np.argsort(x, kind="stable")
    n, x, y, below, above = n[keep][order], x[order], y[order], below[order], above[order]
    start = max(0.0, np.floor(min(x[0], below.min()) * 10 - 0.5) / 10)
    start = start if start >= 0.5 else 0.0  # where all is likely, the rest of the plot would be empty
    figure = style.new_figure(4.0)
    axes, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([start, 1], [start, 1], color=style.FAINT, linewidth=1.2, linestyle=style.DASHES[1], label="as stated")
    axes.errorbar(
        x, y, yerr=np.maximum([y - below, above - y], 0), color=style.BLUE, linewidth=1.3, marker="o", markersize=4, capsize=2.5,
        elinewidth=1.0, label="measured, with interval",
    )  # fmt: skip
    pad = 0.03 * (1 - start)
    axes.set_xlim(start - pad, 1 + pad)
    axes.set_ylim(start - pad, 1 + 1.5 * pad)
    span = f"({start:.2g} to 1)"
    style.name_axes(axes, y=f"share right {span}")
    axes.legend(loc="upper left")
    style.grid_lines(axes)
    counts, edges = np.histogram(x, bins=_BARS, range=(start, 1.0), weights=n)
    bars.bar(edges[:-1], counts, width=0.9 * np.diff(edges), align="edge", color=style.BLUE, alpha=0.75)
    bars.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bars.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    style.name_axes(bars, y="queries\n(number)")
    style.name_figure(figure, f"stated probability, mean of a bin {span}")
    style.grid_lines(bars)
    return figure, f"Reliability of the probability in {len(x)} bins with {int(n.sum()):,} queries, against the diagonal."
