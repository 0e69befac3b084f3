"""What a plan is about: how many items, of what shape. Read from the source where that takes no pass over it."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass

import numpy.lib.format as npy

from simpipe import files
from simpipe.config import Config
from simpipe.config.models import (
    DigitsSource,
    FolderSource,
    NpzSource,
    ParquetSource,
    Source,
    TfdsSource,
    TfrecordSource,
    VectorsSource,
)
from simpipe.errors import ConfigError, SourceError

_DIGITS = (1797, (8, 8, 1))
_ID_BYTES = 16  # of an id, where they are not known


@dataclass(frozen=True)
class Workload:
    """The items of a line.

    Attributes:
      items: in the source. dim: of the vectors.
      shape: of an example: (height, width, channels) or (features,); None: ready-made vectors.
      example_bytes: of an example as it is stored; 0: ready-made vectors.
      id_bytes: of an id.
    """

    items: int
    dim: int
    shape: tuple[int, ...] | None = None
    example_bytes: int = 0
    id_bytes: int = _ID_BYTES


def workload_of(
    config: Config, *, items: int | None = None, dim: int | None = None, example_bytes: int | None = None
) -> Workload:
    """The workload of a configuration.

    Args:
      items, dim, example_bytes: take the place of what the source says; needed where it does not say it cheaply.

    Raises:
      ConfigError: names the option that is missing. SourceError: the source is there, but is not what it should be.
    """
    if isinstance(config.source, VectorsSource):
        if example_bytes is not None:
            raise ConfigError("--example-bytes: ready-made vectors have no examples", "leave it out")
        return _vectors(config.source, items, dim)
    if dim is not None and dim != config.train.encoder.dim:
        raise ConfigError(f"--dim {dim}: the encoder has dim {config.train.encoder.dim}", "set train.encoder.dim instead")
    found, shape = _examples(config.source, known=items is not None)
    if items is None and found is None:
        raise ConfigError(f"source.kind: {config.source.kind} does not say how many examples there are", "give --items N")
    if example_bytes is not None:
        shape = _shape_of(example_bytes, shape)
    if shape is None:
        raise ConfigError(f"source.kind: {config.source.kind} does not say how large an example is", "give --example-bytes B")
    size = example_bytes or math.prod(shape) * (1 if len(shape) == 3 else 4)
    return Workload(items or found or 0, config.train.encoder.dim, shape, size)


def _vectors(source: VectorsSource, items: int | None, dim: int | None) -> Workload:
    from simpipe.data.vectors import plan_vectors

    id_bytes = _ID_BYTES if source.ids else len(files.local(source.path).stem) + 10  # `NAME-000000123`
    if items is not None and dim is not None:
        return Workload(items, dim, id_bytes=id_bytes)
    try:
        plan = plan_vectors(source)
    except SourceError as error:
        missing = " and ".join(name for name, value in (("--items N", items), ("--dim D", dim)) if value is None)
        raise ConfigError(f"source: cannot be counted: {error.message}", f"give {missing}, or mend the source") from None
    return Workload(items or plan.rows, dim or plan.dim, id_bytes=id_bytes)


def _examples(source: Source, *, known: bool) -> tuple[int | None, tuple[int, ...] | None]:
    """How many examples, and the shape of one; None: not known without a pass over the source.

    Args:
      known: the user says how many.
    """
    match source:
        case DigitsSource():
            return _DIGITS
        case NpzSource():
            return _npz_header(source)
        case FolderSource():
            return None, (*source.resize, source.channels)
        case ParquetSource():
            shape = (*(source.resize or ()), source.channels) if source.image else (len(source.columns),)
            return None if known else _parquet_rows(source.path), shape
        case TfrecordSource():
            return None, source.shape
        case TfdsSource():
            return None, None if source.resize is None else (*source.resize, 3)
        case VectorsSource():
            return None, None


def _parquet_rows(path: str) -> int | None:
    import pyarrow.parquet as pq

    where = files.local(path)
    found = sorted(where.glob("*.parquet")) if where.is_dir() else [where]
    return sum(pq.read_metadata(each).num_rows for each in found) if found and found[0].exists() else None


def _npz_header(source: NpzSource) -> tuple[int | None, tuple[int, ...] | None]:
    """Examples and the shape of one from the headers of a `.npz`, of which nothing else is read; Nones without a file."""
    path = files.local(source.path)
    if not path.exists():
        return None, None if source.resize is None else (*source.resize, 1)
    try:
        with zipfile.ZipFile(path) as archive:
            shape, axes = _header(archive, source.x), len(_header(archive, source.y))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: {source.x!r} or {source.y!r} cannot be read ({error})", "set source.x and source.y") from None
    count, shape = math.prod(shape[:axes]), shape[axes:]
    if len(shape) > 1:
        shape = (*(source.resize or shape[:2]), shape[2] if len(shape) > 2 else 1)
    return count, shape


def _header(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)[0]


def _shape_of(size: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """A shape of so many bytes: a square picture of as many channels (three, where they are not known), or so many float32."""
    if shape is not None and len(shape) == 1:
        return (max(1, size // 4),)
    channels = 3 if shape is None else shape[2]
    side = max(1, round(math.sqrt(size / channels)))
    return (side, side, channels)
