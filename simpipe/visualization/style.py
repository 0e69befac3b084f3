"""What all plots share: colours, fonts, one way from drawing to SVG text.

Only matplotlib's object API is used, inside `rc_context`: no global figure, no global style is left behind.
"""

from __future__ import annotations

import functools
import html
import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID = "#1f2933", "#52606d", "#9aa5b1", "#e4e7eb"
BLUE, ORANGE, GREEN, PURPLE, RED = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#c1121f"
# Colours that people with colour-vision deficiencies tell apart (Okabe and Ito, Tol), all dark enough on white.
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#8c6d00", "#332288", "#cc6677", "#56b4e9", "#5b5b5b", "#882255")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

WIDTH = 5.0  # inches: 360 points, a phone's width in CSS pixels, so that text stays legible there
MAX_LABEL = 24

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "path.simplify": True,
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

P = ParamSpec("P")


def shorten(text: object, limit: int = MAX_LABEL) -> str:
    """One printable line of at most `limit` characters; the middle is left out where it is longer."""
    line = _CONTROL.sub(" ", str(text)).strip()
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 3
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches, laid out without cutting anything off."""
    return Figure(figsize=(width, height), layout="constrained")


def name_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Names with units in brackets, such as "examples (number)", which the SVG marks as `axis-x` and `axis-y`."""
    for axis, text, mark in ((axes.xaxis, x, "axis-x"), (axes.yaxis, y, "axis-y")):
        if text:
            axis.set_label_text(text)
            axis.label.set_gid(mark)


def name_figure(figure: Figure, x: str = "", y: str = "") -> None:
    """`name_axes` for axes that all panels share."""
    for write, text, mark in ((figure.supxlabel, x, "axis-x"), (figure.supylabel, y, "axis-y")):
        if text:
            write(text, fontsize=9, color=MUTED).set_gid(mark)


def grid_lines(axes: Axes, axis: str = "y") -> None:
    axes.grid(True, axis=axis)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    axes.tick_params(length=0 if axis == "both" else 3)


def drawing(name: str) -> Callable[[Callable[P, tuple[Figure, str] | None]], Callable[P, str]]:
    """Makes SVG text of a function that returns (figure, what it shows in words), or None where there is nothing to draw.

    Args:
      name: unique among the drawings of a page: it keeps the ids in their SVG apart.
    """

    def wrap(draw: Callable[P, tuple[Figure, str] | None]) -> Callable[P, str]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
            settings: Any = {**_STYLE, "svg.hashsalt": f"simpipe-{name}"}
            with matplotlib.rc_context(settings), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*missing from font.*")  # the browser has more fonts
                result = draw(*args, **kwargs)
                return "" if result is None else _svg(*result)

        return drawn

    return wrap


def _mark(group: re.Match[str]) -> str:
    """Ids would meet those of other drawings on a page: panels and names of axes become classes, the rest goes."""
    name = "panel" if group[1].startswith("axes_") else group[1]
    return f'<g class="{name}"' if name in ("panel", "axis-x", "axis-y") else "<g"


def _svg(figure: Figure, words: str) -> str:
    buffer = io.StringIO()
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)
    finally:
        logger.setLevel(level)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="([^"]*)"', _mark, text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words)}" ', 1).strip()
