"""Files of immutable data sets: atomic writes, checksums, paths that may not leave their root.

The only module that opens files for writing, so that object storage has one place to go.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from simpipe.errors import ContractError, SimpipeError

_CHUNK = 1 << 20
TMP_PREFIX = ".tmp-"


@dataclass(frozen=True)
class FileEntry:
    """A file in a manifest: `path` relative to the manifest's folder, `size` in bytes, `sha256` in hex.

    `release`, where set, names the release the file is carried over from.
    """

    path: str
    size: int
    sha256: str
    release: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FileEntry:
        return cls(data["path"], int(data["size"]), data["sha256"], data.get("release"))


@dataclass(frozen=True)
class HashedFile:
    """A file that a worker reads, which must be as it was written. `path`: of the file; `size` in bytes."""

    path: str
    size: int
    sha256: str

    def verified(self) -> Path:
        """Raises ContractError where it was altered."""
        path = Path(self.path)
        verify(path, FileEntry(path.name, self.size, self.sha256))
        return path


def local(path: str | Path) -> Path:
    """The local path of `path`; object storage is refused by name."""
    text = str(path)
    if "://" in text and not text.startswith("file://"):
        raise SimpipeError(
            f"{text}: only local paths are supported in this version",
            "mount or copy the data, and give a local path",
        )
    return Path(text.removeprefix("file://"))


def check_inside(where: object, relative: str) -> PurePosixPath:
    """`relative` as a path, refused where it would leave the folder `where`."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in relative:
        raise ContractError(
            f"{where}: path {relative!r} leaves its folder",
            "the manifest was altered: restore or rebuild the data set",
        )
    return pure


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused where it would leave `root`."""
    return root / check_inside(root, relative)


@contextlib.contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it into place when the block ends without error.

    Readers see the old file or the whole new one, never a half. The file is flushed to disk first, unless it need not
    outlive the machine (`flush`): scratch files of a job.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TMP_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        if flush:
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a whole folder: it appears complete or not at all.

    Where the folder is there already (another attempt at the same work was faster) it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TMP_PREFIX}{secrets.token_hex(4)}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock on `path`; it goes with the process, so a kill leaves none.

    Args:
      path: the lock's file; it stays.
      waiting: called once if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def trying_lock(path: Path) -> Iterator[bool]:
    """Like `locked`, without waiting: yields whether the lock was free; then it is held for the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        else:
            free = True
        yield free


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ContractError(f"{path}: file is missing", "run the step that writes it again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: not valid JSON ({error})", "restore it or run the step that writes it again") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def entry_of(path: Path, root: Path) -> FileEntry:
    return FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, sha256_file(path))


def verify(path: Path, entry: FileEntry) -> None:
    """Raises ContractError where the file is missing or its size or SHA-256 differ from the manifest's."""
    cure = f"it was altered after it was written: restore it, or delete {path.parent} and run the step again"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ContractError(f"{path}: listed in the manifest but missing", cure) from None
    if size != entry.size:
        raise ContractError(f"{path}: {size} bytes, the manifest says {entry.size}", cure)
    actual = sha256_file(path)
    if actual != entry.sha256:
        raise ContractError(f"{path}: SHA-256 {actual[:12]}…, the manifest says {entry.sha256[:12]}…", cure)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


def remove_leftovers(folder: Path) -> int:
    """Deletes temporary files that a killed run left in `folder` (recursively); returns how many."""
    found = list(folder.rglob(f"{TMP_PREFIX}*")) if folder.is_dir() else []
    for path in found:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(found)
