"""All checks of a root, in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simpipe import files
from simpipe.fsck.findings import LOOK, Findings, Report, is_folder, is_there, names_in, printable
from simpipe.fsck.listed import Release, check_files, list_places, load_manifest
from simpipe.fsck.members import check_members
from simpipe.fsck.orphans import check_orphans
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
    listed = []
    for folder in folders:
        if is_there(folder / MANIFEST_JSON) and (manifest := load_manifest(folder, found)) is not None:
            listed.append(Release(folder, manifest))
    for release in listed:
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
    known = {release.folder for release in listed}
    damaged = [folder for folder in folders if folder not in known and is_there(folder / MANIFEST_JSON)]
    check_orphans(root, [folder for folder in folders if folder not in damaged], listed, found)
    return Report(printable(str(root)), fast, len(folders), count, size, tuple(found.listed))


def _folders(root: Path, found: Findings) -> list[Path]:
    """Folders of releases, oldest first."""
    parent = releases_folder(root)
    if not is_folder(parent):
        if is_there(parent):
            found.error("unreadable", "not a folder", path=parent.name)
        return []
    folders = []
    for entry in names_in(parent, found):
        path = parent / entry.name
        if entry.name.startswith(files.TMP_PREFIX):
            found.warning("leftover", "a temporary file of a run that was stopped", path=f"{parent.name}/{entry.name}")
        elif "Z-" not in entry.name or not is_folder(path):
            found.warning("unknown", "not a release", cure=LOOK, path=f"{parent.name}/{entry.name}")
        else:
            folders.append(path)
    return folders


def _check_contents(listed: list[Release], found: Findings) -> None:
    """What the files hold. Releases of the same files and counts are alike, and are read once."""
    hashed: set[str] = set()
    seen: dict[str, list] = {}
    with progress("contents", len(listed), "releases") as update:
        for done, release in enumerate(listed):
            mine = Findings()
            check_small(release, mine)
            about = release.manifest.model_dump(mode="json", include={"partitions", "items", "store_files", "metadata", "dim"})
            members = [entry.sha256 for entry in release.manifest.files if entry.path.startswith(_MEMBERS)]
            key = files.digest([about, members, sorted(release.whole)])
            if key not in seen:
                theirs = Findings()
                with theirs.guard("content", release=release.name):
                    check_members(release, theirs, hashed=hashed)
                seen[key] = theirs.listed
            found.listed += mine.listed
            found.listed += [replace(finding, release=printable(release.name)) for finding in seen[key]]
            update(done + 1)


_MEMBERS = ("partitions/", "hidden/", "store/", "digests/")
