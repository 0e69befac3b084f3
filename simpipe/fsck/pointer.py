"""The pointer, tags and leases: each names a release that is there."""

from __future__ import annotations

import json
from pathlib import Path

from simpipe import files
from simpipe.errors import SimpipeError
from simpipe.fsck.findings import Findings, is_folder, is_there, names_in, read_small, reason_of
from simpipe.fsck.listed import is_name
from simpipe.leases import LEASES
from simpipe.manifest import MANIFEST_JSON
from simpipe.pointer import LIVE_JSON, read_pointer
from simpipe.releases import releases_folder
from simpipe.tags import TAGS, check_name

_CURE = "roll back, or publish another release; see `simpipe releases`"


def check_pointer(root: Path, readable: set[str], found: Findings) -> None:
    """Checks `live.json`.

    Args:
      readable: names of the releases whose manifests could be read.
    """
    path = root / LIVE_JSON
    if not is_there(path):
        return
    pointer = None
    try:
        read_small(path)
        pointer = read_pointer(root)
    except Exception as error:  # whatever damage makes of it is a finding
        cure = f"delete {path}, look at `simpipe releases`, and publish one of them"
        found.error("pointer", reason_of(error), path=LIVE_JSON, cure=cure)
    if pointer is None:
        return
    if not is_name(pointer.release):
        found.error("path", f"names {pointer.release!r}, which is no release", path=LIVE_JSON, cure=_CURE)
        return
    if pointer.release not in readable:
        what = f"names release {pointer.release}, which is not there or has no readable manifest"
        found.error("pointer", what, path=LIVE_JSON, cure=_CURE)
    manifest = releases_folder(root) / pointer.release / MANIFEST_JSON
    try:
        sha256 = files.sha256_bytes(read_small(manifest))
    except (OSError, ValueError):
        pass  # said above, or by the check of the release
    else:
        if sha256 != pointer.manifest_sha256:
            what = f"altered after it was published: its SHA-256 differs from that in {LIVE_JSON}"
            found.error("pointer", what, release=pointer.release, path=MANIFEST_JSON, cure=_CURE)
    if pointer.previous is not None and pointer.previous not in readable:
        what = f"the previous release {pointer.previous} is not there: there is nothing to roll back to"
        found.warning("pointer", what, path=LIVE_JSON, cure="none needed; the next publish names another")


def check_tags(root: Path, readable: set[str], found: Findings) -> None:
    """Every tag names a release that is there; see `check_pointer`."""
    for entry in names_in(root / TAGS, found) if is_folder(root / TAGS) else []:
        path = f"{TAGS}/{entry}"
        name = entry.removesuffix(".json")
        if entry.startswith(files.TMP_PREFIX):
            found.warning("leftover", "a temporary file of a run that was stopped", path=path)
            continue
        try:
            check_name(name)
            data = json.loads(read_small(root / TAGS / entry))
            release = data["release"]
            if name == entry or not isinstance(release, str) or not isinstance(data["tagged_at"], str):
                raise ValueError
        except (OSError, SimpipeError) as error:
            found.error("tag", reason_of(error), path=path, cure="remove the file")
        except Exception:  # the same
            found.error("tag", "damaged, not a tag", path=path, cure="remove the file, and tag the release again")
        else:
            if release not in readable:
                what = f"names release {release}, which is not there or has no readable manifest"
                found.error("tag", what, path=path, cure=f"remove it: simpipe tag {name} --remove")


def check_leases(root: Path, folders: set[str], found: Findings) -> None:
    """Leases are of releases that are there: names of their folders."""
    if is_there(root / LEASES) and not is_folder(root / LEASES):
        found.error("lease", "not a folder: nobody who reads a release is known of", path=LEASES, cure="remove it")
        return
    for entry in names_in(root / LEASES, found) if is_folder(root / LEASES) else []:
        if entry not in folders:
            found.warning("lease", "of a release that is not there", path=f"{LEASES}/{entry}")
