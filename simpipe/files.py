"""Files of immutable data sets, local or on `gs://`: atomic writes, checksums, paths that may not leave their root.

The only module that opens files for writing. What object storage does otherwise is in `simpipe.gcs_files`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from simpipe import gcs
from simpipe.errors import ContractError, SimpipeError
from simpipe.gs_path import GsPath

_BLOCK = 8 << 20
TMP_PREFIX = ".tmp-"
WORKING_FOLDER = "SIMPIPE_WORKING_FOLDER"  # set in SDK workers: what relative paths are relative to


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
        path = located(self.path)
        verify(path, FileEntry(path.name, self.size, self.sha256))
        return path


def located(where: str | Path) -> Path:
    """The path that a text names: a local one, or `gs://BUCKET/KEY`. The one way from texts to paths.

    Raises:
      SimpipeError: another kind of address, or no bucket.
    """
    text = str(where)
    if text.startswith(gcs.SCHEME):
        path = GsPath("gs:", *text.removeprefix(gcs.SCHEME).split("/"))
        if not path.bucket:
            raise SimpipeError(f"{text}: names no bucket", "write gs://BUCKET/FOLDER")
        return path
    if "://" in text and not text.startswith("file://"):
        raise SimpipeError(f"{text}: neither a local path nor gs://", "mount or copy the data, and give a local path")
    path = where if isinstance(where, Path) else Path(text.removeprefix("file://"))
    # A worker of a cluster has another working folder than the driver that named the path.
    return path if path.is_absolute() else Path(os.environ.get(WORKING_FOLDER, "")) / path


def local(path: str | Path) -> Path:
    """The local path that a text names; object storage is refused by name.

    Raises:
      SimpipeError: it is not local.
    """
    found = located(path)
    if isinstance(found, GsPath):
        raise SimpipeError(f"{found}: must be local", "give a local path")
    return found


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
    """Yields a temporary local path; puts it into place, under a name on the way, when the block ends without error.

    Readers see the old file or the whole new one, never a half. The file is flushed to disk first, unless it need not
    outlive the machine (`flush`): scratch files of a job.
    """
    if isinstance(path, GsPath):
        from simpipe import gcs_files

        with gcs_files.replacing(path) as temporary:
            yield temporary
        return
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
def replacing_folder(path: Path, *, last: str) -> Iterator[Path]:
    """Like `replacing`, for a whole folder: it appears complete or not at all.

    Where the folder is there already (another attempt at the same work was faster) it stays.

    Args:
      last: the file in it that is written last where files appear one by one; see `is_complete`.
    """
    if isinstance(path, GsPath):
        from simpipe import gcs_files

        with gcs_files.replacing_folder(path, last=last) as temporary:
            yield temporary
        return
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


def is_complete(path: Path, *, last: str) -> bool:
    """Whether a folder of `replacing_folder` is there."""
    return (path / last).is_file() if isinstance(path, GsPath) else path.is_dir()


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock on `path`; it goes with the process, so a kill leaves none (on `gs://` none for long).

    Args:
      path: the lock's file; a local one stays.
      waiting: called once if another process holds the lock.
    """
    if isinstance(path, GsPath):
        from simpipe import gcs_locks

        with gcs_locks.locked(path, waiting):
            yield
        return
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
    if isinstance(path, GsPath):
        from simpipe import gcs_locks

        with gcs_locks.trying_lock(path) as free:
            yield free
        return
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
    if isinstance(path, GsPath):
        gcs.upload(path.bucket, path.key, data)
        return
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


def sha256_here_or_there(path: Path) -> str:
    """Like `sha256_file`, but an object without a local copy is read block by block, and no copy is kept."""
    kept = path.kept() if isinstance(path, GsPath) else path
    if kept is not None:
        return sha256_file(kept)
    assert isinstance(path, GsPath)
    hasher = hashlib.sha256()
    with path.ranges() as raw:
        while block := raw.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def entry_of(path: Path, root: Path) -> FileEntry:
    name = path.relative_to(root).as_posix()
    path = opened(path)
    return FileEntry(name, path.stat().st_size, sha256_file(path))


def opened(path: Path) -> Path:
    """A file as it is now on this machine: itself, or the local copy of an object.

    Raises:
      FileNotFoundError: there is none.
    """
    return path.staged() if isinstance(path, GsPath) else path


def verify(path: Path, entry: FileEntry, *, keep: bool = True) -> None:
    """Checks a file's size and SHA-256.

    Args:
      keep: make a local copy of an object, which is about to be read.

    Raises:
      ContractError: it is missing, or differs from the manifest's entry.
    """
    cure = f"it was altered after it was written: restore it, or delete {path.parent} and run the step again"
    try:
        there = opened(path) if keep else path
        size = there.stat().st_size
        if size != entry.size:
            raise ContractError(f"{path}: {size} bytes, the manifest says {entry.size}", cure)
        actual = sha256_here_or_there(there)
    except FileNotFoundError:
        raise ContractError(f"{path}: listed in the manifest but missing", cure) from None
    if actual != entry.sha256:
        raise ContractError(f"{path}: SHA-256 {actual[:12]}…, the manifest says {entry.sha256[:12]}…", cure)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


def remove_leftovers(folder: Path) -> int:
    """Deletes temporary files that a killed run left in `folder` (recursively); returns how many."""
    if isinstance(folder, GsPath):  # nothing but locks of attempts at a folder
        found = [folder / name for name in folder.objects() if PurePosixPath(name).name.startswith(TMP_PREFIX)]
        remove_files(found)
        return len(found)
    found = list(folder.rglob(f"{TMP_PREFIX}*")) if folder.is_dir() else []
    for path in found:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(found)


def remove_files(paths: Sequence[Path]) -> None:
    """Removes files, which may be gone already; of objects several at the same time."""
    if any(isinstance(path, GsPath) for path in paths):
        from simpipe import gcs_files

        gcs_files.remove_files(paths)
    else:
        for path in paths:
            path.unlink(missing_ok=True)


def is_there(path: Path) -> bool:
    """Whether anything is there by this name, a dangling link too."""
    return path.exists() if isinstance(path, GsPath) else os.path.lexists(path)


def remove_folder(folder: Path) -> None:
    """Removes a folder and all that is in it; nothing where there is none."""
    if isinstance(folder, GsPath):
        from simpipe import gcs_files

        gcs_files.remove_folder(folder)
    else:
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process removes it as well
            shutil.rmtree(folder)


def make_folder(folder: Path) -> None:
    """Makes a folder that nobody else has made. The caller sees to it that no two make one at the same time on `gs://`.

    Raises:
      FileExistsError: it is there.
    """
    if isinstance(folder, GsPath) and folder.is_dir():
        raise FileExistsError(17, "Folder exists", str(folder))
    folder.mkdir(parents=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copies the files of a folder, both local or both in one bucket, into one that is not there."""
    if isinstance(source, GsPath) and isinstance(target, GsPath):
        from simpipe import gcs_files

        gcs_files.copy_folder(source, target)
    else:
        shutil.copytree(source, target)


def move_file(source: Path, target: Path) -> None:
    """Gives a file another name, both local or both in one bucket, where a copy is made and the old one removed."""
    if isinstance(source, GsPath) and isinstance(target, GsPath):
        from simpipe import gcs_files

        gcs_files.move_file(source, target)
    else:
        source.replace(target)


def tree(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by its name relative to it, in order; links are not followed."""
    if isinstance(folder, GsPath):
        return {name: each.size for name, each in folder.objects().items()}
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    return dict(sorted(found.items()))
