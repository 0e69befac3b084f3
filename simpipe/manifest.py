"""`manifest.json`: what a release holds. Written last; without it a release does not exist."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.errors import ContractError, ReleaseError

MANIFEST_JSON = "manifest.json"
FORMAT_VERSION = 2
_READ = (1, 2)  # 2 may hide rows of a partition, which a reader of 1 would answer with


def user_and_host() -> str:
    """Who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def made_by(verb: str) -> dict[str, str]:
    """Who made a release, by which verb, and when: `made` of its provenance."""
    return {"by": user_and_host(), "verb": verb, "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestFile(_Record):
    """A file with size in bytes and SHA-256. `release` names the release it is carried over from, if not this one."""

    path: str
    size: int
    sha256: str
    release: str | None = None


class ManifestPartition(_Record):
    """A partition: `rows` in its files, of which `hidden` do not answer any more."""

    partition: int
    rows: int
    backend: str
    hidden: int = 0

    @property
    def live(self) -> int:
        """Rows that answer."""
        return self.rows - self.hidden


class ManifestEncoder(_Record):
    """Which encoder made the vectors: its fingerprint (`none` for ready-made ones) and folder relative to the root."""

    fingerprint: str
    folder: str | None = None


class Manifest(_Record):
    """See DESIGN: every file, counts, router, backend with parameters and distance, encoder, configuration, parents.

    `steps` maps each verb that wrote into the release to the key of its inputs, code and configuration.
    """

    format_version: int = FORMAT_VERSION
    release: str
    created_at: str
    simpipe_version: str
    dim: int
    distance: str
    encoder: ManifestEncoder
    items: int
    metadata: tuple[str, ...] = ()
    partitions: tuple[ManifestPartition, ...]
    store_files: int
    backend: dict[str, Any]
    storage: str = "float32"
    router: dict[str, Any]
    search: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, Any]
    steps: dict[str, str]
    parents: tuple[str, ...] = ()
    files: tuple[ManifestFile, ...]

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads a release's manifest.

        Raises:
          ReleaseError: it is missing (an unfinished release), malformed, of another version or of another release.
        """
        path = folder / MANIFEST_JSON
        try:
            data = files.read_json(path)
        except ContractError:
            if path.exists():
                raise
            raise ReleaseError(
                f"{folder}: no {MANIFEST_JSON}: the release is unfinished or does not exist", "run `simpipe build`"
            ) from None
        try:
            manifest = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ReleaseError(f"{path}: field {where}: {first['msg']}", "restore the file, or build again") from None
        if manifest.format_version not in _READ:
            raise ReleaseError(
                f"{path}: format version {manifest.format_version}, this simpipe reads {' and '.join(map(str, _READ))}",
                "use a newer simpipe, or build again",
            )
        if manifest.release != folder.name:
            raise ReleaseError(f"{path}: says it is release {manifest.release}", "a release's folder must keep its name")
        return manifest

    def save(self, folder: Path) -> None:
        files.write_json(folder / MANIFEST_JSON, self.model_dump(mode="json", exclude_none=True))

    def file(self, path: str) -> ManifestFile:
        for entry in self.files:
            if entry.path == path:
                return entry
        raise ReleaseError(f"release {self.release}: its manifest lists no {path}", "build the release again")

    def under(self, prefix: str) -> list[ManifestFile]:
        """Files in a folder of the release, such as `partitions/00003`."""
        return [entry for entry in self.files if entry.path.startswith(prefix + "/")]

    def has(self, path: str) -> bool:
        return any(entry.path == path for entry in self.files)

    def with_files(self, folder: Path, paths: list[str], **steps: str) -> Manifest:
        """A manifest that also lists these files of `folder` (or lists them anew) and records `steps`."""
        fresh = [ManifestFile(**files.entry_of(folder / path, folder).to_json()) for path in paths]
        kept = [entry for entry in self.files if entry.path not in set(paths)]
        merged = tuple(sorted([*kept, *fresh], key=lambda entry: entry.path))
        return self.model_copy(update={"files": merged, "steps": {**self.steps, **steps}})
