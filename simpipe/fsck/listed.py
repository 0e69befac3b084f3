"""The files that manifests list: where each lies, and whether it is as listed. Each physical file is read once."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from simpipe import files
from simpipe.errors import ContractError
from simpipe.fsck.findings import Findings, is_folder, is_there, read_small, reason_of
from simpipe.gs_path import GsPath
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.progress import progress

_THREADS = 4
_MIB = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a file lies: in the folder of `release`, at `path` below it."""

    release: str
    path: str


@dataclass
class Release:
    """A release whose manifest could be read.

    Attributes:
      sha256: of the manifest's bytes.
      places: of the files that it lists, by their paths. whole: those that are as listed, and may be handed to a library.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    places: dict[str, Place] = field(default_factory=dict)
    whole: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.name


def load_release(folder: Path, found: Findings) -> Release | None:
    """A release; None, and a finding, where its manifest is damaged."""
    with found.guard("manifest", release=folder.name, path=MANIFEST_JSON):
        sha256 = files.sha256_bytes(read_small(folder / MANIFEST_JSON))
        return Release(folder, Manifest.load(folder), sha256)
    return None


def list_places(release: Release, found: Findings) -> None:
    """Finds out where the release's files lie; paths that leave their folder are findings."""
    for entry in release.manifest.files:
        origin = entry.release or release.name
        try:
            path = files.check_inside(release.folder, entry.path).as_posix()
            if not is_name(origin):
                raise ContractError(f"release {origin!r} that it is carried over from leaves the folder of releases")
        except ContractError as error:
            found.error("path", error.message, release=release.name, path=entry.path)
            continue
        if path in release.places:
            found.error("manifest", "listed twice", release=release.name, path=path)
        release.places[path] = Place(origin, path)


def is_name(text: str) -> bool:
    """Whether a text names something in a folder, not above or below it."""
    return text not in ("", ".", "..") and "/" not in text and "\\" not in text and "\0" not in text


@dataclass(frozen=True)
class _Use:
    release: Release
    path: str
    size: int
    sha256: str


def check_files(releases_folder: Path, listed: Sequence[Release], found: Findings, *, fast: bool) -> tuple[int, int]:
    """Checks size and, unless `fast`, SHA-256 of every listed file; fills `Release.whole`.

    Returns:
      How many physical files there are, and their bytes.
    """
    uses: dict[Place, list[_Use]] = defaultdict(list)
    for release in listed:
        for entry in release.manifest.files:
            place = release.places.get(Path(entry.path).as_posix())
            if place is not None:
                uses[place].append(_Use(release, place.path, entry.size, entry.sha256))
    if isinstance(releases_folder, GsPath):
        trees = {name: files.tree(releases_folder / name) for name in {place.release for place in uses}}
        sizes = {place: _size_in(trees, place, of, listed, found) for place, of in uses.items()}
    else:
        sizes = {place: _size_of(releases_folder, place, of, listed, found) for place, of in uses.items()}
    there = {place: size for place, size in sizes.items() if size is not None}
    wanted = {place: size for place, size in there.items() if any(use.size == size for use in uses[place])}
    sums = {} if fast else _sums(releases_folder, wanted, found)
    for place, size in there.items():
        _compare(releases_folder, place, uses[place], size, sums.get(place), found, fast=fast)
    return len(there), sum(there.values())


def _size_of(folder: Path, place: Place, uses: Sequence[_Use], listed: Sequence[Release], found: Findings) -> int | None:
    """Its size in bytes; None, and a finding, where there is no such file."""
    path = folder / place.release / place.path
    by = _named(uses, place)
    try:
        about = os.stat(path)
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        there = is_folder(folder / place.release)
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not is_there(path):
            what = _missing(place, listed) if there else f"missing: there is no release {place.release}"
            found.error("missing" if there else "reference", what + by, release=place.release, path=place.path)
        else:
            found.error("unreadable", reason_of(error) + by, release=place.release, path=place.path)
        return None
    if not stat.S_ISREG(about.st_mode):
        found.error("missing", f"not a regular file{by}", release=place.release, path=place.path)
    elif not inside:
        found.error("path", f"a link that leaves the folder of releases{by}", release=place.release, path=place.path)
    else:
        return about.st_size
    return None


def _size_in(
    trees: dict[str, dict[str, int]], place: Place, uses: Sequence[_Use], listed: Sequence[Release], found: Findings
) -> int | None:
    """Like `_size_of`, from listings of releases on object storage."""
    there = trees[place.release]
    if place.path not in there:
        what = _missing(place, listed) if there else f"missing: there is no release {place.release}"
        code = "missing" if there else "reference"
        found.error(code, what + _named(uses, place), release=place.release, path=place.path)
    return there.get(place.path)


def _missing(place: Place, listed: Sequence[Release]) -> str:
    """What to say of a file that is not where it should be."""
    origin = next((release for release in listed if release.name == place.release), None)
    further = origin.places.get(place.path) if origin else None
    if further is not None and further.release != place.release:
        return f"missing: that release carries it over from {further.release}; a reference has to name the release that holds it"
    return "missing"


def _named(uses: Sequence[_Use], place: Place) -> str:
    """Who lists a file, where it is not only the release that holds it."""
    names = sorted({use.release.name for use in uses})
    if names == [place.release]:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f" (listed by {shown})"


def _sums(folder: Path, wanted: dict[Place, int], found: Findings) -> dict[Place, str]:
    """SHA-256 of files. Hard links are read once."""
    same: dict[object, list[Place]] = defaultdict(list)
    for place in wanted:
        if isinstance(folder, GsPath):
            same[place].append(place)
            continue
        try:
            about = os.stat(folder / place.release / place.path)
        except OSError as error:
            found.error("unreadable", reason_of(error), release=place.release, path=place.path)
            continue
        same[about.st_dev, about.st_ino].append(place)

    def read(places: list[Place]) -> str | Exception:
        try:
            return files.sha256_here_or_there(folder / places[0].release / places[0].path)
        except OSError as error:
            return error

    sums: dict[Place, str] = {}
    total = sum(wanted[places[0]] for places in same.values())
    with progress("checksums", total // _MIB, "MiB") as update, ThreadPoolExecutor(_THREADS) as pool:
        done = 0
        for places, answer in zip(same.values(), pool.map(read, same.values()), strict=True):
            done += wanted[places[0]]
            update(done // _MIB)
            for place in places:
                if isinstance(answer, str):
                    sums[place] = answer
                else:
                    found.error("unreadable", reason_of(answer), release=place.release, path=place.path)
    return sums


def _compare(
    folder: Path, place: Place, uses: Iterable[_Use], size: int, actual: str | None, found: Findings, *, fast: bool
) -> None:
    """Compares a file with what each manifest says of it."""
    differs: dict[tuple[str, str], list[_Use]] = defaultdict(list)
    for use in uses:
        if use.size != size:
            differs["size", f"{size:,} bytes, the manifest says {use.size:,}"].append(use)
        elif actual is not None and use.sha256 != actual:
            differs["checksum", f"altered: SHA-256 {actual[:12]}, the manifest says {use.sha256[:12]}"].append(use)
        elif actual is not None or fast:
            use.release.whole[use.path] = folder / place.release / place.path
    for (code, what), those in differs.items():
        found.error(code, what + _named(those, place), release=place.release, path=place.path)
