"""Figures for the user: pyplot's where they are to be shown, free ones that leave no global state where not."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from simpipe.errors import SimpipeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def needed(module: str, what: str) -> Any:
    """Imports a library that only `what` needs; raises SimpipeError with the package to install where it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow", "sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise SimpipeError(f"{what} needs {package}, which cannot be imported ({error})", f"pip install {package}") from None


def new_figure(size: tuple[float, float], *, show: bool, what: str) -> Figure:
    """An empty figure of (width, height) inches; registered with pyplot only if it is going to be shown."""
    matplotlib_figure = needed("matplotlib.figure", what)
    if show:
        return needed("matplotlib.pyplot", what).figure(figsize=size, layout="compressed")
    return matplotlib_figure.Figure(figsize=size, layout="compressed")


def show_figures() -> None:
    """Shows pyplot's figures; a backend without a screen shows nothing and says nothing."""
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        pyplot.show()
