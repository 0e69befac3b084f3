"""What a source holds against what a release holds: the contract between finding changes and rebuilding.

Changes lie beside the embeddings of what was added or changed, in the same data set: `changes.json`, and one Parquet file a
store file of the base release, `changes/00003-of-00016.parquet`: `id: string`, `kind: int8` (ADDED, CHANGED, DELETED),
`query: bool` (of a held-out query, not of an item); ascending by id.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.errors import ContractError

CHANGES_JSON = "changes.json"
_BASE_JSON = ".work/base.json"
ADDED, CHANGED, DELETED = 1, 2, 3
SCHEMA = pa.schema([("id", pa.string()), ("kind", pa.int8()), ("query", pa.bool_())])


def begin_data_set(folder: Path, base: str) -> Path:
    """Makes a data set's work folder, and notes there which release it is made from: `prune` knows it by that.

    Returns:
      The work folder.
    """
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / _BASE_JSON, {"base": base})
    return work


def is_unfinished_data_set(folder: Path) -> bool:
    """Whether a re-index began this data set; a finished one has no work folder any more."""
    return (folder / _BASE_JSON).exists()


def changes_file(index: int, of: int) -> str:
    """`changes/00003-of-00016.parquet`, relative to the data set."""
    return f"changes/{index:05d}-of-{of:05d}.parquet"


class ChangeCounts(BaseModel):
    """How many items (or held-out queries) were added, changed, deleted, and stayed as they were."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0

    def __add__(self, other: ChangeCounts) -> ChangeCounts:
        mine, theirs = self.model_dump(), other.model_dump()
        return ChangeCounts(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def any(self) -> bool:
        """Whether anything is not as it was."""
        return bool(self.added or self.changed or self.deleted)


class ChangesFile(BaseModel):
    """A file of changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    sha256: str


class ChangesInfo(BaseModel):
    """`changes.json`. `base`: the release that the source was compared with; `ignored`: ids to drop that were not there."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base: str
    items: ChangeCounts
    queries: ChangeCounts
    files: tuple[ChangesFile, ...]
    ignored: int = 0

    @classmethod
    def load(cls, folder: Path) -> ChangesInfo:
        """Reads a data set's changes.

        Raises:
          ContractError: there are none, or the file is malformed.
        """
        path = folder / CHANGES_JSON
        try:
            return cls.model_validate(files.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ContractError(f"{path}: field {where}: {first['msg']}", "run `simpipe reindex` again") from None

    def save(self, folder: Path) -> None:
        files.write_json(folder / CHANGES_JSON, self.model_dump(mode="json"))

    @property
    def any(self) -> bool:
        """Whether anything changed, items or queries."""
        return self.items.any or self.queries.any

    @property
    def told(self) -> str:
        """The counts in one line."""
        items, queries = self.items, self.queries
        said = f"{items.added:,} items added, {items.changed:,} changed, {items.deleted:,} deleted, {items.unchanged:,} as before"
        if queries.any:
            said += f"; queries {queries.added:,} added, {queries.changed:,} changed, {queries.deleted:,} deleted"
        return said

    def read(self, folder: Path, index: int) -> pa.Table:
        """The changes of one store file, after its checksum was verified; columns as `SCHEMA`."""
        entry = self.files[index]
        path = files.inside(folder, entry.path)
        files.verify(path, files.FileEntry(entry.path, entry.size, entry.sha256))
        return pq.read_table(path, schema=SCHEMA)
