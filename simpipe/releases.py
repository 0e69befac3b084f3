"""Releases: create, find, extend, verify, publish, roll back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from simpipe import files, tags
from simpipe.errors import ContractError, ReleaseError
from simpipe.leases import Lease, take_lease
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile
from simpipe.pointer import LIVE_JSON, Pointer, move_pointer, now, read_pointer

__all__ = ["LIVE_JSON", "Pointer", "now", "read_pointer"]  # of the pointer, for those who work on releases

BUILD_JSON = "build.json"
PUBLISHED = "PUBLISHED"
PRUNED = "PRUNED"
NEEDED_STEPS = ("calibrate", "evaluate")
_THREADS = 16
_MOVES = 100  # how often the pointer may move while the live release is opened


def releases_folder(root: Path) -> Path:
    return root / "releases"


def new_release_lock(root: Path) -> Path:
    """Held while a release's folder is made, so that `prune` can tell it from what a kill left."""
    return root / ".locks" / "new-release"


def start_release(root: Path, build_key: str) -> Path:
    """The folder of a release to build: an unfinished one of the same key is continued, else a new one is made."""
    parent = releases_folder(root)
    for folder in sorted(parent.glob("*Z-*"), reverse=True):
        mark = folder / BUILD_JSON
        done = (folder / MANIFEST_JSON).exists() or (folder / PRUNED).exists()
        if mark.exists() and not done and files.read_json(mark).get("key") == build_key:
            files.remove_leftovers(folder)
            return folder
    with files.locked(new_release_lock(root)):
        folder = _new_folder(parent, build_key)
        files.write_json(folder / BUILD_JSON, {"key": build_key})
    return folder


def _new_folder(parent: Path, build_key: str) -> Path:
    """Makes `<UTC time>-<short id>`; a second one within the same second gets a number."""
    stem = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{build_key[:6]}"
    for number in range(1000):
        folder = parent / (stem if number == 0 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            files.make_folder(folder)
            return folder
    raise ReleaseError(f"{parent / stem}: cannot make a new release folder", "remove stale folders")


def find(root: Path, release: str | None = None) -> tuple[Path, Manifest]:
    """A finished release by id, by tag, or as `live` or `previous`; without a name the newest.

    Raises:
      ReleaseError: there is none.
    """
    if release is not None:
        release = tags.resolve(root, release)
        folder = releases_folder(root) / release
        if (folder / PRUNED).exists() and not (folder / MANIFEST_JSON).exists():
            cure = "see `simpipe releases`; other releases still use the files that are left"
            raise ReleaseError(f"{folder}: was removed by `simpipe prune`", cure)
        if Path(release).name != release or not folder.is_dir():
            known = ", ".join(path.name for path, _ in finished(root)[:5]) or "none"
            raise ReleaseError(f"{folder}: no such release; there are: {known}", "see `simpipe releases`")
        return folder, Manifest.load(folder)
    found = finished(root)
    if not found:
        raise ReleaseError(f"{releases_folder(root)}: no finished release", "run `simpipe build` or `simpipe run`")
    return found[0]


@contextlib.contextmanager
def holding(root: Path, release: str | None = None) -> Iterator[tuple[Path, Manifest]]:
    """`find`, with a lease for the block: `prune` leaves the release alone, and with it all files that it refers to.

    Whoever makes a release out of another one holds that one until the new manifest is written.
    """
    folder, _ = find(root, release)
    lease = take_lease(folder)
    try:
        yield find(root, folder.name)
    finally:
        if lease is not None:
            lease.close()


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
    there = {base: files.tree(base) for base in {_base(folder, entry) for entry in manifest.files}}
    return all(there[_base(folder, entry)].get(PurePosixPath(entry.path).as_posix()) == entry.size for entry in manifest.files)


def open_for_change(folder: Path, manifest: Manifest, step: str) -> tuple[Path, Manifest]:
    """A release that `step` may still write into: this one, or a new one if it was ever published.

    The new one carries the large files over by reference.

    Raises:
      ReleaseError: it was pruned since it was found.
    """
    root = folder.parent.parent
    find(root, folder.name)
    if not (folder / PUBLISHED).exists():
        files.remove_leftovers(folder)  # of a step that was killed while it wrote
        return folder, manifest
    later = {"calibrate": ("calibrate", "evaluate", "report"), "evaluate": ("evaluate", "report"), "report": ("report",)}[step]
    carried = tuple(
        ManifestFile(path=entry.path, size=entry.size, sha256=entry.sha256, release=entry.release or manifest.release)
        for entry in manifest.files
    )
    steps = {name: key for name, key in manifest.steps.items() if name not in later}
    parents = tuple(dict.fromkeys([*manifest.parents, manifest.release]))
    changed = {"created_at": now(), "files": carried, "steps": steps, "parents": parents}
    with holding(root, folder.name), files.locked(new_release_lock(root)):
        fresh = _new_folder(folder.parent, manifest.steps["build"])
        derived = manifest.model_copy(update={"release": fresh.name, **changed})
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
    return files.inside(_base(folder, entry), entry.path)


def _base(folder: Path, entry: ManifestFile) -> Path:
    return files.inside(folder.parent, entry.release) if entry.release else folder


def verify_file(folder: Path, entry: ManifestFile, *, keep: bool = True) -> Path:
    """The path of a listed file after its size and SHA-256 were checked.

    Args:
      keep: see `files.verify`.

    Raises:
      ReleaseError: it is missing or was altered.
    """
    path = resolve(folder, entry)
    try:
        files.verify(path, files.FileEntry(entry.path, entry.size, entry.sha256), keep=keep)
    except ContractError as error:
        cure = f"it was altered after it was written: restore it, roll back, or delete {folder} and run again"
        raise ReleaseError(f"release {folder.name}: {error.message}", cure) from None
    return path


def verify_release(folder: Path, manifest: Manifest) -> None:
    """Checks every file of a release, several at the same time; raises ReleaseError at the first that differs."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda entry: verify_file(folder, entry, keep=False), manifest.files):
            pass
    check_counts(manifest)


def check_counts(manifest: Manifest) -> None:
    """Raises ReleaseError where partitions hold fewer live rows than there are items; with spill they hold more."""
    if sum(part.live for part in manifest.partitions) < manifest.items:
        raise ReleaseError(f"release {manifest.release}: partitions do not add up to {manifest.items} items", "build again")


# --- the pointer ---------------------------------------------------------------------------------------------------


def open_live(root: Path) -> tuple[Path, Manifest]:
    """The live release.

    Raises:
      ReleaseError: nothing is published, or the manifest is not the one that was published.
    """
    return _published(root, _pointer(root))


def lease_live(root: Path) -> tuple[Path, Manifest, Lease | None]:
    """The live release, with a lease on it where there can be one; whatever is published and pruned meanwhile.

    Raises:
      ReleaseError: see `open_live`.
    """
    for _ in range(_MOVES):
        pointer = _pointer(root)
        lease = take_lease(files.inside(releases_folder(root), pointer.release))
        try:
            return *_published(root, pointer), lease
        except ReleaseError:
            if lease is not None:
                lease.close()
            # Where the pointer has moved on, the release may have been pruned before it was leased.
            if _pointer(root) == pointer:
                raise
    raise ReleaseError(f"{root / LIVE_JSON}: moves faster than a release can be opened", "name a release with --release")


def _pointer(root: Path) -> Pointer:
    pointer = read_pointer(root)
    if pointer is None:
        raise ReleaseError(f"{root}: nothing is published", "run `simpipe publish`, or name a release with --release")
    return pointer


def _published(root: Path, pointer: Pointer) -> tuple[Path, Manifest]:
    path = releases_folder(root) / pointer.release / MANIFEST_JSON
    # Before it is read: an altered one may be no JSON any more.
    if Path(pointer.release).name == pointer.release and path.is_file() and files.sha256_file(path) != pointer.manifest_sha256:
        raise ReleaseError(
            f"{path}: altered after it was published (SHA-256 differs from {LIVE_JSON})", "restore it, or publish another release"
        )
    return find(root, pointer.release)


def publish(
    root: str | Path,
    release: str | None = None,
    *,
    expected: str | None = None,
    needed_steps: tuple[str, ...] = NEEDED_STEPS,
    forced: Sequence[str] = (),
) -> Pointer:
    """Makes a release live, after verifying every file of it.

    Args:
      root: the data sets' root, local or `gs://BUCKET/ROOT`.
      release: its id, a tag, or `previous`; without one the newest finished release.
      expected: the id of the release that must be live at that moment (conditional move); None: whatever was live when
        this call began.
      needed_steps: what must have run on it.
      forced: gates that had failed, to be recorded in the pointer.

    Raises:
      ReleaseError: the release is unfinished, not calibrated or altered.
      PublishConflictError: the pointer moved in between.
    """
    if expected is None:
        before = read_pointer(root)
        expected = before.release if before else None
    root = files.located(root)
    with holding(root, release) as (folder, manifest):
        _check_steps(manifest, needed_steps)
        verify_release(folder, manifest)

        def mark() -> None:
            if not (folder / PUBLISHED).exists():
                files.write_bytes(folder / PUBLISHED, b"")

        sha256 = files.sha256_file(folder / MANIFEST_JSON)
        return move_pointer(root, folder.name, expected=expected, manifest_sha256=sha256, forced=forced, prepare=mark)


def _check_steps(manifest: Manifest, needed_steps: tuple[str, ...]) -> None:
    for step in needed_steps:
        if step not in manifest.steps:
            raise ReleaseError(f"release {manifest.release}: `{step}` has not run on it", f"run `simpipe {step}` first")


def rollback(root: str | Path) -> Pointer:
    """Makes the previous release live again.

    Raises:
      ReleaseError: there is none, or it was altered.
      PublishConflictError: the pointer moved in between.
    """
    pointer = read_pointer(root)
    if pointer is None or pointer.previous is None:
        raise ReleaseError(
            f"{root}: no previous release to go back to", "publish a release by name: simpipe publish --release ID"
        )
    return publish(root, pointer.previous, expected=pointer.release, needed_steps=())
