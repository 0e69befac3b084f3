"""Many small pictures packed into a few sheets, so that a page with thousands of thumbnails stays small and quick to open."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.errors import ConfigError
from simpipe.visualization.figures import needed
from simpipe.visualization.pixels import limits, picture_of, unit

COLUMNS = 16
PER_SHEET = COLUMNS * COLUMNS  # at 64 pixels a side a sheet has 1024 x 1024, which any phone decodes
_EXACT = 32  # pictures up to this many pixels a side are kept without loss
_BLOCK = 16  # JPEG's blocks: cells of whole blocks do not bleed into each other
_QUALITY = 88


@dataclass(frozen=True)
class Sheets:
    """Thumbnails as `data:` URIs of sheets.

    Attributes:
      width, height: pixels of a thumbnail, the same for all.
      cell_width, cell_height: pixels from one thumbnail to the next.
      uris: sheet s holds the pictures s * PER_SHEET and following, row by row, `COLUMNS` in a row.
      missing: the numbers of examples without a picture.
    """

    width: int
    height: int
    cell_width: int
    cell_height: int
    uris: list[str]
    missing: list[int]


def pack(images: Any, size: int) -> Sheets:
    """Packs pictures, made smaller where a side is longer than `size` pixels, into sheets.

    Args:
      images: uint8, bool or float [n, H, W], [n, H, W, 1], [n, H, W, 3] or [n, H, W, 4]; or a list of such pictures of any
        size, where None stands for no picture.
      size: pixels.

    Raises:
      ConfigError: `images` holds something else.
    """
    if size < 1:
        raise ConfigError(f"image_size is {size}", "give the longer side of a thumbnail in pixels, at least 1")
    block = _uniform(images)
    if block is None:
        block, missing = _fitted(images, size)
    else:
        missing = []
        block = _reduced(block, -(-max(block.shape[1:3]) // size))
    height, width = block.shape[1:3]
    exact = max(height, width) <= _EXACT
    cell = (height, width) if exact else (-(-height // _BLOCK) * _BLOCK, -(-width // _BLOCK) * _BLOCK)
    uris = [_sheet(block[start : start + PER_SHEET], cell, exact) for start in range(0, len(block), PER_SHEET)]
    return Sheets(width, height, cell[1], cell[0], uris, missing)


def _uniform(images: Any) -> np.ndarray | None:
    """The pictures as one array [n, H, W] or [n, H, W, C]; None where their sizes differ."""
    try:
        array = np.asarray(images)
    except ValueError:
        return None
    if array.dtype == object:
        return None
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or not array.size or picture_of(array[0]) is None:
        raise ConfigError(
            f"images: shape {array.shape} and dtype {array.dtype}",
            "pass numbers [n, H, W] or [n, H, W, C] with C of 1 (grey), 3 (RGB) or 4 (RGBA)",
        )
    return array


def _reduced(block: np.ndarray, factor: int) -> np.ndarray:
    """uint8 pictures, each side divided by `factor` by taking the mean of its pixels; a block of pictures at a time."""
    span = limits([block], grey=block.ndim == 3)
    parts = []
    for start in range(0, len(block), PER_SHEET):
        part = unit(block[start : start + PER_SHEET], span)
        if factor > 1:
            height, width = part.shape[1:3]
            edges = [(0, 0), (0, -height % factor), (0, -width % factor)] + [(0, 0)] * (part.ndim - 3)
            part = np.pad(part, edges, mode="edge")
            shape = (len(part), part.shape[1] // factor, factor, part.shape[2] // factor, factor, *part.shape[3:])
            part = part.reshape(shape).mean((2, 4))
        parts.append(np.rint(part * 255).astype(np.uint8))
    return np.concatenate(parts)


def _fitted(images: Sequence[Any], size: int) -> tuple[np.ndarray, list[int]]:
    """uint8[n, size, size, 4] of pictures of different sizes, centred on nothing; and which are missing."""
    image_module = needed("PIL.Image", "projector with images")
    pictures = [picture_of(image) for image in images]
    wrong = [i for i, image in enumerate(images) if image is not None and pictures[i] is None]
    if wrong:
        raise ConfigError(f"images: number {wrong[0]} is no picture", "pass numbers [H, W] or [H, W, C], or None for no picture")
    spans = {
        dims: limits([picture for picture in pictures if picture is not None and picture.ndim == dims], grey=dims == 2)
        for dims in (2, 3)
    }
    block = np.zeros((len(pictures), size, size, 4), np.uint8)
    for cell, picture in zip(block, pictures, strict=True):  # each has a size of its own
        if picture is not None:
            drawn = image_module.fromarray(np.rint(unit(picture, spans[picture.ndim]) * 255).astype(np.uint8)).convert("RGBA")
            drawn.thumbnail((size, size), image_module.Resampling.LANCZOS)
            top, left = (size - drawn.height) // 2, (size - drawn.width) // 2
            cell[top : top + drawn.height, left : left + drawn.width] = np.asarray(drawn)
    return block, [i for i, picture in enumerate(pictures) if picture is None]


def _sheet(block: np.ndarray, cell: tuple[int, int], exact: bool) -> str:
    image_module = needed("PIL.Image", "projector with images")
    rows = math.ceil(len(block) / COLUMNS)
    height, width = block.shape[1:3]
    edges = [(0, rows * COLUMNS - len(block)), (0, cell[0] - height), (0, cell[1] - width)] + [(0, 0)] * (block.ndim - 3)
    padded = np.pad(block, edges)
    grid = padded.reshape(rows, COLUMNS, *cell, *block.shape[3:]).swapaxes(1, 2)
    drawn = image_module.fromarray(np.ascontiguousarray(grid.reshape(rows * cell[0], COLUMNS * cell[1], *block.shape[3:])))
    buffer = io.BytesIO()
    exact = exact or drawn.mode == "RGBA"
    if exact:
        drawn.save(buffer, "PNG", optimize=True)
    else:
        drawn.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
