"""Embeddings as an interactive map: one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from simpipe.errors import ConfigError
from simpipe.files import local, write_bytes
from simpipe.visualization.class_labels import display_name, encode, value_list
from simpipe.visualization.embed2d import project
from simpipe.visualization.figures import needed
from simpipe.visualization.thumbnails import COLUMNS, PER_SHEET, pack

MOST = 10_000  # embeddings that t-SNE lays out; more go to PCA
# Colours that people with colour-vision deficiencies tell apart (Okabe and Ito, Tol); with more classes the marks differ too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#332288", "#cc6677", "#56b4e9", "#5b5b5b", "#882255")
SHAPES = 6
_DRAGS = ("box_zoom", "pan")
_AROUND = 210  # pixels that the page needs above and below the map


@dataclass(frozen=True)
class ProjectorPage:
    """An interactive map of embeddings; a notebook shows it where it is the last value of a cell.

    Attributes:
      html: the whole page.
      points: float32[n, 2], where the embeddings lie.
      method: "t-SNE", "PCA" or "none" (the embeddings have two dimensions).
      height: of the notebook's frame, in pixels.
    """

    html: str = field(repr=False)
    points: np.ndarray = field(repr=False)
    method: str
    height: int

    def save(self, path: str | Path) -> Path:
        """Writes the page; returns its path."""
        target = local(path)
        write_bytes(target, self.html.encode())
        return target

    def _repr_html_(self) -> str:
        # Sandboxed: the page's script cannot reach the notebook.
        return (
            f'<iframe title="Projection of embeddings" sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def projector(
    embeddings: Any,
    labels: Any = None,
    class_mapping: Mapping[Any, Any] | Sequence[Any] | None = None,
    images: Any = None,
    image_size: int = 64,
    tooltips_info: Mapping[str, Sequence[Any]] | None = None,
    pt_size: int = 3,
    colorize: bool = True,
    pastel_factor: float = 0.1,
    plot_size: int = 600,
    active_drag: str = "box_zoom",
    densmap: bool = True,
    *,
    path: str | Path | None = None,
    seed: int = 0,
) -> ProjectorPage:
    """Lays embeddings out in two dimensions and returns a page to look around in: zoom, hover, switch classes off and on.

    50 to 10,000 embeddings are laid out by t-SNE, fewer or more by PCA; the page says which, and what it does not show.
    Embeddings of two dimensions are drawn as they are.

    Args:
      embeddings: float[n, d].
      labels: n classes (numbers, strings or None); None for a map without classes.
      class_mapping: dict class -> name, or names by class number.
      images: n pictures for the tooltips: [n, H, W], [n, H, W, C], or a list of pictures, None where one is missing.
      image_size: longest side of a tooltip's picture, in CSS pixels; larger pictures are made smaller before they are stored.
      tooltips_info: name -> n values, shown in the tooltips as text.
      pt_size: radius of a point in CSS pixels.
      colorize: give classes colours (and marks, for more than ten classes).
      pastel_factor: 0..1: share of white mixed into the colours.
      plot_size: side of the map in CSS pixels; narrower where the window is.
      active_drag: what dragging does at first: "box_zoom" or "pan". A button changes it.
      densmap: without effect; it is an option of UMAP, which is not used.
      path: where to write the page as well.
      seed: of the layout: the same embeddings and seed give the same page.

    Raises:
      ConfigError: arguments of different lengths, embeddings that are no numbers [n, d] or not finite, or bad options.
    """
    vectors = _checked(embeddings, pt_size=pt_size, plot_size=plot_size, pastel_factor=pastel_factor, active_drag=active_drag)
    n = len(vectors)
    points, method, explained = _layout(vectors, seed)
    names, codes = _classes(labels, class_mapping, n)
    shown = [_color(i, pastel_factor) for i in range(len(names))] if colorize else [COLORS[0]] * len(names)
    data: dict[str, Any] = {
        "n": n,
        **_coordinates(points),
        "codes": codes.tolist(),
        "classes": [
            {"name": name, "color": color, "shape": i // len(COLORS) % SHAPES if colorize else 0}
            for i, (name, color) in enumerate(zip(names, shown, strict=True))
        ],
        "labelled": labels is not None,
        "info": _info(tooltips_info or {}, n),
        "thumbs": None if images is None else _thumbs(images, image_size, n),
        "radius": pt_size,
        "drag": active_drag,
        "size": plot_size,
    }
    title = f"{n:,} embeddings" + (
        f" of {len(names):,} {'class' if len(names) == 1 else 'classes'}" if labels is not None else ""
    )
    page = ProjectorPage(_page(title, explained, data), points, method, plot_size + _AROUND)
    if path is not None:
        page.save(path)
    return page


def _checked(embeddings: Any, *, pt_size: float, plot_size: int, pastel_factor: float, active_drag: str) -> np.ndarray:
    try:
        vectors = np.asarray(embeddings, np.float32)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"embeddings: not an array of numbers ({error})", "pass float[n, d], as model.predict returns"
        ) from None
    if vectors.ndim != 2 or not vectors.size:
        raise ConfigError(f"embeddings: shape {vectors.shape}, expected [n, d]", "pass one vector per example, and at least one")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise ConfigError(
            f"embeddings: {len(bad)} of {len(vectors)} hold NaN or infinity, first number {bad[0]}", "leave them out"
        )
    if active_drag not in _DRAGS:
        raise ConfigError(f"active_drag is {active_drag!r}", f"choose one of {', '.join(_DRAGS)}")
    if not 0 <= pastel_factor <= 1:
        raise ConfigError(f"pastel_factor is {pastel_factor}", "give a share from 0 to 1")
    if pt_size <= 0 or plot_size < 100:
        raise ConfigError(f"pt_size is {pt_size}, plot_size {plot_size}", "give pixels: pt_size above 0, plot_size at least 100")
    return vectors


def _layout(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str, str]:
    if vectors.shape[1] == 2:
        return vectors, "none", "The embeddings have two dimensions and are drawn as they are."
    for module in ("sklearn.manifold", "threadpoolctl"):
        needed(module, "projector")
    return project(vectors, seed=seed, most=MOST)


def _coordinates(points: np.ndarray) -> dict[str, list[float]]:
    """x and y in 0..1 with one scale for both, as lists of five decimals; y grows upwards."""
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    span = float((high - low).max()) or 1.0
    scaled = (points - (low + high) / 2) / span + 0.5
    return {name: np.round(scaled[:, i], 5).tolist() for i, name in enumerate("xy")}


def _classes(labels: Any, class_mapping: Any, n: int) -> tuple[list[str], np.ndarray]:
    """Names, in order of the class values, and the class of each point, int64[n]; classes of one name are one class."""
    if labels is None:
        return ["embeddings"], np.zeros(n, np.int64)
    values = value_list(labels, "labels")
    if len(values) != n:
        raise ConfigError(f"labels: {len(values)} for {n} embeddings", "pass one per embedding")
    classes, codes = encode(values)
    named = [display_name(value, class_mapping) for value in classes]
    names = list(dict.fromkeys(named))
    place = {name: i for i, name in enumerate(names)}
    return names, np.asarray([place[name] for name in named])[codes]


def _color(number: int, pastel_factor: float) -> str:
    color = COLORS[number % len(COLORS)]
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * pastel_factor):02x}" for part in parts)


def _info(tooltips: Mapping[str, Sequence[Any]], n: int) -> list[dict[str, Any]]:
    for name, values in tooltips.items():
        if len(values) != n:
            raise ConfigError(f"tooltips_info[{name!r}]: {len(values)} values for {n} embeddings", "pass one per embedding")
    return [{"name": str(name), "values": list(map(_text, np.asarray(values, object)))} for name, values in tooltips.items()]


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.6g}"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _thumbs(images: Any, size: int, n: int) -> dict[str, Any]:
    if len(images) != n:
        raise ConfigError(f"images: {len(images)} for {n} embeddings", "pass one per embedding, None where one is missing")
    sheets = pack(images, size)
    scale = size / max(sheets.width, sheets.height)
    return {
        "width": sheets.width,
        "height": sheets.height,
        "cellWidth": sheets.cell_width,
        "cellHeight": sheets.cell_height,
        "shownWidth": max(1, round(sheets.width * scale)),
        "shownHeight": max(1, round(sheets.height * scale)),
        "columns": COLUMNS,
        "perSheet": PER_SHEET,
        "sheets": sheets.uris,
        "missing": sheets.missing,
    }


def _page(title: str, explained: str, data: dict[str, Any]) -> str:
    """The page; its policy allows only this very script, and no request of any kind."""
    folder = resources.files("simpipe.visualization")
    template, style, script = (folder.joinpath(f"projector.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # In a script element only "<" could end the data; the other two keep old parsers from tripping.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    page = Template(template).substitute(
        title=html.escape(title), explained=html.escape(explained), digest=digest, style=style, data=text, script=script
    )
    # Lone surrogates have no UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")
