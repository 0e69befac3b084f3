"""Pictures as `data:` URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

SMALL = 64  # up to this many pixels a side, a picture is kept exactly and shown with visible pixels
LARGEST = 160
_QUALITY = 85


def is_small(image: np.ndarray) -> bool:
    """Whether a picture (uint8[H, W] or [H, W, C]) is so small that it is upscaled with nearest neighbour."""
    return max(image.shape[:2]) <= SMALL


def picture(image: np.ndarray) -> str:
    """A `data:` URI: PNG for small or transparent pictures, JPEG of at most `LARGEST` pixels a side for others.

    Args:
      image: uint8[H, W], or [H, W, C] with C = 1 (grey), 3 (RGB) or 4 (RGBA).
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(f"picture has dtype {image.dtype} and shape {image.shape}, expected uint8[H, W, 1, 3 or 4]")
    pixels = np.ascontiguousarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    drawn = Image.fromarray(pixels)
    drawn.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    exact = is_small(image) or drawn.mode == "RGBA"
    buffer = io.BytesIO()
    if exact:
        drawn.save(buffer, "PNG", optimize=True)
    else:
        drawn.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
