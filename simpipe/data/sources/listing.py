"""Files of a source: which there are, in what order, and what identifies them cheaply."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.errors import SourceError
from simpipe.gs_path import GsPath

_LISTED = 16


def require(path: str, cure: str, field: str = "source.path") -> Path:
    """The path, which must exist.

    Raises:
      SourceError: it does not; names the field and says what should be there.
    """
    found = files.located(path)
    if not found.exists():
        raise SourceError(f"{field}: {path} does not exist", cure)
    return found


def list_files(pattern: str, suffixes: Collection[str], cure: str) -> tuple[Path, list[str]]:
    """The files that a path names: one file, a folder (searched to the bottom), or a pattern with `*`.

    Args:
      pattern: the configured path.
      suffixes: which files of a folder count, in lower case.
      cure: what to do where there are none.

    Returns:
      a folder, and the files' posix paths relative to it in natural order (`a2` before `a10`).

    Raises:
      SourceError: nothing is there.
    """
    path = files.located(pattern)
    if path.is_file():
        return path.parent, [path.name]
    if path.is_dir():
        root, found = path, (each for each in path.rglob("*") if each.suffix.lower() in suffixes)
    elif glob.has_magic(str(path)):
        fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        root = path.parents[len(path.parts) - 1 - fixed]
        found = matching(path)
    else:
        raise SourceError(f"source.path: {pattern} does not exist", cure)
    names = [each.relative_to(root).as_posix() for each in found if not each.name.startswith(".") and each.is_file()]
    if not names:
        raise SourceError(f"source.path: {pattern} holds no files of this kind", cure)
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"source.path: {pattern}: file name {name!r} is not UTF-8", "rename the file") from None
    return root, sorted(names, key=natural)


def matching(path: Path) -> list[Path]:
    """What a path with `*`, `?` and `[…]` in it names, in order of names; `**` is any number of folders."""
    if not isinstance(path, GsPath):
        return [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
    bucket = GsPath(*path.parts[:2])
    return list(bucket.glob("/".join(path.parts[2:])))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]


def stat_files(root: Path, names: Iterable[str]) -> dict[str, Any]:
    """Names, sizes and times of files, without reading them: their number, bytes and digest, and the files where few."""
    entries = []
    for name in names:
        stat = (root / name).stat()
        entries.append({"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns})
    summary = {"files": len(entries), "bytes": sum(entry["size"] for entry in entries), "digest": files.digest(entries)}
    return {**summary, "entries": entries} if len(entries) <= _LISTED else summary
