"""Sources of examples: `open_source` reads any of them block by block, `source_fingerprint` tells whether one changed."""

from __future__ import annotations

import importlib
from typing import Any

from simpipe.config.models import Source
from simpipe.data.sources.base import ExampleSource as ExampleSource
from simpipe.data.sources.base import SourceBlock as SourceBlock
from simpipe.errors import SourceError

_CLASSES = {
    "digits": "Digits",
    "npz": "Npz",
    "folder": "Folder",
    "parquet": "Parquet",
    "tfds": "Tfds",
    "tfrecord": "Tfrecord",
}


def open_source(config: Source) -> ExampleSource:
    """The reader of a source.

    Raises:
      SourceError: something that it names is missing (field, file, and the cure), or it holds ready-made vectors.
    """
    if config.kind == "vectors":
        raise SourceError("source.kind: vectors has no examples to shard", "import these vectors: they need no encoder")
    module = importlib.import_module(f"{__name__}.{config.kind}")
    return getattr(module, _CLASSES[config.kind])(config)


def source_fingerprint(config: Source) -> dict[str, Any]:
    """A cheap identity of what a source reads: JSON-like, changes when the input changes, no contents are read.

    Raises:
      SourceError: the source is missing.
    """
    name = "vectors_files" if config.kind == "vectors" else config.kind
    module = importlib.import_module(f"{__name__}.{name}")
    return {"kind": config.kind, **module.fingerprint(config)}
