"""Tags: names of releases, `ROOT/tags/NAME.json`. A tagged release is never pruned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from simpipe import files, storage
from simpipe.errors import ContractError, ReleaseError
from simpipe.leases import take_lease
from simpipe.manifest import MANIFEST_JSON
from simpipe.pointer import now, read_pointer

TAGS = "tags"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RELEASE = re.compile(r"\d{8}T\d{6}Z-.*")
_MEANT = ("live", "previous")


@dataclass(frozen=True)
class Tag:
    """`tags/NAME.json`."""

    release: str
    tagged_at: str


def check_name(name: str) -> str:
    """The name of a tag.

    Raises:
      ReleaseError: no name, `live`, `previous`, or it looks like a release id.
    """
    if not _NAME.fullmatch(name):
        cure = "use letters, digits, `.`, `_` and `-`, at most 64, the first a letter or digit"
        raise ReleaseError(f"tag {name!r}: not a name", cure)
    if name in _MEANT or _RELEASE.fullmatch(name):
        what = "means the pointer's release" if name in _MEANT else "looks like a release id"
        raise ReleaseError(f"tag {name!r}: {what}", "use another name")
    return name


def read_tags(root: str | Path | storage.Folder) -> dict[str, Tag]:
    """All tags, in order of names.

    Raises:
      ReleaseError: one is damaged.
    """
    folder = _folder(root)
    names = [name.removesuffix(".json") for name in folder.names() if name.endswith(".json")]
    found = {name: _read(folder, name) for name in names if _NAME.fullmatch(name)}
    return {name: tag for name, tag in found.items() if tag is not None}


def set_tag(root: Path, name: str, release: str) -> str | None:
    """Names a release, in one move.

    Args:
      release: its id.

    Returns:
      The release that the tag named before.

    Raises:
      ReleaseError: a bad name, or no such release.
    """
    check_name(name)
    folder = files.inside(root / "releases", release)
    # Under a lease: `prune` reads the tags again before it removes a release that nobody reads.
    lease = take_lease(folder)
    try:
        if not (folder / MANIFEST_JSON).exists():
            raise ReleaseError(f"{folder}: no such release, or an unfinished one", "see `simpipe releases`")
        with files.locked(root / ".locks" / TAGS):
            before = _read(_folder(root), name)
            if before is None or before.release != release:
                files.write_json(root / TAGS / f"{name}.json", {"release": release, "tagged_at": now()})
    finally:
        if lease is not None:
            lease.close()
    return before.release if before else None


def remove_tag(root: Path, name: str) -> str:
    """Removes a tag; returns the release that it named.

    Raises:
      ReleaseError: there is no such tag.
    """
    check_name(name)
    with files.locked(root / ".locks" / TAGS):
        before = _read(_folder(root), name)
        if before is None:
            known = ", ".join(read_tags(root)) or "none"
            raise ReleaseError(f"{root / TAGS}: no tag {name!r}; there are: {known}", "see `simpipe releases`")
        (root / TAGS / f"{name}.json").unlink(missing_ok=True)
    return before.release


def resolve(root: str | Path | storage.Folder, name: str) -> str:
    """The release id that a name stands for: a tag, `live` or `previous`; any other name is an id already.

    Raises:
      ReleaseError: nothing is published, there is no previous release, or a damaged tag.
    """
    if name in _MEANT:
        pointer = read_pointer(root)
        found = None if pointer is None else pointer.release if name == "live" else pointer.previous
        if found is None:
            what = "nothing is published" if pointer is None else "no previous release"
            raise ReleaseError(f"{root}: {what}", "name a release: see `simpipe releases`")
        return found
    if not _NAME.fullmatch(name) or _RELEASE.fullmatch(name):
        return name
    tag = _read(_folder(root), name)
    return name if tag is None else tag.release


def _folder(root: str | Path | storage.Folder) -> storage.Folder:
    return storage.subfolder(storage.open_folder(root), TAGS)


def _read(folder: storage.Folder, name: str) -> Tag | None:
    if folder.size(f"{name}.json") is None:
        return None
    path = folder.full(f"{name}.json")
    try:
        data = storage.read_json(folder, f"{name}.json")
        tag = Tag(data["release"], data["tagged_at"])
    except (ContractError, KeyError, TypeError) as error:
        if isinstance(error, ContractError) and folder.size(f"{name}.json") is None:
            return None  # removed since
        tag = None
    if tag is None or not isinstance(tag.release, str) or not isinstance(tag.tagged_at, str):
        raise ReleaseError(f"{path}: damaged, not a tag", f"remove the file, and tag the release again as {name}")
    return tag
