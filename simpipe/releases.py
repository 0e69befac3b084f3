"""Releases and the pointer: create, find, extend, publish, roll back. The only module that moves `live.json`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.errors import ContractError, PublishConflictError, ReleaseError
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile

LIVE_JSON = "live.json"
BUILD_JSON = "build.json"
PUBLISHED = "PUBLISHED"
NEEDED_STEPS = ("calibrate", "evaluate")


@dataclass(frozen=True)
class Pointer:
    """`live.json`: which release answers."""

    release: str
    previous: str | None
    published_at: str
    manifest_sha256: str


def releases_folder(root: Path) -> Path:
    return root / "releases"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def start_release(root: Path, build_key: str) -> Path:
    """The folder of a release to build: an unfinished one of the same key is continued, else a new one is made."""
    parent = releases_folder(root)
    for folder in sorted(parent.glob("*Z-*"), reverse=True):
        mark = folder / BUILD_JSON
        if mark.exists() and not (folder / MANIFEST_JSON).exists() and files.read_json(mark).get("key") == build_key:
            files.remove_leftovers(folder)
            return folder
    folder = _new_folder(parent, build_key)
    files.write_json(folder / BUILD_JSON, {"key": build_key})
    return folder


def _new_folder(parent: Path, build_key: str) -> Path:
    """Makes `<UTC time>-<short id>`; a second one within the same second gets a number."""
    stem = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{build_key[:6]}"
    for number in range(1000):
        folder = parent / (stem if number == 0 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise ReleaseError(f"{parent / stem}: cannot make a new release folder", "remove stale folders")


def find(root: Path, release: str | None = None) -> tuple[Path, Manifest]:
    """A finished release by id; without one the newest.

    Raises:
      ReleaseError: there is none.
    """
    if release is not None:
        folder = releases_folder(root) / release
        if Path(release).name != release or not folder.is_dir():
            known = ", ".join(path.name for path, _ in finished(root)[:5]) or "none"
            raise ReleaseError(f"{folder}: no such release; there are: {known}", "see `simpipe releases`")
        return folder, Manifest.load(folder)
    found = finished(root)
    if not found:
        raise ReleaseError(f"{releases_folder(root)}: no finished release", "run `simpipe build` or `simpipe run`")
    return found[0]


def finished(root: Path) -> list[tuple[Path, Manifest]]:
    """Finished releases, newest first. A release with an unreadable manifest is left out here and refused by name."""
    found = []
    for folder in sorted(releases_folder(root).glob("*Z-*"), reverse=True):
        with contextlib.suppress(ReleaseError, ContractError):
            found.append((folder, Manifest.load(folder)))
    return sorted(found, key=lambda pair: (pair[1].created_at, pair[0].name), reverse=True)


def find_by_steps(root: Path, steps: dict[str, str]) -> tuple[Path, Manifest] | None:
    """The newest whole release whose `build` key agrees, preferring the one that agrees in most of the other steps."""
    agreeing = [pair for pair in finished(root) if pair[1].steps.get("build") == steps["build"] and looks_whole(*pair)]
    score = [sum(manifest.steps.get(step) == key for step, key in steps.items()) for _, manifest in agreeing]
    return agreeing[score.index(max(score))] if agreeing else None


def looks_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every file of a release is there with its size; checksums are left to `verify_release`."""
    paths = ((resolve(folder, entry), entry.size) for entry in manifest.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def open_for_change(folder: Path, manifest: Manifest, step: str) -> tuple[Path, Manifest]:
    """A release that `step` may still write into: this one, or a new one if it was ever published.

    The new one carries the large files over by reference.
    """
    if not (folder / PUBLISHED).exists():
        files.remove_leftovers(folder)  # of a step that was killed while it wrote
        return folder, manifest
    fresh = _new_folder(folder.parent, manifest.steps["build"])
    later = {"calibrate": ("calibrate", "evaluate", "report"), "evaluate": ("evaluate", "report"), "report": ("report",)}[step]
    carried = tuple(
        ManifestFile(path=entry.path, size=entry.size, sha256=entry.sha256, release=entry.release or manifest.release)
        for entry in manifest.files
    )
    steps = {name: key for name, key in manifest.steps.items() if name not in later}
    parents = tuple(dict.fromkeys([*manifest.parents, manifest.release]))
    derived = manifest.model_copy(
        update={"release": fresh.name, "created_at": now(), "files": carried, "steps": steps, "parents": parents}
    )
    derived.save(fresh)
    return fresh, derived


def drop_files(folder: Path, manifest: Manifest, paths: list[str], steps: list[str]) -> Manifest:
    """Takes files out of the manifest before they are written anew, so that it never lists a file in another state."""
    kept = tuple(entry for entry in manifest.files if entry.path not in set(paths))
    left = {name: key for name, key in manifest.steps.items() if name not in set(steps)}
    if (kept, left) == (manifest.files, manifest.steps):
        return manifest
    manifest = manifest.model_copy(update={"files": kept, "steps": left})
    manifest.save(folder)
    return manifest


def resolve(folder: Path, entry: ManifestFile) -> Path:
    """Where a listed file lies: in this release or in the one it is carried over from."""
    base = files.inside(folder.parent, entry.release) if entry.release else folder
    return files.inside(base, entry.path)


def verify_file(folder: Path, entry: ManifestFile) -> Path:
    """The path of a listed file after its size and SHA-256 were checked.

    Raises:
      ReleaseError: it is missing or was altered.
    """
    path = resolve(folder, entry)
    try:
        files.verify(path, files.FileEntry(entry.path, entry.size, entry.sha256))
    except ContractError as error:
        cure = f"it was altered after it was written: restore it, roll back, or delete {folder} and run again"
        raise ReleaseError(f"release {folder.name}: {error.message}", cure) from None
    return path


def verify_release(folder: Path, manifest: Manifest) -> None:
    """Checks every file of a release; raises ReleaseError at the first that differs."""
    for entry in manifest.files:
        verify_file(folder, entry)
    check_counts(manifest)


def check_counts(manifest: Manifest) -> None:
    """Raises ReleaseError where partitions hold fewer rows than there are items; with spill they hold more."""
    if sum(part.rows for part in manifest.partitions) < manifest.items:
        raise ReleaseError(f"release {manifest.release}: partitions do not add up to {manifest.items} items", "build again")


# --- the pointer ---------------------------------------------------------------------------------------------------


def read_pointer(root: Path) -> Pointer | None:
    """The pointer, or None before the first publish."""
    path = root / LIVE_JSON
    if not path.exists():
        return None
    cure = f"delete {path}, look at `simpipe releases`, and publish one of them"
    try:
        data = files.read_json(path)
        pointer = Pointer(data["release"], data.get("previous"), data["published_at"], data["manifest_sha256"])
    except (ContractError, KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{path}: damaged, not a pointer", cure) from None
    texts = [pointer.release, pointer.published_at, pointer.manifest_sha256, pointer.previous or ""]
    if not all(isinstance(text, str) for text in texts):
        raise ReleaseError(f"{path}: damaged, not a pointer", cure)
    return pointer


def open_live(root: Path) -> tuple[Path, Manifest]:
    """The live release.

    Raises:
      ReleaseError: nothing is published, or the manifest is not the one that was published.
    """
    pointer = read_pointer(root)
    if pointer is None:
        raise ReleaseError(f"{root}: nothing is published", "run `simpipe publish`, or name a release with --release")
    path = releases_folder(root) / pointer.release / MANIFEST_JSON
    # Before it is read: an altered one may be no JSON any more.
    if Path(pointer.release).name == pointer.release and path.is_file() and files.sha256_file(path) != pointer.manifest_sha256:
        raise ReleaseError(
            f"{path}: altered after it was published (SHA-256 differs from {LIVE_JSON})", "restore it, or publish another release"
        )
    return find(root, pointer.release)


def publish(
    root: Path,
    release: str | None = None,
    *,
    expected: str | None = None,
    needed_steps: tuple[str, ...] = NEEDED_STEPS,
) -> Pointer:
    """Makes a release live, after verifying every file of it.

    Args:
      root: the data sets' root.
      release: its id; without one the newest finished release.
      expected: the release that must be live at that moment (conditional move); None: whatever was live when this
        call began.
      needed_steps: what must have run on it.

    Raises:
      ReleaseError: the release is unfinished, not calibrated or altered.
      PublishConflictError: the pointer moved in between.
    """
    before = read_pointer(root)
    was_live = before.release if before else None
    folder, manifest = find(root, release)
    for step in needed_steps:
        if step not in manifest.steps:
            raise ReleaseError(f"release {manifest.release}: `{step}` has not run on it", f"run `simpipe {step}` first")
    verify_release(folder, manifest)
    return _move(root, folder, previous=was_live, expected=expected if expected is not None else was_live)


def rollback(root: Path) -> Pointer:
    """Makes the previous release live again.

    Raises:
      ReleaseError: there is none, or it was altered.
    """
    pointer = read_pointer(root)
    if pointer is None or pointer.previous is None:
        raise ReleaseError(
            f"{root}: no previous release to go back to", "publish a release by name: simpipe publish --release ID"
        )
    folder, manifest = find(root, pointer.previous)
    verify_release(folder, manifest)
    return _move(root, folder, previous=pointer.release, expected=pointer.release)


def _move(root: Path, folder: Path, *, previous: str | None, expected: str | None) -> Pointer:
    """Moves the pointer only if `expected` is still live. The lock goes with the process, so a kill leaves none."""
    with files.locked(root / ".live.lock"):
        current = read_pointer(root)
        live = current.release if current else None
        if live != expected:
            raise PublishConflictError(
                f"{root / LIVE_JSON}: {live} went live meanwhile (expected {expected})", "look, then publish again"
            )
        sha256 = files.sha256_file(folder / MANIFEST_JSON)
        if current is not None and live == folder.name:
            if current.manifest_sha256 != sha256:
                cure = f"restore it, roll back, or delete {folder} and run again"
                raise ReleaseError(f"{folder / MANIFEST_JSON}: altered after it was published", cure)
            return current
        mark = folder / PUBLISHED
        if not mark.exists():
            files.write_bytes(mark, b"")
        pointer = Pointer(folder.name, previous, now(), sha256)
        files.write_json(root / LIVE_JSON, pointer.__dict__)
        return pointer


def overview(root: Path) -> list[dict[str, Any]]:
    """One row a finished release, newest first, for `simpipe releases`."""
    pointer = read_pointer(root)
    rows = []
    for folder, manifest in finished(root):
        measured = resolve(folder, manifest.file("metrics.json")) if manifest.has("metrics.json") else None
        metrics = files.read_json(measured).get("metrics", {}) if measured is not None and measured.exists() else {}
        recall = next((value for name, value in metrics.items() if name.startswith("ann_recall_at_")), None)
        states = {pointer.previous: "previous", pointer.release: "live"} if pointer else {}
        rows.append(
            {
                "release": manifest.release,
                "state": states.get(manifest.release, "") + ("" if looks_whole(folder, manifest) else " damaged"),
                "created": manifest.created_at,
                "items": manifest.items,
                "partitions": len(manifest.partitions),
                "backend": manifest.backend["kind"],
                "encoder": manifest.encoder.fingerprint[:12],
                "precision@1": metrics.get("label_precision_at_1"),
                "ann_recall": recall,
            }
        )
    return rows
