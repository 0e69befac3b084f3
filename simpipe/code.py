"""Which code made a data set: a digest of the source files that a step depends on."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_INDEX = ("index", "arrays.py", "ids.py", "embeddings.py")
# The index API of models (`index_api`, `match_api`, `saving`) has no part in what they compute.
_MODEL = (
    "layers",
    "models/similarity_model.py",
    "models/loss_state.py",
    "training/encoder.py",
    "data/parsing.py",
    "data/examples.py",
)
_SAMPLER = (
    *(f"samplers/{name}.py" for name in ("layout", "passes", "deal", "near", "contract", "block_reader", "class_reader")),
    "samplers/shard_sampler.py",
    "data/record_reader.py",
    "data/framing.py",
    "storage.py",
)
_QUERY = ("beam/query.py", "query_files.py", "groups.py", "matchers.py", *_INDEX)

# What each step's result depends on, besides its inputs and configuration.
SOURCES: dict[str, tuple[str, ...]] = {
    "shard": (
        "data/examples.py",
        "data/shards.py",
        "data/train_plan.py",
        "data/buckets.py",
        "data/train_shards.py",
        "data/serialize.py",
        "data/record_writer.py",
        "data/framing.py",
        "data/sources",
        "ids.py",
        "beam/shard.py",
    ),
    "train": (
        *_MODEL,
        *_SAMPLER,
        "losses",
        "distances.py",
        "architectures",
        "augmenters",
        "models/contrastive.py",
        "models/projector.py",
        "schedules.py",
        "retrieval_metrics",
        "training",
    ),
    "embed": (
        *(*_MODEL, "embed.py", "data/contents.py", "digests.py", "embeddings.py", "beam/embed.py"),
        *("encoder_canaries.py", "index/distance.py", "index/route.py"),
    ),
    "import": (
        *("import_vectors.py", "data/vectors.py", "digests.py", "embeddings.py", "ids.py", "beam/embed.py"),
        "index/distance.py",
    ),
    "changes": (
        *(*_MODEL, "embed.py", "import_vectors.py", "data/vectors.py", "data/contents.py", "digests.py", "embeddings.py"),
        *("ids.py", "grouped.py", "index/distance.py", "index/route.py", "reindex/changes.py", "reindex/detect.py"),
        *("reindex/embed_changes.py", "reindex/units.py", "beam/embed.py", "beam/changes.py"),
    ),
    "build": (
        *("build.py", "build_start.py", "store.py", "digests.py", "grouped.py", "groups.py", "beam/build.py", *_INDEX),
        "reindex/profile.py",
    ),
    "rebuild": (
        *("reindex", "config/release.py", "store.py", "digests.py", "grouped.py", "manifest.py", "beam/rebuild.py"),
        *_INDEX,
    ),
    "unload": ("items.py", "reindex/unload.py", "beam/unload.py", "store.py", "digests.py", *_INDEX),
    "calibrate": ("calibration", "cutpoints.py", "classification_metrics", "probability.py", "beam/calibrate.py", *_QUERY),
    "evaluate": ("evaluators", "retrieval_metrics", "beam/evaluate.py", *_QUERY),
    "dedupe": ("dedupe.py", "components.py", "groups.py", "grouped.py", "beam/dedupe.py", *_QUERY),
    "gate": ("gates.py", "drift.py", "canaries.py", "verdict.py", "release_facts.py", "queries.py", *_INDEX),
    "report": ("report", "visualization", "data/pictures.py", "data/record_reader.py", "storage.py"),
}
# Libraries whose version changes the result; read from their metadata, without importing them.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "shard": ("tensorflow",),
    "train": ("tensorflow", "keras", "numpy"),
    "embed": ("tensorflow", "keras"),
    "changes": ("tensorflow", "keras"),
    "rebuild": ("scann", "nmslib", "scikit-learn", "numpy"),
    "build": ("scann", "nmslib", "scikit-learn", "numpy"),
}


@functools.cache
def code_version(step: str) -> str:
    """SHA-256 over the source files of a step, in path order, its entry point, and the versions of its libraries."""
    entry = {"import": "import_vectors"}.get(step, step)
    hasher = hashlib.sha256((_PACKAGE.parent / "pipelines" / f"{entry}.py").read_bytes())
    for name in SOURCES[step]:
        path = _PACKAGE / name
        found = sorted(file for file in path.rglob("*") if file.suffix in (".py", ".html")) if path.is_dir() else [path]
        for file in found:
            hasher.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    for library in LIBRARIES.get(step, ()):
        hasher.update(f"{library} {version(library)}".encode())
    return hasher.hexdigest()
