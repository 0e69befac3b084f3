"""The encoder on disk: a `.keras` file and `encoder.json` with its fingerprint.

Reading `encoder.json` needs no TensorFlow; only `load_model` does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.data.examples import InputSpec
from simpipe.errors import ContractError

if TYPE_CHECKING:
    import keras

ENCODER_JSON = "encoder.json"
FORMAT_VERSION = 1


class EncoderInfo(BaseModel):
    """`encoder.json`: which model this is. `fingerprint` covers weights, architecture and preprocessing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    key: str
    fingerprint: str
    model_file: str
    sha256: str
    size: int
    input: InputSpec
    dim: int
    distance: str
    train_classes: tuple[str, ...]
    training: dict[str, Any]
    history: dict[str, list[float]]
    metrics: dict[str, float]

    @classmethod
    def load(cls, folder: Path) -> EncoderInfo:
        path = folder / ENCODER_JSON
        try:
            info = cls.model_validate(files.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise ContractError(
                f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}", "run `simpipe train` again"
            ) from None
        if info.format_version != FORMAT_VERSION:
            raise ContractError(
                f"{path}: format version {info.format_version}, this simpipe reads {FORMAT_VERSION}", "run the step again"
            )
        return info


def fingerprint_of(model: keras.Model) -> str:
    """SHA-256 over the architecture (with preprocessing) and every weight's name-free bytes, in order.

    Optimizer and loss do not count: a compiled model and its reloaded copy are the same encoder.
    """
    architecture = {name: value for name, value in json.loads(model.to_json()).items() if name != "compile_config"}
    hasher = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for weight in model.get_weights():
        array = np.ascontiguousarray(weight)
        hasher.update(f"{array.dtype.str}{array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def save_encoder(model: keras.Model, folder: Path, **fields: Any) -> EncoderInfo:
    """Writes `encoder-<fingerprint>.keras`, then `encoder.json`, which makes it visible.

    Args:
      model: raw example in, embedding out.
      folder: where to.
      **fields: the other fields of `EncoderInfo`.
    """
    fingerprint = fingerprint_of(model)
    path = folder / f"encoder-{fingerprint[:12]}.keras"
    with files.replacing(path) as temporary:
        model.save(temporary)
    entry = files.entry_of(path, folder)
    info = EncoderInfo(fingerprint=fingerprint, model_file=entry.path, sha256=entry.sha256, size=entry.size, **fields)
    files.write_json(folder / ENCODER_JSON, info.model_dump(mode="json"))
    return info


def load_model(folder: Path) -> tuple[keras.Model, EncoderInfo]:
    """Loads an encoder after checking its checksum. Imports TensorFlow.

    Raises:
      ContractError: files are missing or altered.
    """
    info = EncoderInfo.load(folder)
    path = files.inside(folder, info.model_file)
    files.verify(path, files.FileEntry(info.model_file, info.size, info.sha256))
    import keras

    import simpipe.layers
    import simpipe.models  # noqa: F401  registers our classes for deserialization

    model: Any = keras.saving.load_model(files.opened(path), compile=False, safe_mode=True)
    return model, info
