"""The small files of a release: router, profile, measures, calibration, metrics, verdict; whether they can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.fsck.findings import Findings, is_folder
from simpipe.fsck.listed import Release
from simpipe.index.measure import PROBE_FILE, PartitionMeasure, Probe
from simpipe.index.profile import PROFILE_JSON, Profile
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.verdict import VERDICT_JSON, Verdict


def check_small(release: Release, found: Findings) -> None:
    """Reads every small file whose checksum agrees."""
    manifest = release.manifest
    if ROUTER_FILE not in release.places:
        found.error("missing", "the manifest lists no such file", release=release.name, path=ROUTER_FILE)
    for path, read in _readers(release):
        if path in release.whole:
            with found.guard("content", release=release.name, path=path):
                read(release.whole[path])
    for path, whole in release.whole.items():
        if path.startswith("measures/") and path.endswith(".npz"):
            with found.guard("content", release=release.name, path=path):
                PartitionMeasure.load(whole)
    for step, path in (("calibrate", CUTPOINTS_JSON), ("evaluate", "metrics.json")):
        if step in manifest.steps and path not in release.places:
            found.error("missing", f"`{step}` has run, but the manifest lists no such file", release=release.name, path=path)


def _readers(release: Release) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    yield ROUTER_FILE, lambda path: Router.load(path, len(release.manifest.partitions))
    yield PROFILE_JSON, Profile.load
    yield PROBE_FILE, Probe.load
    yield CUTPOINTS_JSON, lambda path: _record(path, "cutpoints")
    yield "metrics.json", lambda path: _record(path, "metrics")
    yield VERDICT_JSON, Verdict.load


def _record(path: Path, part: str) -> None:
    """Raises ValueError where a file is no JSON object with an object `part`."""
    data = files.read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get(part), dict):
        raise ValueError(f"no JSON object with {part}")


def check_encoder(root: Path, release: Release, found: Findings) -> None:
    """The encoder's folder is where the manifest says."""
    folder = release.manifest.encoder.folder
    if folder is None:
        return
    try:
        path = files.inside(root, folder)
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError("a link that leaves the root")
    except Exception as error:  # a manifest may name anything
        found.error("path", f"folder of the encoder: {error.args[0] if error.args else error}", release=release.name, path=folder)
        return
    if not is_folder(path):
        cure = "restore the folder, or name another with --encoder"
        found.warning("encoder", "the encoder's folder is not there", cure=cure, release=release.name, path=folder)
