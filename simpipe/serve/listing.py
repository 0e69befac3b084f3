"""The finished releases of a root, as a server lists them."""

from __future__ import annotations

from typing import Any

from simpipe import files, releases, tags
from simpipe.errors import SimpipeError
from simpipe.pointer import read_pointer


def list_releases(root: str) -> list[dict[str, Any]]:
    """Newest first: release, created_at, items, live, previous, tags."""
    folder = files.located(root)
    pointer = read_pointer(folder)
    named: dict[str, list[str]] = {}
    try:
        for name, tag in tags.read_tags(folder).items():
            named.setdefault(tag.release, []).append(name)
    except SimpipeError:  # a damaged tag is no reason to list nothing
        named = {}
    return [
        {
            "release": manifest.release,
            "created_at": manifest.created_at,
            "items": manifest.items,
            "live": pointer is not None and pointer.release == manifest.release,
            "previous": pointer is not None and pointer.previous == manifest.release,
            "tags": named.get(manifest.release, []),
        }
        for _, manifest in releases.finished(folder)
    ]
