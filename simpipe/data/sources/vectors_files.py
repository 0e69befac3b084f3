"""Which files a `vectors` source reads; its contents are the importer's business, not this package's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.config.models import VectorsSource
from simpipe.data.sources import listing
from simpipe.data.vectors import source_files


def fingerprint(config: VectorsSource) -> dict[str, Any]:
    """Of the vectors and, for `.npy`, of the files of ids and labels, without reading them."""
    found = source_files(config)
    result = listing.stat_files(found[0].parent, [path.name for path in found])
    if files.located(config.path).suffix.lower() != ".npy":
        return result
    for field, path in (("ids", config.ids), ("labels", config.labels)):
        if path:
            cure = f"give the {field} of {Path(config.path).name} as .npy or as a text file with one value a line"
            found = listing.require(path, cure, f"source.{field}")
            result[field] = listing.stat_files(found.parent, [found.name])
    return result
