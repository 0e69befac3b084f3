"""`gs://BUCKET/KEY` as a `pathlib.Path`: names like any other, reads from object storage, opened as a local copy.

Whatever asks for a file name of the system (`open`, Arrow, NumPy, NMSLIB, FAISS, ScaNN, Keras) gets that of a copy in the
cache of `simpipe.staging`. Nothing is written through it: `simpipe.files` does that.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Generator, Iterator
from pathlib import Path, PosixPath, PurePath
from typing import IO, Any, NoReturn

from simpipe import gcs, staging
from simpipe.errors import ContractError, SimpipeError

_ROOT = "gs:"
_MOVES = 20  # how often an object may be replaced while it is opened
_MAGIC = re.compile(r"[*?\[]")
_PIECES = re.compile(r"\[[^\]]+\]|.", re.DOTALL)  # of a pattern: a set of letters, or one


class GsPath(PosixPath):
    """An object, or all objects below a prefix, which then is a folder.

    Parts are `("gs:", BUCKET, ...)`, and all of `pathlib`'s algebra holds for them. Python 3.11 makes children from parts,
    3.12 from texts; `str` alone differs here, and both read it back alike.

    Every method that asks the service raises SimpipeError where it cannot be reached, and ContractError where there is no
    such bucket.
    """

    __slots__ = ()

    def __str__(self) -> str:
        parts = self.parts
        return f"{gcs.SCHEME}{'/'.join(parts[1:])}" if parts[:1] == (_ROOT,) else "/".join(parts) or "."

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def __repr__(self) -> str:
        return f"GsPath({str(self)!r})"

    def __fspath__(self) -> str:
        """The name of a local copy: of the object, or of a folder with all that is below it.

        Raises:
          FileNotFoundError: there is neither.
        """
        return str(self.staged())

    # --- names ---------------------------------------------------------------------------------------------------------

    @property
    def bucket(self) -> str:
        return self._address()[0]

    @property
    def key(self) -> str:
        return self._address()[1]

    def _address(self) -> tuple[str, str]:
        parts = self.parts
        if parts[:1] != (_ROOT,) or len(parts) < 2:
            raise SimpipeError(f"{self}: names no bucket", "write gs://BUCKET/FOLDER")
        return parts[1], "/".join(parts[2:])

    def is_absolute(self) -> bool:
        return self.parts[:1] == (_ROOT,)

    def absolute(self) -> GsPath:
        return self

    def resolve(self, strict: bool = False) -> GsPath:
        return self

    def as_uri(self) -> str:
        return str(self)

    def as_posix(self) -> str:
        return str(self)

    # --- what is there -------------------------------------------------------------------------------------------------

    def about(self) -> gcs.Object | None:
        """Size, generation and checksum of the object; None where there is none."""
        bucket, key = self._address()
        return gcs.about(bucket, key) if key else None

    def objects(self) -> dict[str, gcs.Object]:
        """All objects below, by name relative to this folder, in order, from one listing. Placeholders of consoles are none."""
        begin = self._below()
        found = gcs.listing(self.bucket, begin).objects
        return {each.key[len(begin) :]: each for each in found if not each.key.endswith("/")}

    def _below(self) -> str:
        key = self._address()[1]
        return f"{key}/" if key else ""

    def _direct(self) -> gcs.Listing:
        begin = self._below()
        found = gcs.listing(self.bucket, begin, delimiter="/")
        return gcs.Listing([each for each in found.objects if each.key != begin], found.prefixes)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return self.about() is not None

    def is_dir(self) -> bool:
        return bool(gcs.listing(self.bucket, self._below(), first=1).objects)

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, time of the last change, and the generation as the inode.

        Raises:
          FileNotFoundError: there is neither an object nor a folder.
        """
        found = self.about()
        if found is None and not self.is_dir():
            raise FileNotFoundError(2, "No such object", str(self))
        return _stat(found)

    def lstat(self) -> os.stat_result:
        return self.stat()

    def samefile(self, other_path: Any) -> bool:
        return str(self) == str(other_path)

    def iterdir(self) -> Generator[GsPath, None, None]:
        """Objects and folders directly below.

        Raises:
          FileNotFoundError: nothing is below.
        """
        found = self._direct()
        if not found.objects and not found.prefixes and not self.is_dir():
            raise FileNotFoundError(2, "No such folder", str(self))
        names = [each.key for each in found.objects] + [each.rstrip("/") for each in found.prefixes]
        yield from (self / name.rpartition("/")[2] for name in sorted(names))

    def sizes(self) -> dict[str, int]:
        """Bytes of the objects directly below, by name."""
        return {each.key.rpartition("/")[2]: each.size for each in self._direct().objects}

    def glob(self, pattern: str, **_: Any) -> Generator[GsPath, None, None]:
        """Objects and folders below that match, in order; `**` is any number of folders."""
        yield from self._matching(PurePath(pattern).parts)

    def _matching(self, parts: tuple[str, ...]) -> Generator[GsPath, None, None]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            match = re.compile(_regex(parts))
            yield from (self / name for name in sorted(_with_folders(self.objects())) if match.fullmatch(name))
        elif not _MAGIC.search(part):
            child = self / part
            if rest:
                yield from child._matching(rest)
            elif child.exists():
                yield child
        else:
            found, match = self._direct(), re.compile(_regex((part,)))
            folders = [each.rstrip("/").rpartition("/")[2] for each in found.prefixes]
            names = folders if rest else [*folders, *(each.key.rpartition("/")[2] for each in found.objects)]
            for name in sorted(names):
                if match.fullmatch(name):
                    yield from (self / name)._matching(rest) if rest else (self / name,)

    def rglob(self, pattern: str, **_: Any) -> Generator[GsPath, None, None]:
        return self.glob(f"**/{pattern}")

    # --- contents ------------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        bucket, key = self._address()
        try:
            return gcs.read(bucket, key)
        except ContractError:
            raise FileNotFoundError(2, "No such object", str(self)) from None

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def staged(self) -> Path:
        """A local copy as it is now; see `__fspath__`."""
        bucket, key = self._address()
        cache = staging.cache_of(str(self))
        for _ in range(_MOVES):
            with contextlib.suppress(gcs.Changed):  # replaced since: look again
                found = gcs.about(bucket, key) if key else None
                if found is not None:
                    return cache.file(bucket, found)
                objects = [each for each in gcs.listing(bucket, self._below()).objects if not each.key.endswith("/")]
                if not objects:
                    raise FileNotFoundError(2, "No such object", str(self))
                return cache.folder(bucket, key, objects)
        raise SimpipeError(f"{self}: is replaced faster than it can be read", "stop what writes it again and again")

    @contextlib.contextmanager
    def ranges(self) -> Iterator[Ranges]:
        """The object as it is now, to be read by ranges without a local copy.

        Raises:
          FileNotFoundError: there is none.
        """
        found = self.about()
        if found is None:
            raise FileNotFoundError(2, "No such object", str(self))
        with Ranges(self.bucket, found) as raw:
            yield raw

    def kept(self) -> Path | None:
        """A local copy if there is one already."""
        found = self.about()
        return None if found is None else staging.cache_of(str(self)).have(self.bucket, found)

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        if set(mode) & set("wax+"):
            self._refuse("open for writing")
        return open(self.staged(), mode, buffering, encoding, errors, newline)

    # --- changes -------------------------------------------------------------------------------------------------------

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: object storage has no folders but those that something lies in."""

    def unlink(self, missing_ok: bool = False) -> None:
        bucket, key = self._address()
        if not gcs.delete(bucket, key) and not missing_ok:
            raise FileNotFoundError(2, "No such object", str(self))

    def rmdir(self) -> None:
        """Nothing is there to remove where a folder is empty.

        Raises:
          OSError: it is not empty.
        """
        if self.is_dir():
            raise OSError(39, "Folder not empty", str(self))

    def _refuse(self, what: str) -> NoReturn:
        raise SimpipeError(f"{self}: cannot {what} on object storage", "write it with `simpipe.files`, or locally first")

    def write_bytes(self, data: Any) -> NoReturn:
        self._refuse("write directly")

    def write_text(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("write directly")

    def touch(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("touch")

    def rename(self, target: Any) -> NoReturn:
        self._refuse("rename")

    def replace(self, target: Any) -> NoReturn:
        self._refuse("replace")

    def chmod(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("set rights")

    def symlink_to(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("link")

    def hardlink_to(self, target: Any) -> NoReturn:
        self._refuse("link")


class Ranges(io.RawIOBase):
    """One generation of an object as a file: what is read is asked for, and nothing else."""

    def __init__(self, bucket: str, about: gcs.Object) -> None:
        super().__init__()
        self.size, self._bucket, self._about, self._at = about.size, bucket, about, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Raises SimpipeError where the object was replaced meanwhile."""
        stop = self.size if size is None or size < 0 else min(self._at + size, self.size)
        try:
            data = gcs.read(self._bucket, self._about.key, start=self._at, stop=stop, generation=self._about.generation)
        except gcs.Changed:
            where = gcs.address(self._bucket, self._about.key)
            raise SimpipeError(f"{where}: was replaced while it was read", "run again") from None
        self._at += len(data)
        return data


def _stat(found: gcs.Object | None) -> os.stat_result:
    if found is None:
        return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    seconds = found.updated // 10**9
    whole = (stat.S_IFREG | 0o644, found.generation, 0, 1, 0, 0, found.size, seconds, seconds, seconds)
    times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), found.updated / 1000000000.0)
    times |= {f"{name}_ns": found.updated for name in ("st_atime", "st_mtime", "st_ctime")}
    return os.stat_result(whole, times)


def _with_folders(names: Any) -> set[str]:
    found = set(names)
    for name in names:
        found.update(str(each) for each in PurePath(name).parents if str(each) != ".")
    return found


def _regex(parts: tuple[str, ...]) -> str:
    """The pattern of a path of these parts; a last `**` is any folder, as pathlib has it, and any file as well."""
    text = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:[^/]+/)*"
        else:
            text += "".join(_letter(each) for each in _PIECES.findall(part)) + ("" if last else "/")
    return text


def _letter(piece: str) -> str:
    if len(piece) > 1:
        return f"[^{piece[2:]}" if piece.startswith("[!") else piece
    return {"*": "[^/]*", "?": "[^/]"}.get(piece) or re.escape(piece)
