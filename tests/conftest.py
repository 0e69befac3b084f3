"""Shared fixtures: real small data, and runs of the line that several tests look at."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest


def pytest_runtest_setup() -> None:
    """Only where something uses Beam: many a test does without."""
    if {"pipelines", "apache_beam.runners.common"} & set(sys.modules):
        import beam_memory

        beam_memory.remember()


REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


def clustered(n: int, *, dim: int = 16, clusters: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32[n, dim] around random centres, and their cluster numbers."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    labels = rng.integers(clusters, size=n)
    return (centres[labels] + 0.3 * rng.normal(size=(n, dim))).astype(np.float32), labels


@pytest.fixture(scope="session")
def vectors_config(tmp_path_factory: pytest.TempPathFactory):
    """A function that writes 3,000 ready-made vectors and returns a configuration over them."""
    from simpipe.config import parse_config

    folder = tmp_path_factory.mktemp("vectors")
    vectors, labels = clustered(3000)
    np.save(folder / "x.npy", vectors)
    np.save(folder / "ids.npy", np.array([f"item-{i:05d}" for i in range(len(vectors))]))
    np.save(folder / "labels.npy", np.array([f"c{label}" for label in labels]))

    def make(root: Path, **changes):
        source = {
            "kind": "vectors",
            "path": str(folder / "x.npy"),
            "ids": str(folder / "ids.npy"),
            "labels": str(folder / "labels.npy"),
        }
        raw = {
            "name": "vectors",
            "root": str(root),
            "source": source,
            "build": {"router": {"kind": "kmeans", "partitions": 11}, "backend": {"kind": "exact"}, "store_files": 3},
            "search": {"target_recall": None},  # all partitions: answers are exact
            "report": {"projection_items": 60},
        }
        return parse_config({**raw, **changes})

    return make


@pytest.fixture(scope="module")
def undrawn():
    """For lines whose reports nobody looks at: what a report shows is gathered, and not drawn."""
    from pipelines import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render", lambda data: f"<title>{data.title}</title>")
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases under a root, the second with carried-over files and hidden rows; not to be changed."""
    from whole_root import make_root

    return make_root(tmp_path_factory.mktemp("whole") / "root")


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole`."""
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits: uint8[n, 8, 8] and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8), labels


@pytest.fixture(scope="session")
def whole_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `plain` and `gzip`: 300 random 12x12 inputs of 7 classes, gzip with several entries a shard."""
    from make_examples import make_examples
    from verify_data import RECORDS

    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (RECORDS, 12, 12, 1)).astype(np.uint8)
    split = np.repeat([0, 1, 2], [210, 60, 30])
    for name in ("plain", "gzip"):
        compression = "" if name == "plain" else "gzip"
        ids = [f"id-{row:04d}{'x' * (row // 7 % 5)}" for row in range(RECORDS)]  # records of different lengths
        make_examples(root / name, x, np.arange(RECORDS) % 7, split=split, ids=ids, compression=compression, entry_bytes=5000)
    return root


@pytest.fixture(params=["plain", "gzip"])
def examples_copy(whole_examples: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of either data set, to be damaged."""
    shutil.copytree(whole_examples / request.param, tmp_path / "examples")
    return tmp_path / "examples"
