"""Why a re-index must do more than what changed: another encoder, distance, shape of items, or way to index."""

from __future__ import annotations

from typing import Any

from simpipe.config import Config
from simpipe.digests import digests_file
from simpipe.manifest import Manifest
from simpipe.reindex.units import About

# What decides what an index is; the others say how it is built.
_INDEX = ("router", "backend", "storage", "profile", "store_files")


def source_reasons(config: Config, manifest: Manifest, now: About) -> list[str]:
    """Why every item must come from the source again.

    Args:
      config: as it is now. manifest: of the live release. now: what embeddings made now are like.
    """
    found = []
    if manifest.encoder.fingerprint != now.encoder:
        found.append(f"encoder {manifest.encoder.fingerprint[:12]} -> {now.encoder[:12]}")
    if manifest.distance != now.distance:
        found.append(f"distance {manifest.distance} -> {now.distance}")
    if manifest.dim != now.dim:
        found.append(f"dim {manifest.dim} -> {now.dim}")
    if sorted(manifest.metadata) != sorted(now.metadata):
        found.append(f"metadata columns {', '.join(manifest.metadata) or 'none'} -> {', '.join(now.metadata) or 'none'}")
    if not all(manifest.has(digests_file(number, manifest.store_files)) for number in range(manifest.store_files)):
        found.append("the live release has no digests to compare with")
    # What int8 and float16 took away does not come back.
    if index_reasons(config, manifest) and manifest.storage != "float32":
        found.append(f"{', '.join(index_reasons(config, manifest))}, and the release holds {manifest.storage}")
    return found


def index_reasons(config: Config, manifest: Manifest) -> list[str]:
    """Why all partitions must be built anew, from the vectors in the release."""
    before: dict[str, Any] = manifest.config.get("build", {})
    now = config.build.model_dump(mode="json")
    return [f"build.{name} is another" for name in _INDEX if before.get(name) != now[name]]
