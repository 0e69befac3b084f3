"""The files of a data set's folder, local or on Google Cloud Storage, by one small interface: reads, and conditional writes.

All of it is safe from several threads and after a fork, and a folder can be pickled: it holds its address only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from simpipe import files, gcs
from simpipe.errors import ContractError, SimpipeError

_BLOCK = 8 << 20
_MOVES = 20  # how often a file may be replaced while it is read


@runtime_checkable
class Folder(Protocol):
    """A folder of immutable files. `name` is relative to it and may not leave it.

    Every method raises ContractError for a name outside the folder, and SimpipeError where storage cannot be reached.
    """

    @property
    def where(self) -> str:
        """The folder's path, for messages."""
        ...

    def full(self, name: str) -> str:
        """The path of a file, for messages and for readers that open it themselves."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file; ContractError where it is missing."""
        ...

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive), fewer where the file ends before; ContractError where it is missing."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes of each file directly in the folder, by name, in order of names, from one listing."""
        ...

    def names(self) -> list[str]:
        """The files directly in the folder, in order; none where the folder is missing."""
        ...

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        """The whole file, and a number above 0 that another content of it does not have; None where there is no file."""
        ...

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        """Writes a file only if it is still of this generation; 0: only if there is none. Nobody sees half of it.

        Returns:
          Whether it was written. Of several that name the same generation exactly one writes.
        """
        ...


def open_folder(where: str | Path | Folder) -> Folder:
    """The folder at a local path or at `gs://bucket/prefix`. Nothing is read yet.

    Raises:
      SimpipeError: another kind of address, or `gs://` without the `gcp` extra.
    """
    if not isinstance(where, str | Path):
        return where
    if not str(where).startswith(gcs.SCHEME):
        return LocalFolder(files.local(where))
    bucket, _, prefix = str(where).removeprefix(gcs.SCHEME).partition("/")
    if not bucket:
        raise SimpipeError(f"{where}: names no bucket", "write gs://BUCKET/FOLDER")
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError as error:
        raise SimpipeError(f"{where}: google-cloud-storage is not installed ({error})", "pip install 'simpipe[gcp]'") from None
    return GcsFolder(bucket, prefix.strip("/"))


def subfolder(folder: Folder, name: str) -> Folder:
    """A folder within a folder."""
    return open_folder(Path(folder.full(name)) if isinstance(folder, LocalFolder) else folder.full(name))


def read_json(folder: Folder, name: str) -> Any:
    """A JSON file of the folder; ContractError where it is missing or malformed."""
    data = folder.read(name)
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        cure = "restore it or run the step that writes it again"
        raise ContractError(f"{folder.full(name)}: not valid JSON ({error})", cure) from None


def sha256(folder: Folder, name: str, size: int) -> str:
    """SHA-256 of a file of `size` bytes, in hex, read in blocks."""
    hasher = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        hasher.update(folder.read_range(name, start, min(start + _BLOCK, size)))
    return hasher.hexdigest()


@dataclass(frozen=True)
class LocalFolder:
    """A folder of the file system."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def full(self, name: str) -> str:
        return str(files.inside(self.path, name))

    def read(self, name: str) -> bytes:
        with self._opened(name) as handle:
            return handle.read()

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with self._opened(name) as handle:
            handle.seek(start)
            return handle.read(max(stop - start, 0))

    def size(self, name: str) -> int | None:
        path = files.inside(self.path, name)
        return path.stat().st_size if path.is_file() else None

    def sizes(self) -> dict[str, int]:
        if not self.path.is_dir():
            return {}
        with os.scandir(self.path) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        return list(self.sizes())

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        try:
            data = files.inside(self.path, name).read_bytes()
        except FileNotFoundError:
            return None
        return data, _content_number(data)

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        path = files.inside(self.path, name)
        with files.locked(path.with_name(f".{path.stem}.lock")):
            found = self.read_with_generation(name)
            if (found[1] if found else 0) != generation:
                return False
            files.write_bytes(path, data)
            return True

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        path = files.inside(self.path, name)
        try:
            handle = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller's block closes it)
        except FileNotFoundError:
            raise ContractError(f"{path}: file is missing", "run the step that writes it again") from None
        with handle:
            yield handle


@dataclass(frozen=True)
class GcsFolder:
    """Objects of a bucket under a prefix; see `simpipe.gcs` for what is repeated."""

    bucket: str
    prefix: str

    @property
    def where(self) -> str:
        return gcs.address(self.bucket, self.prefix)

    def full(self, name: str) -> str:
        files.check_inside(self.where, name)
        return f"{self.where}/{name}"

    def read(self, name: str) -> bytes:
        return gcs.read(self.bucket, self._key(name))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        return gcs.read(self.bucket, self._key(name), start=start, stop=max(stop, start))

    def size(self, name: str) -> int | None:
        found = gcs.about(self.bucket, self._key(name))
        return None if found is None else found.size

    def sizes(self) -> dict[str, int]:
        begin = f"{self.prefix}/" if self.prefix else ""
        found = gcs.listing(self.bucket, begin, delimiter="/").objects
        # An object named like the folder itself is the placeholder that consoles make.
        return {each.key.removeprefix(begin): each.size for each in found if each.key != begin}

    def names(self) -> list[str]:
        return list(self.sizes())

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        key = self._key(name)
        for _ in range(_MOVES):
            found = gcs.about(self.bucket, key)
            if found is None:
                return None
            with contextlib.suppress(ContractError, gcs.Changed):  # removed or replaced since: look again
                return gcs.read(self.bucket, key, generation=found.generation), found.generation
        raise SimpipeError(f"{self.full(name)}: is replaced faster than it can be read", "stop what writes it again and again")

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        try:
            gcs.upload(self.bucket, self._key(name), data, generation=generation)
        except gcs.Changed:
            return False
        return True

    def _key(self, name: str) -> str:
        files.check_inside(self.where, name)
        return f"{self.prefix}/{name}" if self.prefix else name


def _content_number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") or 1
