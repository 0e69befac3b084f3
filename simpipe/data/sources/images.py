"""Images: are these bytes one, as uint8, smaller by area averaging."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from simpipe.data.sources.base import Problem

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_CHUNK = 256


def check_image(data: bytes, channels: int) -> bytes:
    """The same bytes where they are a PNG or JPEG that decodes; other formats come back as PNG of `channels` channels.

    Raises:
      ValueError: the bytes cannot be decoded; says why.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.format == "PNG" or (image.format == "JPEG" and image.mode in ("L", "RGB")):
                return data
            buffer = io.BytesIO()
            image.convert("L" if channels == 1 else "RGB").save(buffer, "PNG")
            return buffer.getvalue()
    except Exception as error:  # PIL's decoders raise many kinds: OSError, SyntaxError, struct.error, DecompressionBombError
        text = str(error) if "BytesIO" not in str(error) else "no known image format"
        raise ValueError(f"cannot be decoded as an image: {text}") from None


def check_images(values: Sequence[bytes | None], channels: int) -> tuple[pa.Array, Problem]:
    """Checks a block of encoded images one by one: large_binary[n] (null where bad), and which are bad."""
    good: list[bytes | None] = []
    reasons: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            if not value:
                raise ValueError("the image is null" if value is None else "the image has no bytes")
            good.append(check_image(value, channels))
        except ValueError as error:
            good.append(None)
            reasons[row] = str(error)
    bad = np.zeros(len(values), bool)
    bad[list(reasons)] = True
    return pa.array(good, pa.large_binary()), (bad, "bad-image", lambda row: reasons[row])


def area_resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by area averaging: each new pixel is the mean of the part of the image that it covers.

    Args:
      images: uint8[n, height, width, channels].
      size: new height and width.

    Returns:
      uint8[n, *size, channels].
    """
    count, height, width, channels = images.shape
    if (height, width) == tuple(size):
        return images
    down, across = _overlaps(height, size[0]), _overlaps(width, size[1]).T
    result = np.empty((count, *size, channels), np.uint8)
    for start in range(0, count, _CHUNK):
        part = images[start : start + _CHUNK].astype(np.float32)
        rows = (down @ part.reshape(len(part), height, width * channels)).reshape(len(part), size[0], width, channels)
        mean = (rows.transpose(0, 1, 3, 2) @ across).transpose(0, 1, 3, 2)
        result[start : start + len(part)] = np.rint(mean).clip(0, 255)
    return result


def _overlaps(old: int, new: int) -> np.ndarray:
    """float32[new, old]: the share of each new pixel that each old pixel covers; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (shared.clip(0) * (new / old)).astype(np.float32)
