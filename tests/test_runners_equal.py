"""Whichever runner made it, a release holds the same: the small end of benchmarks/runners.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from line_runs import items_of, run

from pipelines.line import Line
from simpipe import files, releases
from simpipe.config import Config
from simpipe.manifest import Manifest

pytestmark = pytest.mark.usefixtures("undrawn")

SAME = ("router.npz", "partitions/", "store/")  # the rest of a release holds times
PRISM = shutil.which(os.environ.get("SIMPIPE_PRISM", "prism"))


def content(manifest: Manifest) -> dict[str, str]:
    """Digests of what must be the same bytes."""
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.startswith(SAME)}


def measured(root: Path) -> tuple[Any, Any]:
    """Cutpoints and metrics of the live release."""
    folder, manifest = releases.open_live(root)
    cutpoints, metrics = (
        files.read_json(releases.resolve(folder, manifest.file(name))) for name in ("cutpoints.json", "metrics.json")
    )
    return cutpoints, metrics["metrics"]


@pytest.fixture(scope="module")
def several(vectors_config, tmp_path_factory):
    """A function that gives a configuration with several query files and shards of vectors, and a root of its own."""

    def make(name: str, **runner: Any) -> Config:
        return vectors_config(tmp_path_factory.mktemp(name) / "root", runner=runner)

    return make


@pytest.fixture(scope="module")
def alone(several) -> Path:
    """The root of a line run in this process."""
    line, _ = run(several("alone", kind="local"))
    return line.root


def test_two_worker_processes_build_the_same_release(several, alone: Path):
    line = Line(several("processes", kind="local", processes=2), (), lambda text: None)
    line.embed()
    _, built = line.build()
    assert content(built) == content(releases.open_live(alone)[1])


# Prism is a Go program that pip does not install; worker processes are compared above without it.
@pytest.mark.skipif(PRISM is None, reason="no Prism: put its binary on PATH or name it in SIMPIPE_PRISM (docs/runners.md)")
def test_prism_makes_the_same_release(several, alone: Path):
    line, _ = run(several("prism", kind="prism", binary=PRISM))
    assert content(releases.open_live(line.root)[1]) == content(releases.open_live(alone)[1])
    assert items_of(line.root) == items_of(alone)
    assert measured(line.root) == measured(alone)
