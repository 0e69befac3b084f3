"""Releases of a few arbitrary files, for tests of what keeps, moves and removes releases; nothing can be looked up in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.manifest import Manifest, ManifestEncoder, ManifestFile, ManifestPartition


def release_name(number: int) -> str:
    return f"20250101T{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}Z-aaaaaa"


def make_plain(
    root: Path,
    number: int,
    own: Mapping[str, bytes] | None = None,
    *,
    carried: Mapping[str, str] | None = None,
    **changes: Any,
) -> str:
    """Writes release `number` of these files; the higher the number, the newer it is.

    Args:
      own: content by path. carried: by path the release that holds the file. changes: fields of the manifest.

    Returns:
      The release's id.
    """
    name = release_name(number)
    folder = root / "releases" / name
    own = {"data.bin": b"%d" % number} if own is None else own
    for path, content in own.items():
        files.write_bytes(folder / path, content)
    entries = [ManifestFile(**files.entry_of(folder / path, folder).to_json()) for path in own]
    for path, holder in (carried or {}).items():
        origin = root / "releases" / holder
        entries.append(ManifestFile(**files.entry_of(origin / path, origin).to_json(), release=holder))
    about: dict[str, Any] = {
        "created_at": f"2025-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "provenance": {"embeddings": "0" * 64},
        "steps": {"build": f"{number:064x}"},
    }
    Manifest(
        release=name,
        simpipe_version="0",
        dim=2,
        distance="cosine",
        encoder=ManifestEncoder(fingerprint="none"),
        items=1,
        partitions=(ManifestPartition(partition=0, rows=1, backend="exact"),),
        store_files=1,
        backend={"kind": "exact"},
        router={"kind": "hash"},
        search={},
        config={},
        files=tuple(sorted(entries, key=lambda entry: entry.path)),
        **{**about, **changes},
    ).save(folder)
    return name
