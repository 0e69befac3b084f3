"""The contract of near-duplicate groups: Parquet files and `dedupe.json`, written last.

Columns: `id: string`, `group: int64`, `representative: string` (the smallest id of the group), `distance: float` (to the nearest
other member). A group's rows stand together, sorted by id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.arrow import pc
from simpipe.components import find_in
from simpipe.errors import ContractError
from simpipe.ids import hash_ids

DEDUPE_JSON = "dedupe.json"
FORMAT_VERSION = 1
_AGAIN = "run `simpipe dedupe` again"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("representative", pa.string(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ],
    metadata={b"simpipe": b'{"format_version": 1}'},
)


def groups_file(index: int, of: int) -> str:
    """`groups-00003-of-00016.parquet`, relative to the data set."""
    return f"groups-{index:05d}-of-{of:05d}.parquet"


class GroupsFile(BaseModel):
    """One Parquet file of groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    rows: int
    size: int
    sha256: str


class GroupsInfo(BaseModel):
    """`dedupe.json`.

    Attributes:
      release: whose items were compared. distance: its distance.
      cutoff: items are near duplicates where their distance, as float32, is at most this; cutpoint: its name, if it has one.
      k: neighbors of each item that were looked at.
      counts: items (that were asked), pairs (distinct ones within the cutoff), members (of groups), groups, largest, truncated
        (items whose k-th neighbor was still within the cutoff: their list of pairs ends there).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int = FORMAT_VERSION
    key: str
    release: str
    distance: str
    cutoff: float
    cutpoint: str | None
    k: int
    counts: dict[str, int]
    files: tuple[GroupsFile, ...]
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> GroupsInfo:
        """Reads the description of a data set of groups.

        Raises:
          ContractError: it is missing, malformed or of another version.
        """
        path = folder / DEDUPE_JSON
        try:
            info = cls.model_validate(files.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise ContractError(f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}", _AGAIN) from None
        if info.format_version != FORMAT_VERSION:
            raise ContractError(f"{path}: format version {info.format_version}, this simpipe reads {FORMAT_VERSION}", _AGAIN)
        return info

    def save(self, folder: Path) -> None:
        files.write_json(folder / DEDUPE_JSON, self.model_dump(mode="json"))

    @property
    def excluded(self) -> int:
        """How many members are not their group's representative."""
        return self.counts["members"] - self.counts["groups"]


@dataclass(frozen=True)
class Members:
    """All members of groups, to be found by id.

    Attributes:
      keys: uint64[m], hashes of the ids, ascending. ids: large_string[m].
      represents: bool[m], whether a member is its group's representative.
    """

    keys: np.ndarray
    ids: pa.Array
    represents: np.ndarray

    @classmethod
    def load(cls, folder: Path, info: GroupsInfo) -> Members:
        """Reads all files after verifying them.

        Raises:
          ContractError: a file is missing or altered, or counts differ.
        """
        parts = []
        for file in info.files:
            path = files.inside(folder, file.path)
            files.verify(path, files.FileEntry(file.path, file.size, file.sha256))
            parts.append(pq.read_table(path, columns=["id", "representative"]))
        table = pa.concat_tables([SCHEMA.empty_table().select(["id", "representative"]), *parts])
        ids = table.column("id")
        represents = pc.equal(ids, table.column("representative")).to_numpy(zero_copy_only=False)
        if (len(ids), int(represents.sum())) != (info.counts["members"], info.counts["groups"]):
            raise ContractError(f"{folder / DEDUPE_JSON}: its counts are not those of its files", _AGAIN)
        keys = hash_ids(ids)
        order = np.argsort(keys, kind="stable")
        names = pa.concat_arrays([pa.array([], pa.large_string()), *ids.cast(pa.large_string()).chunks])
        return cls(keys[order], names.take(pa.array(order)), represents[order])

    def find(self, ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Which of these ids are members.

        Args:
          ids: strings [n].

        Returns:
          bool[n], those that another item represents; bool[n], those that represent a group.
        """
        place = find_in(self.keys, hash_ids(ids))
        rows = np.flatnonzero(place >= 0)  # by hash; the id decides
        asked = ids.take(pa.array(rows)).cast(pa.large_string())
        same = pc.equal(asked, self.ids.take(pa.array(place[rows]))).to_numpy(zero_copy_only=False)
        rows = rows[same]
        represented, represents = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        represents[rows] = self.represents[place[rows]]
        represented[rows] = ~self.represents[place[rows]]
        return represented, represents
