"""Pictures as users pass them (grey or RGB, uint8 or float) and the range of their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def picture_of(data: Any) -> np.ndarray | None:
    """A picture as [H, W] (grey) or [H, W, 3 or 4] in its own dtype; None where `data` is no picture.

    Args:
      data: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], numbers or bool; anything else gives None.
    """
    if data is None:
        return None
    try:
        array = np.asarray(data)
    except (ValueError, TypeError):
        return None
    if array.dtype.kind not in "buif" or not array.size:
        return None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return array if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)) else None


def limits(pictures: Iterable[np.ndarray], *, grey: bool) -> tuple[float, float]:
    """The values that black and white stand for, the same for all pictures of a figure.

    Grey pictures span their smallest to their largest value. For colours the span must not be stretched:
    0..255 for integers, 0..1 or 0..255 for floats that lie in it, the smallest to the largest value for others
    (pictures normalised to -1..1 or by a mean).
    """
    low, high, whole = np.inf, -np.inf, True
    for picture in pictures:
        values = picture[np.isfinite(picture)] if picture.dtype.kind == "f" else picture
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        whole = whole and picture.dtype.kind in "ui"
    if not low <= high:
        return 0.0, 1.0
    if not grey and low >= 0:
        if not whole and high <= 1:
            return 0.0, 1.0
        if high <= 255:
            return 0.0, 255.0
    return low, high if high > low else low + 1.0


def unit(picture: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """float32 of the same shape in 0..1 (NaN becomes 0)."""
    low, high = span
    scaled = (picture.astype(np.float32) - low) / (high - low)
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0)
