"""Pictures of a release's items: in the data sets of examples that its embeddings were made from, the newest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.data.examples import DATASET_JSON, DatasetInfo
from simpipe.embeddings import EMBEDDINGS_JSON
from simpipe.errors import SimpipeError
from simpipe.manifest import MANIFEST_JSON, Manifest
from simpipe.releases import releases_folder

_MOST = 64  # re-indexes that are followed back


def example_sets(root: Path, manifest: Manifest) -> list[tuple[Path, DatasetInfo]]:
    """The data sets of pictures that hold the items of a release, the newest first; empty where there is none.

    A re-index embeds only what changed, so its examples may hold no more than that; all others lie in those of the release
    that it started from. Reads JSON only. What was removed since is passed over.

    Args:
      root: of releases, embeddings and examples. manifest: of the release.
    """
    found: dict[str, tuple[Path, DatasetInfo]] = {}
    for key in _keys(root, manifest):
        folder = root / "examples" / key[:12]
        if folder.name in found or not (folder / DATASET_JSON).exists():
            continue
        try:
            info = DatasetInfo.load(folder)
        except SimpipeError:  # damaged: its items have no pictures, the others keep theirs
            continue
        if info.input.is_picture:
            found[folder.name] = folder, info
    return list(found.values())


def _keys(root: Path, manifest: Manifest) -> Iterator[str]:
    """Keys of examples, from the release back to the first one that it comes from."""
    provenance: Any = manifest.provenance
    for _ in range(_MOST):
        made = _json(root / "embeddings" / str(provenance.get("embeddings"))[:12] / EMBEDDINGS_JSON).get("provenance") or {}
        if made.get("examples"):
            yield str(made["examples"])
        base = (provenance.get("reindex") or {}).get("base") or made.get("base")
        if base is None:
            return
        provenance = _json(releases_folder(root) / Path(str(base)).name / MANIFEST_JSON).get("provenance") or {}


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is gone or damaged."""
    try:
        data = files.read_json(path)
    except (SimpipeError, OSError):  # pruned, or never made: then there are no pictures
        return {}
    return data if isinstance(data, dict) else {}


def fetch_pictures(sets: list[tuple[Path, DatasetInfo]], items: Mapping[str, str | None]) -> dict[str, tuple[np.ndarray, Any]]:
    """Inputs of items with their `InputSpec`; those that are nowhere are left out. Imports no TensorFlow.

    Args:
      sets: from `example_sets`. items: label by id, None without one.
    """
    from simpipe.data.pictures import fetch_inputs

    found: dict[str, tuple[np.ndarray, Any]] = {}
    for folder, info in sets:
        left = {name: label for name, label in items.items() if name not in found}
        if left:
            found |= {
                name: (picture, info.input) for name, picture in fetch_inputs(folder, info, list(left), left, plain=True).items()
            }
    return found
