"""All checks of a root, in order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from simpipe import files
from simpipe.fsck.findings import LOOK, Finding, Findings, Report, is_folder, is_there, names_in, printable, read_small
from simpipe.fsck.listed import Release, check_files, list_places, load_release
from simpipe.fsck.members import check_members
from simpipe.fsck.orphans import LEFTOVER, WORK, check_orphans
from simpipe.fsck.pointer import check_leases, check_pointer, check_tags
from simpipe.fsck.small import check_encoder, check_small
from simpipe.manifest import MANIFEST_JSON
from simpipe.progress import progress
from simpipe.releases import releases_folder


def check_root(root: Path, *, fast: bool = False) -> Report:
    """Verifies every release under a root, the pointer, tags and leases. Changes nothing, and no damage makes it fail.

    Args:
      root: of the data sets. fast: compares sizes instead of checksums, and opens none of the listed files.
    """
    found = Findings()
    parent = releases_folder(root)
    folders = _folders(root, found)
    there = [folder for folder in folders if is_there(folder / MANIFEST_JSON)]
    listed = [release for folder in there if (release := load_release(folder, found)) is not None]
    for release in listed:
        with found.guard("manifest", release=release.name, path=MANIFEST_JSON):
            list_places(release, found)
            check_encoder(root, release, found)
    count, size = check_files(parent, listed, found, fast=fast)
    if not fast:
        _check_contents(listed, found)
    readable = {release.name for release in listed}
    check_pointer(root, readable, found)
    check_tags(root, readable, found)
    check_leases(root, {folder.name for folder in folders}, found)
    # A manifest that cannot be read lists nobody knows what.
    check_orphans(root, [folder for folder in folders if folder not in there or folder.name in readable], listed, found)
    _forget_changed(listed, found)
    return Report(printable(str(root)), fast, len(folders), count, size, tuple(found.listed))


def _forget_changed(listed: list[Release], found: Findings) -> None:
    """What was said of a release that a step wrote into, or that was pruned meanwhile, may not hold."""
    for release in listed:
        try:
            now = files.sha256_bytes(read_small(release.folder / MANIFEST_JSON))
        except (OSError, ValueError):
            now = None
        if now != release.sha256:
            name = printable(release.name)
            found.listed = [finding for finding in found.listed if finding.release != name]
            found.warning("changed", "written to or removed while it was checked", cure="run `simpipe fsck` again", release=name)


def _folders(root: Path, found: Findings) -> list[Path]:
    """Folders of releases, oldest first."""
    parent = releases_folder(root)
    if not is_folder(parent):
        if is_there(parent):
            found.error("unreadable", "not a folder", path=parent.name)
        return []
    folders = []
    for name in names_in(parent, found):
        path = parent / name
        if name.startswith((files.TMP_PREFIX, WORK)):
            found.warning("leftover", LEFTOVER, path=f"{parent.name}/{name}")
        elif "Z-" not in name or not is_folder(path):
            found.warning("unknown", "not a release", cure=LOOK, path=f"{parent.name}/{name}")
        else:
            folders.append(path)
    return folders


def _check_contents(listed: list[Release], found: Findings) -> None:
    """What the files hold. Releases of the same files and counts are alike, and are read once."""
    hashed: set[str] = set()
    seen: dict[str, list[Finding]] = {}
    with progress("contents", sum(len(release.manifest.partitions) for release in listed), "partitions") as update:
        done = 0
        for release in listed:
            check_small(release, found)
            key = _members_key(release)
            if key not in seen:
                theirs = Findings()
                with theirs.guard("content", release=release.name):
                    check_members(release, theirs, hashed=hashed, update=lambda number, before=done: update(before + number))
                seen[key] = theirs.listed
            found.listed += [replace(finding, release=printable(release.name)) for finding in seen[key]]
            done += len(release.manifest.partitions)
            update(done)


def _members_key(release: Release) -> str:
    about = release.manifest.model_dump(mode="json", include=set(_COUNTS))
    members = sorted([entry.path, entry.sha256] for entry in release.manifest.files if entry.path.startswith(_MEMBERS))
    return json.dumps([about, members, sorted(release.whole)])  # a text that no file can hold may be among them


_COUNTS = ("partitions", "items", "store_files", "metadata", "dim", "storage", "distance")
_MEMBERS = ("partitions/", "hidden/", "store/", "digests/")
