"""Pictures that people bring, files or bytes, through the encoder of a release: one path for the command line and the server."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.data.examples import InputSpec
from simpipe.embeddings import NO_ENCODER
from simpipe.errors import IncompatibleError, QueryError
from simpipe.index.searcher import Searcher
from simpipe.training.encoder import EncoderInfo

FILE_PIXELS = 1 << 27  # of a picture file on the command line
_BLOCK = 256  # pictures that are embedded together


@dataclass(frozen=True)
class PictureEncoder:
    """A loaded encoder that reads pictures.

    Attributes:
      info: what it is. model: raw inputs in, embeddings out.
    """

    info: EncoderInfo
    model: Any

    def embed(self, inputs: np.ndarray) -> np.ndarray:
        """Embeddings float32[n, dim] of inputs uint8[n, *info.input.shape]."""
        blocks = [self.model(inputs[first : first + _BLOCK], training=False) for first in range(0, len(inputs), _BLOCK)]
        return np.concatenate([np.asarray(block, np.float32) for block in blocks])


def find_encoder(root: Path, searcher: Searcher, folder: str | None = None) -> tuple[Path, EncoderInfo]:
    """Where the encoder of a release's items lies, and what it is; loads no model.

    Args:
      root: of the encoders. searcher: of the release. folder: of another copy of the encoder; None: the release's own.

    Raises:
      IncompatibleError: the release has none, or it is another one. QueryError: it reads no pictures.
      ContractError: it is missing.
    """
    own = searcher.manifest.encoder
    if folder is None and own.folder is None:
        made = "ready-made vectors" if own.fingerprint == NO_ENCODER else "vectors of a model that was not saved with it"
        raise IncompatibleError(f"release {searcher.manifest.release} holds {made}", "ask with vectors or ids")
    where = files.located(folder) if folder is not None else files.inside(root, str(own.folder))
    about = EncoderInfo.load(where)
    searcher.check_encoder(about.fingerprint)  # before the model is loaded: the answer would be nonsense
    if not about.input.is_picture:
        raise QueryError(f"encoder {about.fingerprint[:12]} reads {about.input.name}, no pictures", "ask with vectors or ids")
    return where, about


def load_encoder(
    folder: Path, searcher: Searcher, load: Callable[[Path], tuple[Any, EncoderInfo]] | None = None
) -> PictureEncoder:
    """Loads what `find_encoder` found, once it has shown that it embeds as it did then. Imports TensorFlow.

    Args:
      folder: of the encoder. searcher: of the release. load: in the place of `load_model`, for who keeps loaded models.

    Raises:
      IncompatibleError: it embeds otherwise here. ContractError: its files are missing or altered.
    """
    from simpipe.encoder_canaries import check_canaries
    from simpipe.training.encoder import load_model

    model, about = (load or load_model)(folder)
    check_canaries(searcher, model)
    return PictureEncoder(about, model)


def read_picture(
    data: bytes, spec: InputSpec, *, name: str, pixels: int = FILE_PIXELS, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """A picture file's content as the source would have made it: uint8 of `spec.shape`, by area averaging.

    Args:
      data: of the file. spec: of the encoder's input. name: what messages call it.
      pixels: it has at most so many; this is looked up in its head, before anything is decoded.
      formats: that are taken, as PIL names them; None: all that PIL reads.

    Raises:
      QueryError: it is no picture, too large, or of another format.
    """
    from PIL import Image

    from simpipe.data.sources.images import area_resize

    height, width, channels = spec.shape
    try:
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            if opened.width * opened.height > pixels:
                raise QueryError(
                    f"{name}: has {opened.width} x {opened.height} pixels, at most {pixels:,} are taken", "make it smaller"
                )
            image = np.asarray(opened.convert("L" if channels == 1 else "RGB"), np.uint8)
    except QueryError:  # too many pixels, or no PNG or JPEG: said already
        raise
    except Exception as error:  # PIL's decoders raise many kinds: OSError, SyntaxError, struct.error, DecompressionBombError
        text = str(error) if "BytesIO" not in str(error) else "no known image format"
        raise QueryError(f"{name}: cannot be read as an image ({text})", "give a PNG or JPEG file") from None
    resized = area_resize(image.reshape(1, *image.shape[:2], channels), (height, width))[0]
    return np.uint8(255) - resized if spec.inverted else resized


def write_picture(picture: np.ndarray, spec: InputSpec) -> bytes:
    """An input as the PNG file that `read_picture` makes the same input of.

    Args:
      picture: uint8 of `spec.shape`. spec: of a picture.
    """
    from PIL import Image

    shown = np.uint8(255) - picture if spec.inverted else picture
    buffer = io.BytesIO()
    Image.fromarray(shown[..., 0] if spec.shape[2] == 1 else shown).save(buffer, "PNG")
    return buffer.getvalue()
