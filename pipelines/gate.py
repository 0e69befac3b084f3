"""Judges a release against the limits of `gates` and against the live release, and publishes what was judged.

python -m pipelines.gate --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from simpipe import files, releases
from simpipe.canaries import load_canaries
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.encoder_canaries import CANARIES_NPZ
from simpipe.errors import SimpipeError
from simpipe.gates import NO_LIVE, judge
from simpipe.manifest import Manifest, ManifestFile, user_and_host
from simpipe.release_facts import embeddings_folder, facts_of_live, facts_to_judge
from simpipe.verdict import VERDICT_JSON, Verdict

Release = tuple[Path, Manifest]
# What says nothing about how a release answers, or is written after it was judged.
_NOT_JUDGED = (VERDICT_JSON, CANARIES_NPZ, "report.html")


def run(
    config: Config, *, root: Path, release: Path, manifest: Manifest, live: Release | None, key: str, missing: str = NO_LIVE
) -> tuple[Path, Manifest, Verdict]:
    """Judges a release and adds `verdict.json`, and the encoder's inputs with their embeddings where it has none yet.

    A release that was ever published stays as it is: its verdict is only returned.

    Args:
      config: the line's configuration. root: of the data sets.
      release, manifest: what is judged. live: what answers now; None: nothing, or this very release.
      key: what the verdict is made from, see `gate_key`.
      missing: why there is no live release to compare with.

    Raises:
      ConfigError: the file of canary queries is missing or malformed.
    """
    gates = config.gates
    canaries = load_canaries(files.located(gates.canaries.path)) if gates.canaries else None
    theirs = None
    if live is not None:
        try:
            theirs = facts_of_live(gates, *live)
        except SimpipeError as error:  # a damaged live release may not stand in the way of a whole one
            missing = f"the live release cannot be read: {error.message}"
    mine = facts_to_judge(gates, root, release, manifest, canaries)
    verdict = judge(gates, mine, theirs, at=releases.now(), against=live[1].release if live else None, missing=missing)
    if (release / releases.PUBLISHED).exists():
        return release, manifest, verdict
    manifest = _write(release, _with_canaries(root, release, manifest, live), verdict, key)
    return release, manifest, verdict


def gate_key(config: Config, manifest: Manifest, live: Manifest | None) -> str:
    """What a verdict depends on: code, limits, canary queries, what is in the release, and what is live."""
    gates = config.gates
    path = files.located(gates.canaries.path) if gates.canaries else None
    return files.digest(
        {
            "step": "gate",
            "code": code_version("gate"),
            "config": gates.model_dump(mode="json"),
            "canaries": files.sha256_file(path) if path is not None and path.is_file() else None,
            "files": [[entry.path, entry.sha256] for entry in manifest.files if entry.path not in _NOT_JUDGED],
            "live": live.release if live else None,
        }
    )


def live_beside(root: Path, release: str) -> tuple[Release | None, str]:
    """The live release to compare a release with, and why there is none: nothing is live, itself is, or it is damaged."""
    try:
        pointer = releases.read_pointer(root)
        if pointer is None:
            return None, NO_LIVE
        if pointer.release == release:
            return None, "it is the live release itself"
        return releases.open_live(root), ""
    except SimpipeError as error:
        return None, f"the live release cannot be read: {error.message}"


def verdict_of(folder: Path, manifest: Manifest, key: str) -> Verdict | None:
    """The verdict in a release, if it was made from `key`."""
    if manifest.steps.get("gate") != key or not manifest.has(VERDICT_JSON):
        return None
    verdict = Verdict.load(releases.verify_file(folder, manifest.file(VERDICT_JSON)))
    return verdict if verdict.release == manifest.release else None  # not one that is carried over


def judged(
    config: Config, root: Path, folder: Path, manifest: Manifest, *, again: bool = False
) -> tuple[Path, Manifest, Verdict]:
    """A release with its verdict against what is live now, which is made where it is not there; see `run`.

    Args:
      again: judge it in any case: its files may have been altered since.
    """
    live, missing = live_beside(root, manifest.release)
    key = gate_key(config, manifest, live[1] if live else None)
    found = None if again else verdict_of(folder, manifest, key)
    if found is not None:
        return folder, manifest, found
    with releases.holding(root, live[1].release) if live else nullcontext():  # no prune meanwhile
        return run(config, root=root, release=folder, manifest=manifest, live=live, key=key, missing=missing)


def publish(root: Path, folder: Path, manifest: Manifest, verdict: Verdict, *, force: bool = False) -> releases.Pointer:
    """Makes a judged release live.

    Args:
      root: of the data sets. folder, manifest: the release. verdict: on it.
      force: although a gate failed; the release (unless it was published before) and `live.json` say so.

    Raises:
      GateFailedError: a gate failed; names all that did.
      PublishConflictError: another release is live than the one it was judged against.
      ReleaseError: see `releases.publish`.
    """
    if not force:
        verdict.require()
    if verdict.failed and not (folder / releases.PUBLISHED).exists():
        _write(folder, manifest, verdict.force(user_and_host(), releases.now()), manifest.steps.get("gate", ""))
    return releases.publish(root, manifest.release, expected=verdict.against, forced=verdict.failed)


def publish_by_name(config: Config, root: Path, release: str, *, force: bool = False) -> releases.Pointer:
    """Makes a release live by its id or tag; one that was not judged against what is live is judged first. See `publish`."""
    folder, manifest = releases.find(root, release)
    pointer = releases.read_pointer(root)
    if pointer is not None and pointer.release == manifest.release:
        return releases.publish(root, manifest.release)
    with locked(root, manifest):
        return publish(root, *judged(config, root, folder, manifest), force=force)


def locked(root: Path, manifest: Manifest) -> AbstractContextManager[None]:
    """Held by whoever writes into a release, as the steps of a line do."""
    return files.locked(root / ".locks" / f"release-{manifest.steps['build'][:12]}")


def _write(folder: Path, manifest: Manifest, verdict: Verdict, key: str) -> Manifest:
    manifest = releases.drop_files(folder, manifest, [VERDICT_JSON], ["gate"])
    verdict.save(folder)
    manifest = manifest.with_files(folder, [VERDICT_JSON], gate=key)
    manifest.save(folder)
    return manifest


def _with_canaries(root: Path, folder: Path, manifest: Manifest, live: Release | None) -> Manifest:
    """The release with the inputs that its encoder is checked with: from its embeddings, or from a live release of the same
    encoder."""
    if manifest.has(CANARIES_NPZ):
        return manifest
    source = embeddings_folder(root, manifest) / CANARIES_NPZ
    if source.is_file():
        files.write_bytes(folder / CANARIES_NPZ, source.read_bytes())
        return manifest.with_files(folder, [CANARIES_NPZ])
    if live is None or live[1].encoder.fingerprint != manifest.encoder.fingerprint or not live[1].has(CANARIES_NPZ):
        return manifest
    entry = live[1].file(CANARIES_NPZ)
    carried = ManifestFile(path=entry.path, size=entry.size, sha256=entry.sha256, release=entry.release or live[1].release)
    listed = tuple(sorted([*manifest.files, carried], key=lambda file: file.path))
    parents = tuple(dict.fromkeys([*manifest.parents, str(carried.release)]))
    return manifest.model_copy(update={"files": listed, "parents": parents})


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["gate", *sys.argv[1:]]))
