"""A query's picture beside the pictures of its neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simpipe.errors import ConfigError
from simpipe.visualization.class_labels import display_name, plain
from simpipe.visualization.figures import new_figure, show_figures
from simpipe.visualization.pixels import limits, picture_of, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TINT = 0.35  # share of red in the colour picture of a wrong neighbor: enough to see, the picture stays legible
_RED = np.asarray([0.80, 0.05, 0.07], np.float32)


def viz_neighbors_imgs(
    example: Any,
    example_class: Any,
    neighbors: Sequence[Any],
    class_mapping: Mapping[Any, Any] | Sequence[Any] | None = None,
    fig_size: tuple[float, float] = (24, 4),
    cmap: str = "viridis",
    show: bool = True,
) -> np.ndarray:
    """Draws the query and its neighbors, nearest first, in one row.

    Neighbors of another class are marked by a cross before their label, a red frame, and a red tint: the color map "Reds"
    for grey pictures, a mix with red for colors. A neighbor without a label is neither right nor wrong. Grey pictures of a
    figure share one scale from dark to bright.

    Args:
      example: the query's picture, [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; integers 0..255 or floats.
      example_class: its class (number or string); None where it is unknown: no neighbor is then right or wrong.
      neighbors: what `model.lookup` returns for one query: objects with `distance`, `label` and `data`
        (`simpipe.types.Lookup`); `data` as `example`. A neighbor without a picture gets a frame that says so.
      class_mapping: dict class -> name, or names by class number; classes without a name show their value.
      fig_size: width and height in inches.
      cmap: color map of grey pictures.
      show: whether to show the figure with pyplot. Otherwise it is drawn without pyplot, and `axes[0].figure` saves it.

    Returns:
      axes: object[1 + len(neighbors)], the query's first.

    Raises:
      ConfigError: `neighbors` is a batch's list of lists.
    """
    neighbors = list(neighbors)
    if any(isinstance(neighbor, (list, tuple)) for neighbor in neighbors):
        raise ConfigError("neighbors: holds lists, the neighbors of several queries", "pass those of one query: lookups[i]")
    pictures = [picture_of(example), *(picture_of(neighbor.data) for neighbor in neighbors)]
    greys = [picture for picture in pictures if picture is not None and picture.ndim == 2]
    colors = [picture for picture in pictures if picture is not None and picture.ndim == 3]
    span, color_span = limits(greys, grey=True), limits(colors, grey=False)
    figure = new_figure(fig_size, show=show, what="viz_neighbors_imgs")
    axes = figure.subplots(1, 1 + len(neighbors), squeeze=False)[0]
    asked = plain(example_class)
    titles = [f"query: {display_name(asked, class_mapping)}"]
    wrong = [False]
    for neighbor in neighbors:
        label = plain(neighbor.label)
        wrong.append(asked is not None and label is not None and label != asked)
        mark = "✗ " if wrong[-1] else ""
        titles.append(f"{mark}{display_name(neighbor.label, class_mapping)}\ndistance {float(neighbor.distance):.5f}")
    data = [example, *(neighbor.data for neighbor in neighbors)]
    for ax, picture, value, title, is_wrong in zip(axes, pictures, data, titles, wrong, strict=True):
        if picture is None:
            _say(ax, value)
        elif picture.ndim == 2:
            ax.imshow(picture, cmap="Reds" if is_wrong else cmap, vmin=span[0], vmax=span[1])
        else:
            shown = unit(picture, color_span)
            if is_wrong:
                shown[:, :, :3] = (1 - _TINT) * shown[:, :, :3] + _TINT * _RED
            ax.imshow(shown)
        _frame(ax, title, is_wrong)
    if show:
        show_figures()
    return axes


viz_neigbors_imgs = viz_neighbors_imgs  # TF Similarity's spelling


def _say(ax: Axes, value: Any) -> None:
    """Text in the place of a picture."""
    shape = getattr(value, "shape", None)
    reason = (
        "no picture" if value is None else f"no picture:\n{type(value).__name__}{'' if shape is None else f' {tuple(shape)}'}"
    )
    ax.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, transform=ax.transAxes)
    ax.set_aspect("equal")


def _frame(ax: Axes, title: str, is_wrong: bool) -> None:
    from simpipe.visualization import style

    lines = [style.shorten(line) for line in title.split("\n")]
    red = style.RED if is_wrong else None
    ax.set_title("\n".join(lines), fontsize=10, color=red or style.INK, parse_math=False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=red or style.FAINT, linewidth=2.5 if is_wrong else 0.8)
