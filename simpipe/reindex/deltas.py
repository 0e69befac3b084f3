"""A folder of changes in place of the whole source: `upsert/` holds records that were added or changed, `delete/` ids to drop.

Records in `upsert/` look as the source's own, with the same columns or features. Of a source of `.npy` or `.npz` vectors they are
Parquet files with columns `id`, `embedding`, and `label` where the source has labels. An absent record stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.config import Config
from simpipe.config.models import (
    ClassLists,
    DigitsSource,
    FolderSource,
    NpzSource,
    ParquetSource,
    Source,
    TfdsSource,
    TfrecordSource,
    VectorsSource,
)
from simpipe.data.sources import listing, source_fingerprint
from simpipe.errors import ConfigError, SourceError

UPSERT, DELETE = "upsert", "delete"
_ID_FILES = (".parquet", ".txt")


@dataclass(frozen=True)
class Deltas:
    """Changes as a folder holds them.

    Attributes:
      config: of the line, with the folder's upserts as the source; as it was where there are none.
      upserts: their folder; None: there are none. deletes: the folder of ids to drop; None: there are none.
      fingerprint: JSON-like, changes when the folder changes; no contents are read.
    """

    config: Config
    upserts: Path | None
    deletes: Path | None
    fingerprint: dict[str, Any]


def read_deltas(config: Config, folder: Path) -> Deltas:
    """What a folder of changes holds.

    Raises:
      SourceError: there is no such folder, or a file in `delete/` is of another kind.
      ConfigError: the source names its records by their place, or has no path; see `delta_source`.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder", f"make it, with folders {UPSERT}/ and {DELETE}/ in it")
    upserts = found if _records(found := folder / UPSERT) else None
    changed = config if upserts is None else delta_source(config, folder)
    ids = _visible(folder / DELETE)
    for path in ids:
        if path.suffix not in _ID_FILES or path.parent != folder / DELETE:
            raise SourceError(f"{path}: no file of ids", "give *.parquet with a column `id`, or *.txt with one id a line")
    fingerprint = {
        UPSERT: None if upserts is None else source_fingerprint(changed.source),
        DELETE: listing.stat_files(folder / DELETE, [path.name for path in ids]),
    }
    return Deltas(changed, upserts, folder / DELETE if ids else None, fingerprint)


def delta_source(config: Config, folder: Path) -> Config:
    """The configuration with the records of FOLDER/upsert as its source.

    Classes of examples are not chosen there: classes that train may be absent, and everything in it is embedded.

    Raises:
      ConfigError: the source's records have no ids of their own, or it is of a kind that has no path.
    """
    source = _source(config.source, folder / UPSERT)
    if isinstance(source, VectorsSource):
        return config.model_copy(update={"source": source})
    classes = ClassLists(train=(), index="all", train_unlabelled=config.classes.train_unlabelled)
    return config.model_copy(update={"source": source, "classes": classes})


def _source(source: Source, upsert: Path) -> Source:
    if isinstance(source, (DigitsSource, TfdsSource)):
        raise ConfigError(f"source.kind: {source.kind} cannot come as changes", "run `simpipe reindex` without --deltas")
    if isinstance(source, (FolderSource, ParquetSource)):
        return source.model_copy(update={"path": str(upsert)})
    field, ids = ("id", source.id) if isinstance(source, TfrecordSource) else ("ids", source.ids)
    if ids is None:
        raise ConfigError(
            f"source.{field}: is not set, so records are named by their place, which changes do not have",
            f"give records ids of their own and set source.{field}, or run `simpipe reindex` without --deltas",
        )
    if isinstance(source, NpzSource):
        found = [each for each in _visible(upsert) if each.suffix == ".npz"]
        if len(found) != 1:
            raise ConfigError(f"{upsert}: {len(found)} .npz files", "put all added and changed records into one .npz file")
        return source.model_copy(update={"path": str(found[0])})
    changed: dict[str, str | None] = {"path": str(upsert)}
    if isinstance(source, VectorsSource) and files.located(source.path).suffix.lower() in (".npy", ".npz"):
        changed |= {"vectors": "embedding", "ids": "id", "labels": None if source.labels is None else "label"}
    return source.model_copy(update=changed)


def _visible(folder: Path) -> list[Path]:
    """Files of a folder, to the bottom, in name order; none where it is missing."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _records(folder: Path) -> bool:
    """Whether there is anything: files that are no Parquet, or Parquet with rows. A delta of no changes writes empty ones."""
    for path in _visible(folder):
        try:
            if path.suffix != ".parquet" or pq.read_metadata(path).num_rows:
                return True
        except pa.ArrowInvalid:
            return True  # whoever reads it says what is wrong
    return False
