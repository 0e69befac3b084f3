"""What an export is made of: what a release holds, what a target does with it, and `export.json`, written last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from simpipe import files
from simpipe.index.searcher import Searcher
from simpipe.items import ItemBlock, metadata_fields
from simpipe.types import Reject

EXPORT_JSON = "export.json"
FORMAT_VERSION = 1
Kind = Literal["faiss", "vertex", "milvus", "numpy"]


@dataclass(frozen=True)
class Contents:
    """What a target is told of a release. `fields`: its metadata columns, as the store has them."""

    release: str
    dim: int
    distance: str
    items: int
    store_files: int
    fields: tuple[pa.Field, ...]

    @property
    def vector_bytes(self) -> int:
        """Of all vectors as float32."""
        return 4 * self.dim * self.items

    @property
    def item_schema(self) -> pa.Schema:
        """Of an item without its vector."""
        return pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("label", pa.string()), *self.fields])


def contents_of(base: Searcher) -> Contents:
    """What a release holds; reads the schema of one store file."""
    manifest = base.manifest
    about = (manifest.release, manifest.dim, manifest.distance, manifest.items, manifest.store_files)
    return Contents(*about, tuple(metadata_fields(base)))


@dataclass(frozen=True)
class Plan:
    """What a target makes of a release; made from the contents alone, so that driver and workers agree.

    Attributes:
      rows_per_file: the most items of a file: bounds a worker's memory, and a file's size.
      carried, left_out: by column, how it is carried, and why it is not.
    """

    contents: Contents
    rows_per_file: int
    carried: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a target writes some items: `folder` of the export, `name` such as `00003-000`, `rows` that will come."""

    folder: Path
    name: str
    rows: int


@dataclass(frozen=True)
class Written:
    """What a target wrote.

    Attributes:
      paths: of the files, in the folder. items: in them.
      rejects: items that break a limit of the target; the export then fails.
      longest: by column, the most bytes of a value, or values of a list, where the target wants to know.
    """

    paths: tuple[Path, ...]
    items: int
    rejects: tuple[Reject, ...] = ()
    longest: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """The end of an export: what was written beside the items, what has gone, and what a reader has to know.

    Attributes:
      added: files that were written now. removed: files whose content is in one of these.
      reading: how to read the export, line by line. notes: what else is to be known.
    """

    added: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    reading: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """A module of this package."""

    DISTANCES: Mapping[str, str]
    """By distance of a release, how the target's own score becomes that distance."""

    PATTERN: str
    """What files of items are called, as a glob in the export's folder."""

    def plan(self, contents: Contents) -> Plan:
        """Refuses with ConfigError what the target cannot hold, before anything is written."""
        ...

    def write(self, blocks: Iterator[ItemBlock], place: Place, plan: Plan) -> Written:
        """Writes some items; the files appear whole or not at all."""
        ...

    def finish(self, folder: Path, plan: Plan, records: Sequence[Mapping[str, Any]], *, memory: int) -> Finished:
        """The last step, by the driver. `records`: of all files of items, in order. `memory`: bytes that it may take."""
        ...


class ExportFile(BaseModel):
    """A file of an export. `items`: how many it holds, where it holds any."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    sha256: str
    items: int | None = None


class ExportInfo(BaseModel):
    """`export.json`: an export is complete if it is there.

    `distances` says how the target's score becomes the distance that cutpoints of the release are compared with; `carried` and
    `left_out` name every column; `reading` is Python.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int = FORMAT_VERSION
    kind: Kind
    release: str
    encoder: str
    created_at: str
    simpipe_version: str
    items: int
    dim: int
    distance: str
    distances: str
    carried: dict[str, str]
    left_out: dict[str, str]
    reading: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[ExportFile, ...]

    def save(self, folder: Path) -> None:
        files.write_json(folder / EXPORT_JSON, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> ExportInfo:
        """Raises ContractError where there is none."""
        return cls.model_validate(files.read_json(folder / EXPORT_JSON))
