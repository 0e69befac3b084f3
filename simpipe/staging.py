"""Local copies of objects on `gs://`, for libraries that open files: one per object and generation, shared by processes.

CACHE/objects/<digest of the address>/<generation>/NAME    appear by a rename, checked by size and CRC32C
CACHE/folders/<digest of what is in it>/…                  hard links to copies, for libraries that load folders
CACHE/new/<random>/NAME                                    being written or fetched

The cache is bounded: `SIMPIPE_CACHE_GIB` (20). What was used longest ago goes first; what was handed out within the last
minutes stays, so that it can be opened, and what is open or mapped lives on without its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simpipe import gcs
from simpipe.errors import ConfigError

_LIMIT_GIB = 20.0
_GRACE = 300.0  # seconds in which a path that was handed out is not removed
_ABANDONED = 86_400.0  # seconds after which what a killed process was writing goes
_SHARE = 20  # the whole cache is looked through when a process has added this part of the limit
_added: dict[Path, int] = {}  # bytes by cache since it was last looked through
_checked: dict[tuple[str, int, int, int], str] = {}  # copies whose checksum this process has compared
_caches: dict[str, Path] = {}  # by the address of a root: where its copies are kept, if not in the default cache


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/simpipe`, or `~/.cache/simpipe`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simpipe"


def keep_in(address: str, cache: Path) -> None:
    """From now on this process keeps copies of what lies under `address` (`gs://…`) in `cache`."""
    _caches[address.rstrip("/") + "/"] = cache


def cache_of(address: str) -> Staging:
    """The cache for an object's address."""
    within = [prefix for prefix in _caches if f"{address}/".startswith(prefix)]
    return Staging(_caches[max(within, key=len)] if within else default_cache(), limit_bytes())


def limit_bytes() -> int:
    """Of the cache, from `SIMPIPE_CACHE_GIB`.

    Raises:
      ConfigError: it is no number above 0.
    """
    text = os.environ.get("SIMPIPE_CACHE_GIB", "")
    try:
        gib = float(text) if text else _LIMIT_GIB
    except ValueError:
        gib = 0.0
    if not gib > 0:
        raise ConfigError(f"SIMPIPE_CACHE_GIB: {text!r} is no number above 0", "give the size of the cache in GiB, such as 20")
    return int(gib * 2**30)


@dataclass(frozen=True)
class Staging:
    """Local copies in a folder.

    Attributes:
      cache: the folder. limit: bytes. grace: seconds in which a path that was handed out stays.
    """

    cache: Path
    limit: int
    grace: float = _GRACE

    def file(self, bucket: str, wanted: gcs.Object) -> Path:
        """The copy of an object, fetched where there is none or a damaged one.

        Raises:
          gcs.Changed: it was replaced meanwhile. ContractError: it was removed. SimpipeError: it cannot be fetched.
        """
        path = self._place(bucket, wanted)
        if self._good(path, wanted):
            return path
        with _one_at_a_time(self.cache / "locks" / path.parent.parent.name):
            if self._good(path, wanted):  # another process was fetching it
                return path
            with self.writing(path.name) as temporary:
                gcs.download(bucket, wanted, temporary)
                self._put(temporary, path, wanted)
        return path

    def have(self, bucket: str, wanted: gcs.Object) -> Path | None:
        """The copy of an object if there is one."""
        path = self._place(bucket, wanted)
        return path if self._good(path, wanted) else None

    def adopt(self, bucket: str, written: gcs.Object, temporary: Path) -> None:
        """Makes a file the copy of the object that it was just uploaded as; the file's name goes."""
        self._put(temporary, self._place(bucket, written), written)

    def folder(self, bucket: str, prefix: str, objects: list[gcs.Object]) -> Path:
        """A folder with copies of objects, by their keys below `prefix`."""
        told = "\n".join(f"{each.key} {each.generation}" for each in objects)
        target = self.cache / "folders" / _digest(f"{bucket}/{prefix}\n{told}") / Path(prefix).name
        copies = [(target / each.key.removeprefix(f"{prefix}/"), self.file(bucket, each)) for each in objects]
        for path, copy in copies:
            if not (path.exists() and path.samefile(copy)):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
                _link(copy, temporary)
                os.replace(temporary, path)
                temporary.unlink(missing_ok=True)  # of two names of one file a rename leaves both
        os.utime(target.parent)
        return target

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path of this name in a folder of its own, which goes at the end of the block."""
        folder = self.cache / "new" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        try:
            yield folder / name
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what is left is looked for again; see `_sweep`

    def _place(self, bucket: str, wanted: gcs.Object) -> Path:
        name = Path(wanted.key).name
        return self.cache / "objects" / _digest(f"{bucket}/{wanted.key}") / str(wanted.generation) / name

    def _good(self, path: Path, wanted: gcs.Object) -> bool:
        try:
            now = path.stat()
        except FileNotFoundError:
            return False
        if now.st_size != wanted.size:
            return False
        key = (str(path), now.st_ino, now.st_size, now.st_mtime_ns)
        if wanted.crc32c and _checked.get(key) != wanted.crc32c:
            try:
                if gcs.crc32c(path) != wanted.crc32c:
                    return False
            except FileNotFoundError:  # removed for space meanwhile
                return False
            _checked[key] = wanted.crc32c
        with contextlib.suppress(OSError):  # removed meanwhile, or nothing may be written here: then it is not known as used
            os.utime(path.parent)
        return path.exists()

    def _put(self, temporary: Path, path: Path, about: gcs.Object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
        now = path.stat()
        _checked[str(path), now.st_ino, now.st_size, now.st_mtime_ns] = about.crc32c
        added = _added.get(self.cache, self.limit) + about.size  # at first nobody knows what is there
        _added[self.cache] = added
        if added > self.limit // _SHARE:
            self.shrink()

    def shrink(self) -> None:
        """Removes what was used longest ago until the cache is within nine tenths of its limit, if it is above it."""
        _added[self.cache] = 0
        now = time.time()
        self._sweep(now)
        found = []
        for folder in self.cache.glob("objects/*/*"):
            with contextlib.suppress(OSError):  # another process removes as well
                found.append((folder.stat().st_mtime, sum(each.stat().st_size for each in folder.iterdir()), folder))
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return
        self._sweep(now, folders=self.grace)
        for used, size, folder in sorted(found):
            if total <= 0.9 * self.limit or now - used < self.grace:
                break
            shutil.rmtree(folder, ignore_errors=True)  # gone already, or looked for again next time
            total -= size

    def _sweep(self, now: float, folders: float = _ABANDONED) -> None:
        """Removes what killed processes were writing, and links that keep copies alive."""
        for kind, age in (("new", _ABANDONED), ("folders", folders)):
            for folder in self.cache.glob(f"{kind}/*"):
                with contextlib.suppress(OSError):  # another process removes as well
                    if now - folder.stat().st_mtime > age:
                        shutil.rmtree(folder)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """So that of the processes of a machine one fetches an object."""
    from simpipe import files  # which needs this module

    with files.locked(path):
        yield


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links here
        shutil.copyfile(source, target)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]
