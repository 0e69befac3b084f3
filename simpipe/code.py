"""Which code made a data set: a digest of the source files that a step depends on."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).parent
_INDEX = ("index", "ids.py", "embeddings.py")

# What each step's result depends on, besides its inputs and configuration.
SOURCES: dict[str, tuple[str, ...]] = {
    "shard": ("data/examples.py", "data/shards.py", "data/sources", "ids.py", "beam/shard.py"),
    "train": (
        "data/parsing.py",
        "samplers",
        "losses",
        "layers.py",
        "distances.py",
        "models",
        "architectures",
        "augmenters",
        "training",
    ),
    "embed": ("embed.py", "embeddings.py", "data/parsing.py", "index/distance.py"),
    "import": ("import_vectors.py", "data/vectors.py", "embeddings.py", "ids.py", "index/distance.py"),
    "build": ("build.py", "store.py", "grouped.py", *_INDEX),
    "calibrate": ("calibration.py", "matchers.py", "classification_metrics", *_INDEX),
    "evaluate": ("evaluators.py", "matchers.py", "retrieval_metrics", *_INDEX),
    "report": ("report", "visualization"),
}


@functools.cache
def code_version(step: str) -> str:
    """SHA-256 over the source files of a step, in path order: those listed, and its entry point."""
    entry = {"import": "import_vectors"}.get(step, step)
    hasher = hashlib.sha256((_PACKAGE.parent / "pipelines" / f"{entry}.py").read_bytes())
    for name in SOURCES[step]:
        path = _PACKAGE / name
        found = sorted(file for file in path.rglob("*") if file.suffix in (".py", ".html")) if path.is_dir() else [path]
        for file in found:
            hasher.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()
