"""What is wrong under a root, and how to mend it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from simpipe import files
from simpipe.errors import SimpipeError

ERROR, WARNING = "error", "warning"
BUILD_AGAIN = "restore it, roll back to another release, or build again"
PRUNE = "run `simpipe prune`"
LOOK = "look at it, and remove it"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
      severity: `error`: queries may fail or be answered wrongly; `warning`: it takes space, or may be as wanted.
      code: its kind, such as `checksum`. release, path: where; path relative to the release, or to the root without one.
      what: it is, in words. cure: how to mend it.
    """

    severity: Literal["error", "warning"]
    code: str
    release: str | None
    path: str | None
    what: str
    cure: str


@dataclass(frozen=True)
class Report:
    """What `check_root` found.

    Attributes:
      releases: folders looked at. files: physical files listed in manifests; size: of them, bytes.
      fast: checksums and contents were left out.
    """

    root: str
    fast: bool
    releases: int
    files: int
    size: int
    findings: tuple[Finding, ...]

    def of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not self.of(ERROR)

    def to_json(self) -> dict[str, Any]:
        counts = {"errors": len(self.of(ERROR)), "warnings": len(self.of(WARNING))}
        return {"ok": self.ok, **counts, **asdict(self)}


@dataclass
class Findings:
    """Collects findings. Texts from damaged files may hold anything: they are made printable."""

    listed: list[Finding] = field(default_factory=list)

    def error(
        self, code: str, what: str, *, cure: str = BUILD_AGAIN, release: str | None = None, path: str | None = None
    ) -> None:
        self._add(ERROR, code, release, path, what, cure)

    def warning(self, code: str, what: str, *, cure: str = PRUNE, release: str | None = None, path: str | None = None) -> None:
        self._add(WARNING, code, release, path, what, cure)

    def _add(self, severity: Any, code: str, release: str | None, path: str | None, what: str, cure: str) -> None:
        release, path = (None if text is None else printable(text) for text in (release, path))
        self.listed.append(Finding(severity, code, release, path, printable(what), printable(cure)))

    @contextlib.contextmanager
    def guard(self, code: str, *, release: str | None = None, path: str | None = None) -> Iterator[None]:
        """Anything that a damaged file makes a parser raise is a finding, not the end of the check."""
        try:
            yield
        except Exception as error:
            what = reason_of(error)
            if path and f"{path}: " in what:  # said already
                what = what.partition(f"{path}: ")[2]
            self.error(code, what, release=release, path=path)


def reason_of(error: Exception) -> str:
    """Why something failed, in one line."""
    if isinstance(error, SimpipeError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def printable(text: str) -> str:
    """The text without control characters and what no terminal can show."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def names_in(folder: Path, found: Findings, *, release: str | None = None) -> list[str]:
    """What a folder holds, by name; nothing, and a finding, where it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError) as error:
        found.error("unreadable", f"folder {folder}: {reason_of(error)}", release=release, cure="check its rights")
        return []


def is_folder(path: Path) -> bool:
    """Whether a folder is there, whatever the name or the rights."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Whether anything is there by this name, a dangling link too."""
    return files.is_there(path)


def read_small(path: Path, *, most: int = 256 << 20) -> bytes:
    """The bytes of a regular file; a pipe would block, and a huge file fill the memory.

    Raises:
      OSError: it cannot be read. ValueError: it is no regular file, or larger than `most` bytes.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    if about.st_size > most:
        raise ValueError(f"{about.st_size:,} bytes")
    return path.read_bytes()
