"""Removes releases that nobody needs: neither live, previous, tagged, among the newest, in work, nor read by anybody.

The manifest of a release goes first; after that nobody opens it, and no new release can be made out of it. Then go those of
its files that no manifest under the root refers to. The others stay in a folder marked `PRUNED` until nobody refers to them
any more. A prune that is killed leaves nothing that the next one does not finish.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from simpipe import files, releases
from simpipe.errors import ReleaseError
from simpipe.gs_path import GsPath
from simpipe.leases import take_exclusive
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.pointer import read_pointer
from simpipe.prune_leftovers import Cleaned, clean, count_files
from simpipe.run_summary import KEPT, RUNS, forget_runs
from simpipe.survey import Survey, release_lock, survey
from simpipe.tags import read_tags

References = Mapping[str, Mapping[str, set[str]]]


@dataclass(frozen=True)
class Removed:
    """A removed release: files and bytes that went, and files that stay because `needed_by` refer to them."""

    release: str
    files: int
    bytes: int
    left: int = 0
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
      removed: releases of which something went. kept: why each other release stays.
      partly: releases removed earlier whose files others still refer to, by release.
      cleaned: what else went: temporary files, work folders, data sets that re-indexes made.
      notes: what could not be looked at.
    """

    dry_run: bool
    removed: tuple[Removed, ...]
    kept: dict[str, tuple[str, ...]]
    partly: dict[str, tuple[str, ...]]
    cleaned: tuple[Cleaned, ...]
    notes: tuple[str, ...]

    @property
    def files(self) -> int:
        return sum(each.files for each in (*self.removed, *self.cleaned))

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in (*self.removed, *self.cleaned))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": self.files, "bytes": self.bytes}


def prune(root: Path, *, keep: int = 3, older_than_days: float = 0.0, dry_run: bool = False) -> PruneReport:
    """Removes releases that nobody needs, and what killed runs left.

    Args:
      root: the data sets' root.
      keep: newest releases that stay. older_than_days: only older ones go, of releases and of summaries of runs.
      dry_run: say what would go, remove nothing.

    Raises:
      ReleaseError: `keep` below 0, or a damaged pointer or tag.
    """
    if keep < 0 or not older_than_days >= 0:
        raise ReleaseError(f"keep {keep}, older than {older_than_days} days: below 0", "give 0 or more")
    with files.locked(root / ".locks" / "prune"):
        found = survey(root)
        reasons = _reasons(root, found, keep, older_than_days)
        gone = _remove_manifests(root, found, reasons, dry_run)
        unfinished = _give_up_unfinished(root, found, reasons, dry_run)
        left = found.without([*gone, *unfinished]) if dry_run else survey(root)
        if not dry_run:
            for name in left.manifests:  # marks of a prune that was killed before it removed the manifest
                (releases.releases_folder(root) / name / releases.PRUNED).unlink(missing_ok=True)
        marked = dict.fromkeys((*found.pruned, *unfinished), (0, 0)) | gone
        removed, partly = _remove_files(root, left, marked, dry_run)
        cleaned, notes = clean(root, left, dry_run=dry_run)
        count, size = forget_runs(root, older_than_days=older_than_days, dry_run=dry_run)
        if count:
            cleaned.append(Cleaned(RUNS, f"summaries of runs before the newest {KEPT}", count, size))
    kept = {name: tuple(why) for name, why in reasons.items() if why}
    return PruneReport(dry_run, tuple(removed), kept, partly, tuple(cleaned), tuple(notes))


def references(manifests: Mapping[str, Manifest]) -> References:
    """By release, by path: which of these manifests refer to a file of another release."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, manifest in manifests.items():
        for entry in manifest.files:
            if entry.release is not None and entry.release != name:
                found[entry.release][PurePosixPath(entry.path).as_posix()].add(name)
    return found


def _reasons(root: Path, found: Survey, keep: int, older_than_days: float) -> dict[str, list[str]]:
    """Why releases stay, from what is known without asking who reads; none for those that may go. Newest first."""
    named = _named(root)
    reasons = {name: list(named.get(name, ())) for name in found.manifests}
    for name in list(reasons)[:keep]:
        reasons[name].append("newest")
    for name, manifest in found.manifests.items():
        age = _age_days(manifest)
        if age is None or age < older_than_days:
            reasons[name].append("age unknown" if age is None else f"newer than {older_than_days:g} days")
        # Its references are not known, so nothing may go that it might refer to.
        reasons[name] += [f"may be referenced by {other}, whose manifest cannot be read" for other in found.unreadable]
    reasons |= {name: [f"its manifest cannot be read: {why}"] for name, why in found.unreadable.items()}
    return reasons | {name: ["no release: neither a manifest nor marked as unfinished"] for name in found.unknown}


def _named(root: Path) -> dict[str | None, list[str]]:
    """What names releases: the pointer and tags."""
    pointer, found = read_pointer(root), defaultdict(list)
    if pointer is not None:
        found[pointer.release].append("live")
        found[pointer.previous].append("previous")
    for tag, about in read_tags(root).items():
        found[about.release].append(f"tag {tag}")
    return found


def _age_days(manifest: Manifest) -> float | None:
    try:
        made = datetime.strptime(manifest.created_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (datetime.now(UTC) - made).total_seconds() / 86400


def _remove_manifests(root: Path, found: Survey, reasons: dict[str, list[str]], dry_run: bool) -> dict[str, tuple[int, int]]:
    """Takes the manifests of releases without a reason to stay, oldest first; files and bytes by release."""
    gone = {}
    for name, manifest in reversed(found.manifests.items()):
        if reasons[name]:
            continue
        folder = releases.releases_folder(root) / name
        with contextlib.ExitStack() as held:
            lease = take_exclusive(root, name)
            if lease is None:
                reasons[name].append("read")
                continue
            held.enter_context(lease)
            free = held.enter_context(files.trying_lock(release_lock(root, manifest.steps.get("build"))))
            if not free or (not (folder / releases.PUBLISHED).exists() and _reindexing(root, held)):
                reasons[name].append("in work")
                continue
            # Who publishes or tags a release holds a lease on it meanwhile: what is named now is all.
            reasons[name] += _named(root).get(name, [])
            if reasons[name]:
                continue
            taken = [folder / each for each in (releases.BUILD_JSON, MANIFEST_JSON) if (folder / each).exists()]
            gone[name] = count_files(taken)
            if not dry_run:
                files.write_bytes(folder / releases.PRUNED, b"")
                files.remove_files(taken)
    return gone


def _reindexing(root: Path, held: contextlib.ExitStack) -> bool:
    return not held.enter_context(files.trying_lock(root / ".locks" / "reindex"))


def _give_up_unfinished(root: Path, found: Survey, reasons: dict[str, list[str]], dry_run: bool) -> list[str]:
    """Marks releases that nobody works on and that never got a manifest."""
    gone = []
    for name, key in found.unfinished.items():
        folder = releases.releases_folder(root) / name
        with contextlib.ExitStack() as held:
            # Without a key the folder was just made, or left so by a kill.
            lock = releases.new_release_lock(root) if key is None else release_lock(root, key)
            free = held.enter_context(files.trying_lock(lock)) and not _reindexing(root, held)
            if not free or (folder / MANIFEST_JSON).exists() or (key is None and (folder / releases.BUILD_JSON).exists()):
                reasons[name] = ["in work"]
                continue
            if not dry_run:
                files.write_bytes(folder / releases.PRUNED, b"")
            gone.append(name)
    return gone


def _remove_files(
    root: Path, left: Survey, marked: Mapping[str, tuple[int, int]], dry_run: bool
) -> tuple[list[Removed], dict[str, tuple[str, ...]]]:
    """Removes the files of marked releases that no manifest refers to.

    Args:
      left: the releases that there are now. marked: by release files and bytes that went already.
    """
    needed, removed, partly = references(left.manifests), [], {}
    for name, (count, size) in sorted(marked.items()):
        folder, staying, users = releases.releases_folder(root) / name, 0, set(left.unreadable)
        counted = {folder / each for each in (releases.PRUNED, *((MANIFEST_JSON, releases.BUILD_JSON) if count else ()))}
        going = []
        for path, taken in _files_under(folder):
            if path in counted:
                continue
            by = needed.get(name, {}).get(path.relative_to(folder).as_posix(), set())
            if by or left.unreadable:
                staying += 1
                users |= by
            else:
                count, size = count + 1, size + taken
                going.append(path)
        if not dry_run:
            files.remove_files(going)
            _remove_empty(folder, whole=not staying)
        if count or not staying:
            removed.append(Removed(name, count, size, staying, tuple(sorted(users))))
        else:
            partly[name] = tuple(sorted(users))
    return removed, partly


def _files_under(folder: Path) -> Iterator[tuple[Path, int]]:
    """Everything that is no folder, and its bytes; links are not followed."""
    if isinstance(folder, GsPath):
        yield from ((folder / name, size) for name, size in files.tree(folder).items())
        return
    for parent, folders, names in os.walk(folder):
        links = [each for each in folders if os.path.islink(os.path.join(parent, each))]
        for each in sorted([*names, *links]):
            path = Path(parent, each)
            yield path, path.lstat().st_size


def _remove_empty(folder: Path, *, whole: bool) -> None:
    """Removes empty folders within; with `whole` the release's own folder as well, its mark last."""
    for parent, _, _ in () if isinstance(folder, GsPath) else os.walk(folder, topdown=False):
        if Path(parent) != folder:
            with contextlib.suppress(OSError):  # holds files that stay
                os.rmdir(parent)
    if whole:
        (folder / releases.PRUNED).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
