"""Arrays of one `.npz`: images as uint8, or vectors as float32."""

from __future__ import annotations

import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.config.models import NpzSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources import base, listing
from simpipe.data.sources.base import IMAGE, VECTOR, Problem, SourceBlock
from simpipe.data.sources.images import area_resize
from simpipe.errors import SourceError
from simpipe.types import Reject


@dataclass(frozen=True)
class _Arrays:
    """`x` [n, ...], labels and ids string[n]; values of `x` times `scale` lie in 0 to 255."""

    x: np.ndarray
    labels: pa.Array
    ids: pa.Array
    scale: float


_cache: dict[str, tuple[Any, _Arrays]] = {}
_lock = threading.Lock()


class Npz:
    """See `NpzSource`. The file is read once a process, and again when it changes.

    Raises:
      SourceError: the file or an array is missing, or shapes do not fit; names the arrays there are.
    """

    metadata: tuple[pa.Field, ...] = ()

    def __init__(self, config: NpzSource) -> None:
        self.config = config
        self.path = listing.require(config.path, _wanted(config))
        shape = self._arrays().x.shape[1:]
        if len(shape) == 1:
            self.input = InputSpec(name=VECTOR, shape=shape, dtype="float32", encoding="float")
            if config.resize or config.invert:
                raise SourceError(
                    f"source.resize, source.invert: {config.x!r} of {self.path.name} holds vectors", "leave them out"
                )
        else:
            shape = (*(config.resize or shape[:2]), shape[2] if len(shape) == 3 else 1)
            self.input = InputSpec(name=IMAGE, shape=shape, dtype="uint8", encoding="raw", inverted=config.invert)

    def _arrays(self) -> _Arrays:
        stat = self.path.stat()
        key = (self.config, stat.st_mtime_ns, stat.st_size)
        with _lock:
            kept = _cache.get(str(self.path))
            if kept is None or kept[0] != key:
                _cache.clear()  # one file at a time: these arrays are large
                kept = _cache[str(self.path)] = (key, _load(self.path, self.config))
            return kept[1]

    def blocks(self, rows: int) -> list[SourceBlock]:
        return base.row_blocks(self.path.name, rows, len(self._arrays().x))

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        arrays = self._arrays()
        rows = slice(block.start, block.stop)
        part = arrays.x[rows]
        problems: list[Problem] = []
        if self.input.encoding == "float":
            with np.errstate(over="ignore"):
                part = part.astype(np.float32)
            problems.append(base.not_finite(part))
            inputs = base.as_floats(part)
        else:
            if part.dtype.kind == "f":
                problems.append(base.not_finite(part.reshape(len(part), -1)))
            inputs = base.as_binary(self._images(part, arrays.scale))
        numbers = np.arange(block.start, block.start + len(part))
        columns = [arrays.ids[rows], arrays.labels[rows], inputs, base.numbered(f"{self.path.name} row ", numbers)]
        return base.sift(pa.Table.from_arrays(columns, schema=base.table_schema(self.input)), problems)

    def _images(self, part: np.ndarray, scale: float) -> np.ndarray:
        part = part[..., None] if part.ndim == 3 else part
        if part.dtype.kind == "f":
            part = np.rint(np.nan_to_num(part, posinf=0, neginf=0) * scale)
        part = part.astype(np.uint8) * np.uint8(255 if part.dtype == bool else 1)
        if self.config.resize:
            part = area_resize(part, self.config.resize)
        return np.uint8(255) - part if self.config.invert else part


def _wanted(config: NpzSource) -> str:
    return (
        f"put an .npz file there with array {config.x!r} (images, bool, uint8 or float, or float vectors) "
        f"and array {config.y!r} (labels, shape [n] or [classes, per_class])"
    )


def _load(path: Path, config: NpzSource) -> _Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SourceError(f"source.path: {path} is no .npz file", _wanted(config))
            x, y = _member(archive, path, "x", config.x), _member(archive, path, "y", config.y)
            ids = _member(archive, path, "ids", config.ids) if config.ids else None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise SourceError(f"source.path: {path} cannot be read as .npz: {error}", _wanted(config)) from None
    if y.ndim not in (1, 2) or x.shape[: y.ndim] != y.shape:
        raise SourceError(
            f"{path.name}: {config.y!r} has shape {list(y.shape)}, {config.x!r} has {list(x.shape)}",
            f"{config.y!r} must have shape [n] or [classes, per_class], and {config.x!r} must start with the same axes",
        )
    x = x.reshape(y.size, *x.shape[y.ndim :])
    if x.ndim not in (2, 3, 4) or x.dtype.kind not in "biuf":
        raise SourceError(
            f"{path.name}: {config.x!r} holds {x.dtype} of shape {list(x.shape[1:])} each",
            "an example must be [height, width], [height, width, channels] or a vector, of bool, integers or floats",
        )
    if ids is not None and ids.size != y.size:
        raise SourceError(f"{path.name}: {config.ids!r} has {ids.size} ids for {y.size} examples", "give one id an example")
    if ids is None:
        names = base.numbered(f"{path.stem}-", np.arange(y.size), 6)
    else:
        names = _texts(ids, f"{path.name}: {config.ids!r}")
    labels = _texts(y, f"{path.name}: {config.y!r}")
    return _Arrays(x, labels, names, _scale(x, f"{path.name}: {config.x!r}") if x.ndim > 2 else 1.0)


def _member(archive: Any, path: Path, field: str, name: str) -> np.ndarray:
    if name not in archive.files:
        there = ", ".join(map(repr, archive.files)) or "none"
        raise SourceError(f"source.{field}: {path.name} has no array {name!r}", f"name one of its arrays: {there}")
    return archive[name]


def _texts(values: np.ndarray, what: str) -> pa.Array:
    texts, odd = base.as_text(pa.array(values.reshape(-1)), what)
    if odd.any():
        raise SourceError(f"{what}: entry {int(odd.argmax())} is not UTF-8", "save text as Unicode (dtype U)")
    return texts


def _scale(x: np.ndarray, what: str) -> float:
    """1 for images with values up to 255, 255 for floats up to 1."""
    if x.dtype in (np.uint8, np.bool_) or not x.size:
        return 1.0
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if low < 0 or high > 255:
        raise SourceError(
            f"{what}: values from {low} to {high}", "images hold bool, floats from 0 to 1, or numbers from 0 to 255"
        )
    return 255.0 if x.dtype.kind == "f" and high <= 1 else 1.0


def fingerprint(config: NpzSource) -> dict[str, Any]:
    path = listing.require(config.path, _wanted(config))
    return listing.stat_files(path.parent, [path.name])
