"""Which files a `vectors` source reads; its contents are the importer's business, not this package's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.config.models import VectorsSource
from simpipe.data.sources import listing

_CURE = "give a .npy or .npz file, or Parquet files"


def fingerprint(config: VectorsSource) -> dict[str, Any]:
    """Of the vectors and, for `.npy`, of the files of ids and labels, without reading them."""
    root, names = listing.list_files(config.path, (".parquet",), _CURE)
    result = listing.stat_files(root, names)
    if files.local(config.path).suffix.lower() != ".npy":
        return result
    for field, path in (("ids", config.ids), ("labels", config.labels)):
        if path:
            cure = f"give the {field} of {Path(config.path).name} as .npy or as a text file with one value a line"
            found = listing.require(path, cure, f"source.{field}")
            result[field] = listing.stat_files(found.parent, [found.name])
    return result
