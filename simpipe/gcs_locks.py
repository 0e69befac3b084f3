"""Locks and leases on `gs://`: objects that their holder renews, and that count as left behind when it no longer does.

A lock is one object, made only if there is none. Processes that share a cache folder queue at a lock of the file system
first; that one goes with its process, so after a kill the next of them takes the object over at once. Others take it over
when it has not been renewed for a minute.

A reader's lease is an object of its own, `.leases/RELEASE/r-…`; who removes the release makes `.leases/RELEASE/remove` first
and then looks for readers, and a reader looks for that one after it made its own: one of the two sees the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from simpipe import files, gcs, staging
from simpipe.errors import ContractError, SimpipeError
from simpipe.gs_path import GsPath

EXPIRES = 60.0  # seconds without renewal after which a lock is taken over
_SKEW = 60.0  # clocks of machines may differ by so much
LEASE_EXPIRES = 900.0  # seconds that a reader's lease outlives its last renewal
_POLL = 1.0  # seconds between looks at a lock that another machine holds
_RENEWALS = 4  # within the time in which it expires


class Held:
    """An object that is renewed until it is released, in a thread of its own.

    Args:
      made: the object as it was written. expires: seconds after which others take it for left behind.
    """

    def __init__(self, bucket: str, made: gcs.Object, data: bytes, *, expires: float) -> None:
        self.lost = False
        self._bucket, self._key, self._generation, self._data = bucket, made.key, made.generation, data
        self._expires = expires
        self._process = os.getpid()
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()  # may be told from a finalizer at any time
        self._thread = threading.Thread(target=self._renew, name="simpipe-lock", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended():
            # Without an answer: the next time. What others took over meanwhile is not of this generation any more.
            with contextlib.suppress(SimpipeError):
                try:
                    self._generation = gcs.upload(self._bucket, self._key, self._data, generation=self._generation).generation
                except gcs.Changed:
                    self.lost = True
                    return

        with contextlib.suppress(gcs.Changed, SimpipeError):  # taken over, or it will expire
            gcs.delete(self._bucket, self._key, generation=self._generation)

    def _ended(self) -> bool:
        try:
            self._end.get(timeout=self._expires / _RENEWALS)
        except queue.Empty:
            return False
        return True

    def leave(self) -> None:
        """Lets the thread remove the object, soon. Waits for nothing, so that a finalizer may call it."""
        if os.getpid() == self._process:  # else a forked copy: the lock is not its own
            self._end.put(None)

    def release(self) -> None:
        """Removes the object."""
        self.leave()
        if os.getpid() == self._process:
            self._thread.join()


@contextlib.contextmanager
def locked(path: GsPath, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock on `path`.

    Raises:
      SimpipeError: the object cannot be written; or, when the block ends, another process has taken the lock over.
    """
    told = False

    def once() -> None:
        nonlocal told
        if not told:
            waiting()
        told = True

    with files.locked(_local(path), once):
        held = _acquire(path)
        seen, since = None, time.monotonic()
        while held is None:
            once()
            there = path.about()
            if there is None or there.generation != seen:
                seen, since = (there.generation if there else None), time.monotonic()
            # Watched for so long without renewal: no clock but this one matters.
            held = _acquire(path, stale=seen if time.monotonic() - since > EXPIRES else None)
            if held is None:
                time.sleep(_POLL)
        try:
            yield
        finally:
            held.release()
        if held.lost:
            raise SimpipeError(f"{path}: this process stood still, and another one took the lock over", "run again")


@contextlib.contextmanager
def trying_lock(path: GsPath) -> Iterator[bool]:
    """Like `locked`, without waiting: yields whether the lock was free; then it is held for the block."""
    with files.trying_lock(_local(path)) as free:
        held = None
        if free:
            held = _acquire(path)
            if held is None:
                there = path.about()
                if there is None or time.time() - there.updated / 1e9 > EXPIRES + _SKEW:
                    held = _acquire(path, stale=there.generation if there else None)
        try:
            yield held is not None
        finally:
            if held is not None:
                held.release()


def _acquire(path: GsPath, stale: int | None = None) -> Held | None:
    """Makes the lock's object, or takes over one that a process of this cache or a `stale` generation left.

    The caller holds the local lock, so no living process of this cache holds the object.
    """
    bucket, key, owner = path.bucket, path.key, _owner()
    data = json.dumps({"owner": owner, "host": socket.gethostname(), "pid": os.getpid()}).encode()
    try:
        return Held(bucket, gcs.upload(bucket, key, data, generation=0), data, expires=EXPIRES)
    except gcs.Changed:
        pass  # somebody's
    there = path.about()
    if there is None:
        return None  # released since
    try:
        if there.generation == stale or _is_of(owner, gcs.read(bucket, key, generation=there.generation)):
            made = gcs.upload(bucket, key, data, generation=there.generation)
            return Held(bucket, made, data, expires=EXPIRES)
    except (gcs.Changed, ContractError):
        pass  # renewed, released or taken over by another meanwhile
    return None


def _is_of(owner: str, data: bytes) -> bool:
    try:
        return json.loads(data)["owner"] == owner
    except (ValueError, KeyError, TypeError):  # written by nobody of us: it expires
        return False


def _owner() -> str:
    """A random name of the cache folder: processes that know it share its local locks."""
    path = staging.default_cache() / "locks" / "owner"
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            return path.read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"owner-{secrets.token_hex(8)}")
        files.write_bytes(temporary, secrets.token_hex(16).encode())
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text(encoding="utf-8")


def _local(path: GsPath) -> files.Path:
    return staging.default_cache() / "locks" / hashlib.sha256(str(path).encode()).hexdigest()[:40]


# --- leases of readers -------------------------------------------------------------------------------------------------


def take_shared(folder: GsPath) -> Held | None:
    """A reader's lease on `.leases/RELEASE`; waits while somebody removes the release. None where nothing may be written."""
    data = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
    mine = folder / f"r-{secrets.token_hex(8)}"
    try:
        made = gcs.upload(mine.bucket, mine.key, data)
    except SimpipeError:  # no right to write here: then nobody is told
        return None
    held = Held(mine.bucket, made, data, expires=LEASE_EXPIRES)
    while (other := (folder / "remove").about()) is not None and made.updated - other.updated < LEASE_EXPIRES * 1e9:
        time.sleep(_POLL)
        made = mine.about() or made
    return held


def take_exclusive(folder: GsPath) -> Held | None:
    """The lease for who removes the release; None where somebody reads it, or removes it as well."""
    mine = folder / "remove"
    try:
        made = gcs.upload(mine.bucket, mine.key, b"{}", generation=0)
    except gcs.Changed:
        there = mine.about()
        if there is not None and time.time() - there.updated / 1e9 < LEASE_EXPIRES + _SKEW:
            return None
        try:
            made = gcs.upload(mine.bucket, mine.key, b"{}", generation=there.generation if there else 0)
        except gcs.Changed:
            return None
    held = Held(mine.bucket, made, b"{}", expires=LEASE_EXPIRES)
    for name, reader in folder.objects().items():
        if not name.startswith("r-"):
            continue
        if made.updated - reader.updated < LEASE_EXPIRES * 1e9:  # both by the clock of the service
            held.release()
            return None
        with contextlib.suppress(gcs.Changed):  # renewed after all: its holder stood still for long
            gcs.delete(folder.bucket, reader.key, generation=reader.generation)
    return held
