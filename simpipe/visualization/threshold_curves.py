"""Precision, recall, F1 and binary accuracy against the distance threshold, with intervals and the cutpoints on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from simpipe.visualization import style

CURVES = {"precision": "precision", "recall": "recall", "f1": "F1", "binary_accuracy": "binary accuracy"}
ALL = ("recall_all", "recall of all")  # among the curves with intervals; drawn where it is none of the others
_COLORS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)
_CHARACTER = 0.0195  # the width of a character as a share of the axes' width
Values = Sequence[float] | np.ndarray
_ROW = 13.5  # points between the names of cutpoints


def thin(thresholds: Mapping[str, Values], keep: Sequence[float] = (), points: int = 600) -> dict[str, np.ndarray]:
    """About `points` of the thresholds, ordered by distance.

    Both ranks and distances are covered evenly; the ends, each curve's maximum and the thresholds nearest to `keep`
    (the cutpoints) always stay.

    Args:
      thresholds: "distance" and one list a curve, all of length n.
      keep: distances.
      points: how many to keep, about.

    Returns:
      float64[m] for each key.
    """
    columns = {name: np.asarray(values, np.float64) for name, values in thresholds.items()}
    distance = columns.get("distance", np.empty(0))
    order = np.argsort(distance, kind="stable")
    order = order[np.isfinite(distance[order])]
    columns = {name: values[order] for name, values in columns.items()}
    distance, n = columns.get("distance", distance), len(order)
    if n > points:
        by_rank = np.linspace(0, n - 1, points // 2).round()
        by_distance = np.searchsorted(distance, np.linspace(distance[0], distance[-1], points // 2))
        best = [np.nanargmax(values) for values in columns.values() if np.isfinite(values).any()]
        wanted = np.asarray([value for value in keep if np.isfinite(value)], np.float64)
        right = np.clip(np.searchsorted(distance, wanted), 1, n - 1)
        near = np.where(wanted - distance[right - 1] <= distance[right] - wanted, right - 1, right)
        rows = np.unique(np.concatenate([by_rank, np.minimum(by_distance, n - 1), best, near]).astype(np.int64))
        columns = {name: values[rows] for name, values in columns.items()}
    return columns


@style.drawing("threshold-curves")
def threshold_curves(
    thresholds: Mapping[str, Values],
    cutpoints: Sequence[Mapping[str, Any]],
    distance_name: str = "distance",
    bands: Mapping[str, Values] | None = None,
) -> tuple[Figure, str] | None:
    """Curves with a vertical line at each cutpoint, a bar above for its interval; "" where there are no thresholds.

    Args:
      thresholds: "distance" and any of `CURVES`, lists of length n.
      cutpoints: each with "name" and "distance", and maybe `interval["distance"]`, [low, high].
      distance_name: the x axis, such as "cosine distance".
      bands: "distance" and for a curve M: M_low and M_high, the ends of its interval; also `recall_all` itself.
    """
    marked = sorted(
        (float(point["distance"]), str(point["name"]))
        for point in cutpoints
        if point.get("distance") is not None and np.isfinite(point["distance"])
    )
    columns = thin(thresholds, [distance for distance, _ in marked])
    x = columns.get("distance", np.empty(0))
    if not len(x):
        return None
    rows = max(1, len(marked))
    figure = style.new_figure(3.1 + _ROW / 72 * rows)
    axes = figure.add_subplot()
    for (key, name), color, dashes in zip(CURVES.items(), _COLORS, style.DASHES, strict=True):
        if key in columns:
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, columns[key], color=color, linestyle=dashes, linewidth=1.6, label=name, marker=marker, markersize=3)
    banded = _bands(axes, bands or {})
    spans = {str(point["name"]): span for point in cutpoints if (span := interval_of(point)) is not None}
    low, high = min([x[0], *(d for d, _ in marked)]), max([x[-1], *(d for d, _ in marked)])
    pad = (high - low) * 0.02 or 0.05
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-0.02, 1.03)
    _mark_cutpoints(axes, marked, spans)
    style.name_axes(axes, f"{distance_name} threshold (no unit; matches lie at or below it)", "value (share, 0 to 1)")
    style.grid_lines(axes)
    columns = 4 if len(axes.get_legend_handles_labels()[0]) < 5 else 3
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.0, handletextpad=0.4)
    names = ", ".join(f"{name} at {distance:.4g}" for distance, name in marked)
    what = "Precision, recall, F1 and binary accuracy against the distance threshold"
    return figure, f"{what}{', with intervals' if banded or spans else ''}. Cutpoints: {names or 'none'}."


def interval_of(point: Mapping[str, Any], key: str = "distance") -> tuple[float, float] | None:
    """The interval of one of a cutpoint's values; None where it has none."""
    span = (point.get("interval") or {}).get(key)
    if span is None or any(end is None or not np.isfinite(end) for end in span):
        return None
    return float(span[0]), float(span[1])


def _bands(axes: Axes, bands: Mapping[str, Values]) -> bool:
    """Strips between the ends of intervals, and recall of all; whether there were strips."""
    columns = {name: np.asarray(values, np.float64) for name, values in bands.items()}
    x, found = columns.get("distance", np.empty(0)), False
    for key, color in zip(CURVES, _COLORS, strict=True):
        if len(x) and f"{key}_low" in columns and np.isfinite(columns[f"{key}_low"]).any():
            axes.fill_between(x, columns[f"{key}_low"], columns[f"{key}_high"], color=color, alpha=0.17, linewidth=0)
            found = True
    key, name = ALL
    others = [columns[other] for other in ("recall", "binary_accuracy") if other in columns]
    if len(x) and key in columns and not any(np.allclose(columns[key], other, equal_nan=True) for other in others):
        axes.plot(x, columns[key], color=style.MUTED, linestyle=style.DASHES[2], linewidth=1.3, label=name)
    return found


def _mark_cutpoints(axes: Axes, marked: list[tuple[float, str]], spans: Mapping[str, tuple[float, float]]) -> None:
    """A line at each cutpoint and above the plot its name and value, one a row, underlined by its interval.

    Rows are ordered so that lines cross as few names as possible: names that run to the right have the nearest cutpoint
    on top, names without room there run to the left, above the others.
    """
    low, high = axes.get_xlim()
    places = []
    for distance, name in marked:
        text = f"{style.shorten(name)}: {distance:.4f}"
        share = (distance - low) / (high - low)
        places.append((share + _CHARACTER * len(text) > 1.0, distance, text, spans.get(name)))
    places.sort(key=lambda place: (place[0], place[1] if place[0] else -place[1]))
    dashes = (0, (2, 1.5))
    for row, (left, distance, text, span) in enumerate(places):
        base = 5 + _ROW * row
        if span is not None:
            figure = axes.get_figure(root=True)
            assert figure is not None
            lifted = axes.get_xaxis_transform() + ScaledTranslation(0, (base - 0.5) / 72, figure.dpi_scale_trans)
            axes.plot(
                np.clip(span, low, high), [1, 1], transform=lifted, color=style.FAINT, linewidth=2.2, solid_capstyle="butt",
                clip_on=False, zorder=6,
            )  # fmt: skip
        axes.axvline(distance, color=style.INK, linewidth=0.9, linestyle=dashes)
        at_top: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
        axes.annotate(
            "", (distance, 1), xytext=(0, base + 9), **at_top, zorder=2,
            arrowprops={"arrowstyle": "-", "color": style.INK, "linewidth": 0.9, "linestyle": dashes, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        axes.annotate(
            text, (distance, 1), xytext=(-3 if left else 3, base), **at_top, zorder=5,
            fontsize=9, color=style.INK, ha="right" if left else "left", va="bottom",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
