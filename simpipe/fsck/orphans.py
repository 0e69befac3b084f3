"""What lies in the folder of releases and belongs to none of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from simpipe import files
from simpipe.fsck.findings import LOOK, PRUNE, Findings, is_folder, is_there, names_in, reason_of
from simpipe.fsck.listed import Release
from simpipe.gs_path import GsPath
from simpipe.manifest import MANIFEST_JSON
from simpipe.releases import BUILD_JSON, PRUNED, PUBLISHED
from simpipe.run_summary import RUNS

_DATA_SETS = ("examples", "encoders", "embeddings", "dedupe", "calibrate", "evaluate", RUNS)
WORK = ".work"
LEFTOVER = "a temporary file or folder of a run that goes on or was stopped"
_OWN = {MANIFEST_JSON, BUILD_JSON, PUBLISHED, PRUNED}


def check_orphans(root: Path, folders: Sequence[Path], listed: Sequence[Release], found: Findings) -> None:
    """Warns of files that no manifest lists, of releases that were never finished, and of temporary files.

    Args:
      root: of the data sets. folders: of releases. listed: those whose manifests could be read.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for release in listed:
        for place in release.places.values():
            wanted[place.release].add(place.path)
    for folder in folders:
        _check_folder(folder, wanted[folder.name], found)
    for place in ("", *_DATA_SETS):
        for name in names_in(root / place, found) if is_folder(root / place) else []:
            if name.startswith(files.TMP_PREFIX):
                found.warning("leftover", LEFTOVER, path=f"{place}/{name}" if place else name)


def _check_folder(folder: Path, wanted: set[str], found: Findings) -> None:
    name = folder.name
    finished, pruned = is_there(folder / MANIFEST_JSON), is_there(folder / PRUNED)
    if not finished and not pruned and is_there(folder / BUILD_JSON):
        what = "unfinished: it is being built, or its build was stopped"
        found.warning("unfinished", what, cure="build again to go on with it, or run `simpipe prune`", release=name)
        return
    if not finished and not wanted:
        what = f"{'pruned' if pruned else 'neither a manifest nor a build in work'}, and no release carries files over from it"
        found.warning("unfinished", what, cure=PRUNE if pruned else LOOK, release=name)
        return
    left = set()
    for path in _walk(folder, name, found):
        if path in wanted or path in _OWN:
            continue
        parts = Path(path).parts
        scratch = next((i for i, part in enumerate(parts) if part.startswith((files.TMP_PREFIX, WORK))), None)
        if scratch is not None:
            left.add("/".join(parts[: scratch + 1]))
        else:
            found.warning("orphan", "no manifest lists it", cure=LOOK if finished else PRUNE, release=name, path=path)
    for path in sorted(left):
        found.warning("leftover", LEFTOVER, release=name, path=path)


def _walk(folder: Path, release: str, found: Findings) -> Iterator[str]:
    """Paths of all files below a folder, and of links to folders."""

    if isinstance(folder, GsPath):
        yield from files.tree(folder)
        return

    def failed(error: OSError) -> None:
        found.error("unreadable", f"folder: {reason_of(error)}", release=release, path=error.filename, cure="check its rights")

    for where, folders, names in os.walk(folder, onerror=failed):
        folders.sort()
        inner = Path(where).relative_to(folder)
        for name in sorted([*names, *(each for each in folders if os.path.islink(os.path.join(where, each)))]):
            yield (inner / name).as_posix()
