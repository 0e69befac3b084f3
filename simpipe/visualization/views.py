"""Augmented views of the same examples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simpipe.errors import ConfigError
from simpipe.visualization.class_labels import display_name, plain
from simpipe.visualization.figures import new_figure, show_figures
from simpipe.visualization.pixels import picture_of, unit


def visualize_views(
    views: Sequence[Any],
    labels: Any = None,
    predictions: Any = None,
    num_imgs: int | None = None,
    views_per_col: int = 4,
    fig_size: tuple[float, float] = (24, 4),
    max_pixel_value: float = 1.0,
    min_pixel_value: float = 0.0,
    *,
    show: bool = True,
) -> np.ndarray:
    """Draws a grid with one cell per example; a cell holds all views of the example, from left to right.

    Args:
      views: v arrays [n, H, W], [n, H, W, 1], [n, H, W, 3] or [n, H, W, 4], as augmenters return them.
      labels: n class values for the titles; None for no labels.
      predictions: n outputs of a model for the titles: numbers, classes, or vectors (their largest entry and its place).
      num_imgs: how many examples to draw; None for all.
      views_per_col: how many examples stand in a row (the name is TF Similarity's).
      fig_size: width and height in inches.
      max_pixel_value: the pixel value of white; what lies above it is cut off.
      min_pixel_value: the pixel value of black.
      show: whether to show the figure with pyplot. Otherwise it is drawn without pyplot, and `axes[0, 0].figure` saves it.

    Returns:
      axes: object[rows, views_per_col]; cells without an example are empty.

    Raises:
      ConfigError: no views, views of different sizes, too few labels or predictions, or an empty pixel range.
    """
    if not max_pixel_value > min_pixel_value:
        raise ConfigError(f"max_pixel_value {max_pixel_value} is not above min_pixel_value {min_pixel_value}", "swap them")
    if views_per_col < 1:
        raise ConfigError(f"views_per_col is {views_per_col}", "give the number of examples in a row, at least 1")
    blocks = [np.asarray(view) for view in views]
    if not blocks or min(len(block) if block.ndim else 0 for block in blocks) < 1:
        raise ConfigError("views: nothing to draw", "pass at least one array [n, H, W, C] with n of 1 or more")
    count = min(len(block) for block in blocks)
    count = count if num_imgs is None else min(count, num_imgs)
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values is not None and len(values) < count:
            raise ConfigError(f"{name}: {len(values)} for {count} examples", f"pass one per example, or num_imgs={len(values)}")
    cells = [_joined(blocks, i, (float(min_pixel_value), float(max_pixel_value))) for i in range(count)]
    figure = new_figure(fig_size, show=show, what="visualize_views")
    from simpipe.visualization import style

    axes = figure.subplots(-(-max(count, 1) // views_per_col), views_per_col, squeeze=False)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(wspace=0.12)  # pyright: ignore[reportCallIssue]  wider than the gap between the views of one example
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (ax, cell) in enumerate(zip(axes.flat, cells, strict=False)):
        ax.imshow(cell, cmap="gray", vmin=0.0, vmax=1.0)
        words = [] if labels is None else [f"Label: {display_name(labels[i])}"]
        words += [] if predictions is None else [f"Pred: {_prediction(predictions[i])}"]
        if words:
            ax.set_title(style.shorten(" | ".join(words), 48), fontsize=10, color=style.INK, parse_math=False)
    if show:
        show_figures()
    return axes


def _joined(blocks: list[np.ndarray], i: int, span: tuple[float, float]) -> np.ndarray:
    """float32[H, v * W + gaps] or [..., C] in 0..1: the views of example i with white gaps between them."""
    pictures = [picture_of(block[i]) for block in blocks]
    found = [unit(picture, span) for picture in pictures if picture is not None]
    if len(found) < len(pictures):
        shape = next(block[i].shape for block, picture in zip(blocks, pictures, strict=True) if picture is None)
        raise ConfigError(f"views: example {i} has shape {shape}", "pass pictures [H, W], or [H, W, C] with C of 1, 3 or 4")
    first = found[0]
    if any(picture.shape[:1] + picture.shape[2:] != first.shape[:1] + first.shape[2:] for picture in found):
        raise ConfigError(f"views: example {i} has views of shapes {[p.shape for p in found]}", "give all views one size")
    gap = np.ones((first.shape[0], max(1, first.shape[1] // 24), *first.shape[2:]), np.float32)
    return np.concatenate([part for picture in found for part in (gap, picture)][1:], axis=1)


def _prediction(value: Any) -> str:
    """A number to five places, a class as it is, of a vector the largest entry and its place."""
    array = np.asarray(value)
    if array.ndim and array.size > 1:
        best = int(array.argmax())
        return f"{best} ({float(array.flat[best]):.5f})"
    if array.dtype.kind == "f":
        return f"{float(array.reshape(())):.5f}"
    return display_name(plain(value))
