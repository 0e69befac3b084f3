"""What is left behind under a root besides releases: temporary files, work folders, data sets of re-indexes, files of leases.

Whatever belongs to a running process stays: it holds a lock, or a lease. Things are listed before locks are tried, so that
what a process begins afterwards is not on the list.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simpipe import files
from simpipe.embeddings import EMBEDDINGS_JSON
from simpipe.errors import ContractError
from simpipe.gs_path import GsPath
from simpipe.leases import LEASES, RELEASES, take_exclusive
from simpipe.reindex.changes import CHANGES_JSON, is_unfinished_data_set
from simpipe.run_summary import RUNS
from simpipe.survey import Survey, survey

_FINISHED = {"examples": "dataset.json", "encoders": "encoder.json", "embeddings": EMBEDDINGS_JSON, "dedupe": "dedupe.json"}
_FOLDERS = (*_FINISHED, "tags", "calibrate", "evaluate", RUNS)
_OWN_LOCKS = ("prune", "new-release")
_WORK = ".work"


@dataclass(frozen=True)
class Cleaned:
    """Something that went. `path`: relative to the root."""

    path: str
    what: str
    files: int
    bytes: int


def clean(root: Path, found: Survey, *, dry_run: bool) -> tuple[list[Cleaned], list[str]]:
    """Removes what no running process works on.

    Locks are held only while things are put out of the way, so that a re-index that begins now need not take a prune for
    another re-index.

    Args:
      found: the releases that there are (or, in a dry run, would be).

    Returns:
      What went, and notes on what could not be looked at.
    """
    temporary, work = list(_temporary(root, found)), list(_work_folders(root, found))
    taken: list[_Taken] = []
    notes = []
    if temporary or work or _unused_embeddings(root, found):
        with contextlib.ExitStack() as held:
            busy = _hold_all(root, held)
            if busy:
                notes.append(f"temporary files and work folders stay: {', '.join(busy)} in work")
            else:
                free = _Unread(root, held)
                unused = _unused_embeddings(root, found if dry_run else survey(root))
                listed = [(path, "embeddings of a re-index") for path in unused]
                listed += [(path, "temporary") for path in temporary] + [(path, "work folder") for path in work]
                listed = [(path, what) for path, what in listed if not set(path.parents) & set(unused)]  # goes as a whole
                taken = [_take(path, what, dry_run) for path, what in listed if files.is_there(path) and free(path)]
    cleaned = [_remove(root, each, dry_run) for each in taken]  # when locks are free again: nobody waits for it
    if not dry_run:
        _remove_leases(root)
    return cleaned, notes


def _hold_all(root: Path, held: contextlib.ExitStack) -> list[str]:
    """Takes every lock of a step; returns those that others hold."""
    locks = root / ".locks"
    paths = [root / ".live.lock"]
    paths += [path for path in sorted(locks.iterdir()) if path.name not in _OWN_LOCKS] if locks.is_dir() else []
    return [path.name for path in paths if not held.enter_context(files.trying_lock(path))]


def _temporary(root: Path, found: Survey) -> Iterator[Path]:
    places = [root, *(root / name for name in _FOLDERS), root / RELEASES]
    yield from (path for place in places for path in place.glob(f"{files.TMP_PREFIX}*"))
    within = [path for kind in _FINISHED for path in (root / kind).glob("*")]
    for place in [*within, *(root / RELEASES / name for name in found.manifests)]:
        if place.name.startswith(files.TMP_PREFIX):
            continue
        if isinstance(place, GsPath):  # a dozen listings, or one that reads the names of everything
            yield from (path for path in place.rglob(f"{files.TMP_PREFIX}*") if _WORK not in path.parts)
            continue
        for parent, folders, names in os.walk(place):
            yield from (Path(parent, each) for each in [*folders, *names] if each.startswith(files.TMP_PREFIX))
            folders[:] = [each for each in folders if not each.startswith((files.TMP_PREFIX, _WORK))]


def _work_folders(root: Path, found: Survey) -> Iterator[Path]:
    """Those of jobs beside releases, and those in finished data sets; in an unfinished one the next run goes on with it."""
    yield from (root / RELEASES).glob(f"{_WORK}-*")
    within = [path.parent for kind, last in _FINISHED.items() for path in (root / kind).glob(f"*/{last}")]
    within += [root / RELEASES / name for name in found.manifests]
    yield from (path / _WORK for path in within if (path / _WORK).is_dir())


class _Unread:
    """Whether nobody reads or publishes the release that a path belongs to; it stays so until `held` ends."""

    def __init__(self, root: Path, held: contextlib.ExitStack) -> None:
        self._root, self._held = root, held
        self._known: dict[str, bool] = {}

    def __call__(self, path: Path) -> bool:
        release = self._release_of(path)
        if release is not None and release not in self._known:
            lease = take_exclusive(self._root, release)
            self._known[release] = lease is not None
            if lease is not None:
                self._held.enter_context(lease)
        return release is None or self._known[release]

    def _release_of(self, path: Path) -> str | None:
        parts = path.relative_to(self._root).parts
        if parts[0] != RELEASES:
            return None
        name = parts[1].removeprefix(f"{_WORK}-")
        if name == parts[1]:
            return name if len(parts) > 2 else None
        owners = [each.name for each in (self._root / RELEASES).iterdir() if name.startswith(f"{each.name}-")]
        return max(owners, key=len, default=None)


def _unused_embeddings(root: Path, found: Survey) -> list[Path]:
    """Data sets that re-indexes made or began, and that no release was built from or is any more."""
    parent = root / "embeddings"
    if found.unreadable or found.unfinished or not parent.is_dir():
        return []  # or they may be theirs
    used = {str(manifest.provenance.get("embeddings"))[:12] for manifest in found.manifests.values()}
    return [folder for folder in sorted(parent.iterdir()) if folder.name not in used and _by_reindex(folder)]


def _by_reindex(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    if (folder / CHANGES_JSON).exists() or is_unfinished_data_set(folder):
        return True
    try:
        return "base" in files.read_json(folder / EMBEDDINGS_JSON)["provenance"]  # unloaded, or changes
    except (ContractError, KeyError, TypeError):
        return False


def _remove_leases(root: Path) -> None:
    """Lock files of releases that are gone."""
    parent = root / LEASES
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if not (root / RELEASES / path.name).exists():
            lease = take_exclusive(root, path.name)
            if lease is not None:
                with lease:
                    lease.remove_file()


def count_files(paths: Iterable[Path]) -> tuple[int, int]:
    """How many files, and their bytes."""
    sizes = [path.lstat().st_size for path in paths]
    return len(sizes), sum(sizes)


@dataclass(frozen=True)
class _Taken:
    path: Path  # where it was
    now: Path
    what: str
    went: tuple[int, int] | None = None  # files and bytes, where it is removed already


def _take(path: Path, what: str, dry_run: bool) -> _Taken:
    """Puts something out of the way by one move, so that no half of it is ever taken for a whole; of objects, removes them."""
    now = path
    if isinstance(path, GsPath):
        found = files.tree(path) or {"": path.stat().st_size}
        if not dry_run:
            files.remove_folder(path)
            path.unlink(missing_ok=True)
        return _Taken(path, now, what, (len(found), sum(found.values())))
    if not dry_run:
        now = path.with_name(f"{files.TMP_PREFIX}{secrets.token_hex(4)}-pruned")
        os.rename(path, now)
    return _Taken(path, now, what)


def _remove(root: Path, taken: _Taken, dry_run: bool) -> Cleaned:
    now = taken.now
    if taken.went is not None:
        return Cleaned(taken.path.relative_to(root).as_posix(), taken.what, *taken.went)
    whole = now.is_dir() and not now.is_symlink()
    inside = (Path(parent, name) for parent, _, names in os.walk(now) for name in names)
    count, size = count_files(inside if whole else [now])
    if not dry_run:
        shutil.rmtree(now) if whole else now.unlink()
    return Cleaned(taken.path.relative_to(root).as_posix(), taken.what, count, size)
