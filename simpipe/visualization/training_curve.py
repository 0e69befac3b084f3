"""The training curve: a panel for each quantity, training and validation in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simpipe.visualization import style

MAX_PANELS = 6
_VALIDATION = "val_"
_SHARES = ("accuracy", "precision", "recall")


def panels(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Groups `history` by quantity: {"loss": {"training": …, "validation": …}, …}, losses first; empty curves are left out."""
    grouped: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in history.items():
        if len(values):
            kind = "validation" if name.startswith(_VALIDATION) else "training"
            grouped.setdefault(name.removeprefix(_VALIDATION), {})[kind] = values
    return dict(sorted(grouped.items(), key=lambda pair: (pair[0] != "loss", "loss" not in pair[0])))


def _quantity(name: str) -> str:
    """The y axis: the word that says what is measured, of the name that stands above the panel, and its unit."""
    words = [word for word in re.split(r"[\W_]+", name) if word.isalpha()] or ["value"]
    share = next((word for word in words if word in _SHARES), None)
    return f"{share} (0 to 1)" if share else f"{style.shorten(words[-1], 14)} (no unit)"


@style.drawing("training-curve")
def training_curve(history: Mapping[str, Sequence[float]]) -> tuple[Figure, str] | None:
    """One panel a quantity, at most six; "" without history.

    Args:
      history: values per epoch, by the names Keras gives them (`loss`, `val_loss`, …).
    """
    grouped = list(panels(history).items())[:MAX_PANELS]
    if not grouped:
        return None
    columns = 1 if len(grouped) == 1 else 2
    rows = -(-len(grouped) // columns)
    figure = style.new_figure(2.6 if columns == 1 else 0.3 + 1.95 * rows)
    epochs = max(len(values) for _, curves in grouped for values in curves.values())
    for position, (name, curves) in enumerate(grouped):
        axes = figure.add_subplot(rows, columns, position + 1)
        for kind, values in sorted(curves.items()):
            shown = np.asarray(values, np.float64)
            shown = np.where(np.isfinite(shown), shown, np.nan)
            validation = kind == "validation"
            axes.plot(
                np.arange(1, len(shown) + 1), shown, label=kind, color=style.ORANGE if validation else style.BLUE,
                linestyle=style.DASHES[1 if validation else 0], linewidth=1.6,
                marker="o" if epochs <= 30 else "", markersize=2.5,
            )  # fmt: skip
        axes.set_title(style.shorten(name.replace("_", " "), 40), loc="left", color=style.INK)
        axes.set_xlim(0.5, epochs + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], min_n_ticks=3))
        style.name_axes(axes, "epoch (number)", _quantity(name))
        if len(curves) > 1:
            axes.legend(fontsize=8.5)
        style.grid_lines(axes)
    return figure, f"Training curve over {epochs} epochs: {', '.join(name for name, _ in grouped)}."
