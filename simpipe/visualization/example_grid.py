"""A picture of a data set: a row of examples for each of some classes, the class's name at the left."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe.visualization.figures import needed
from simpipe.visualization.pixels import limits, unit

_CELL = 64  # pixels that the longer side of a small picture has at least, of a large one at most twice
_GAP, _MARGIN, _FONT = 6, 16, 15
_INK, _MUTED, _GROUND, _FRAME = "#1f2933", "#52606d", "#ffffff", "#cbd2d9"


def draw_grid(names: Sequence[str], inputs: Sequence[np.ndarray], title: str) -> bytes:
    """PNG bytes.

    Args:
      names: a row's class.
      inputs: for each row [n, H, W, 1, 3 or 4], uint8 or float; rows may differ in n. Small pictures are enlarged by whole
        numbers, so that pixels stay pixels.
      title: one line at the top.
    """
    from simpipe.visualization.style import shorten

    image, draw_module = needed("PIL.Image", "a grid of examples"), needed("PIL.ImageDraw", "a grid of examples")
    font, small = _font(_FONT), _font(_FONT - 2)
    height, width = _size(*inputs[0].shape[1:3])
    labels = [shorten(name, 32) for name in names]
    left = _MARGIN + max(math.ceil(font.getlength(label)) for label in labels) + 12
    top = _MARGIN + _FONT + 14
    columns = max(len(row) for row in inputs)
    right = max(left + columns * (width + _GAP), _MARGIN + math.ceil(small.getlength(title)))
    sheet = image.new("RGB", (right - _GAP + _MARGIN, top + len(inputs) * (height + _GAP) - _GAP + _MARGIN), _GROUND)
    draw = draw_module.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_MUTED, font=small)
    grey = inputs[0].shape[3] == 1
    span = (0.0, 255.0) if inputs[0].dtype == np.uint8 else limits(inputs, grey=grey)
    for row, (label, block) in enumerate(zip(labels, inputs, strict=True)):
        y = top + row * (height + _GAP)
        draw.text((left - 12, y + height / 2), label, fill=_INK, font=font, anchor="rm")
        for column, picture in enumerate(block):
            x = left + column * (width + _GAP)
            sheet.paste(_picture(image, picture, span, (width, height)), (x, y))
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _size(height: int, width: int) -> tuple[int, int]:
    longest = max(height, width)
    if longest <= _CELL:
        factor = math.ceil(_CELL / longest)
        return height * factor, width * factor
    scale = min(2 * _CELL / longest, 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _picture(image: Any, picture: np.ndarray, span: tuple[float, float], size: tuple[int, int]) -> Any:
    """An RGB picture of `size` (width, height); what is transparent is white."""
    values = np.rint(unit(picture, span) * 255).astype(np.uint8)
    drawn = image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    if drawn.mode == "RGBA":
        drawn = image.alpha_composite(image.new("RGBA", drawn.size, _GROUND), drawn)
    enlarged = size[0] >= drawn.width
    return drawn.convert("RGB").resize(size, image.Resampling.NEAREST if enlarged else image.Resampling.LANCZOS)


def _font(size: int) -> Any:
    """matplotlib's DejaVu Sans: Pillow's own font knows few letters beyond Latin."""
    fonts = needed("PIL.ImageFont", "a grid of examples")
    folder = Path(needed("matplotlib", "a grid of examples").get_data_path())
    return fonts.truetype(str(folder / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
