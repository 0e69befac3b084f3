"""The pointer, tags and leases: each names a release that is there."""

from __future__ import annotations

from pathlib import Path

from simpipe import files
from simpipe.fsck.findings import Findings, is_there, read_small, reason_of
from simpipe.fsck.listed import is_name
from simpipe.manifest import MANIFEST_JSON
from simpipe.releases import LIVE_JSON, read_pointer, releases_folder

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
    except Exception as error:
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
