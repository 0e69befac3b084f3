"""Leases: who reads a release holds a shared lock on `ROOT/.leases/RELEASE`, and `prune` leaves a locked release alone.

A lock goes with its process, so a kill leaves none. Whoever takes a lease looks afterwards whether the release is still
there: from then on it stays. On `gs://` leases are objects that are renewed, see `simpipe.gcs_locks`.
"""

from __future__ import annotations

import fcntl
import functools
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from simpipe import gcs_locks
from simpipe.gs_path import GsPath

LEASES = ".leases"
RELEASES = "releases"


class Lease:
    """A lock on a release, until it is closed or nobody refers to it any more. Forked processes hold it as well."""

    def __init__(self, close: Callable[[], None], path: Path, finish: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._finish = finish  # what a finalizer may not wait for
        self._close = weakref.finalize(self, close)

    def close(self) -> None:
        self._close()
        self._finish()

    def remove_file(self) -> None:
        """Removes the lock's file, of a release that is gone; only the holder of an exclusive lease may."""
        if isinstance(self.path, GsPath):
            return  # it goes when it is closed
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def lease_path(root: Path, release: str) -> Path:
    return root / LEASES / release


def take_lease(folder: Path) -> Lease | None:
    """A shared lease on a release's folder; waits while `prune` looks at the release, which is short.

    Returns:
      None where there can be none: a folder that is not under a root's `releases`, or where nothing may be written.
    """
    folder = folder.resolve()
    if isinstance(folder, GsPath):
        if folder.parent.name != RELEASES:
            return None
        return _held(lease_path(folder.parent.parent, folder.name), gcs_locks.take_shared)
    return _lock(lease_path(folder.parent.parent, folder.name), fcntl.LOCK_SH) if folder.parent.name == RELEASES else None


def take_exclusive(root: Path, release: str) -> Lease | None:
    """The lease for who removes the release; None where somebody reads it.

    Raises:
      OSError: the lock's file cannot be made.
    """
    path = lease_path(root, release)
    if isinstance(path, GsPath):
        return _held(path, gcs_locks.take_exclusive)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _held(path: Path, take: Callable[[GsPath], gcs_locks.Held | None]) -> Lease | None:
    assert isinstance(path, GsPath)
    held = take(path)
    return None if held is None else Lease(held.leave, path, held.release)


def _lock(path: Path, kind: int) -> Lease | None:
    while True:
        try:
            descriptor = _open(path)
        except OSError:  # nothing may be written here
            return None
        lease = Lease(functools.partial(os.close, descriptor), path)
        try:
            fcntl.flock(descriptor, kind)
            ours, there = os.fstat(descriptor), os.stat(path)
        except FileNotFoundError:  # removed between opening and locking: a lock on it would bind nobody
            lease.close()
            continue
        except OSError:  # held by another, or no locks on this file system
            lease.close()
            return None
        if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
            return lease
        lease.close()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
