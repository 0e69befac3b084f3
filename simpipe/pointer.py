"""The pointer, `live.json`: which release answers. The only module that moves it, on disk and on object storage alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simpipe import storage
from simpipe.errors import PublishConflictError, ReleaseError

LIVE_JSON = "live.json"


@dataclass(frozen=True)
class Pointer:
    """`live.json`. `forced` names the gates that had failed when the release went live all the same."""

    release: str
    previous: str | None
    published_at: str
    manifest_sha256: str
    forced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "release": self.release,
            "previous": self.previous,
            "published_at": self.published_at,
            "manifest_sha256": self.manifest_sha256,
        }
        return {**about, "forced": list(self.forced)} if self.forced else about


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_pointer(root: str | Path | storage.Folder) -> Pointer | None:
    """The pointer, or None before the first publish.

    Args:
      root: of the data sets, local or `gs://BUCKET/ROOT`.

    Raises:
      ReleaseError: it is damaged. SimpipeError: storage cannot be reached.
    """
    return _read(storage.open_folder(root))[0]


def move_pointer(
    root: str | Path | storage.Folder,
    release: str,
    *,
    expected: str | None,
    manifest_sha256: str,
    forced: Sequence[str] = (),
    prepare: Callable[[], None] = lambda: None,
) -> Pointer:
    """Makes `release` live, only if `expected` still is. The caller has verified the release.

    Args:
      root: of the data sets, local or `gs://BUCKET/ROOT`.
      expected: the release that must be live; None: none may be.
      manifest_sha256: of the release's manifest. forced: gates that had failed.
      prepare: called just before the pointer moves, where it is going to.

    Returns:
      The new pointer; the one that is there, where the release is live already.

    Raises:
      PublishConflictError: another release is live; of several that expect the same one, exactly one moves the pointer.
      ReleaseError: the release is live already, and its manifest was altered since.
    """
    folder = storage.open_folder(root)
    current, generation = _read(folder)
    live = current.release if current else None
    if live != expected:
        raise _conflict(folder, live, expected)
    if current is not None and live == release:
        if current.manifest_sha256 != manifest_sha256:
            where = folder.full(f"releases/{release}")
            cure = f"restore it, roll back, or delete {where} and run again"
            raise ReleaseError(f"{where}/manifest.json: altered after it was published", cure)
        return current
    prepare()
    pointer = Pointer(release, live, now(), manifest_sha256, tuple(forced))
    data = (json.dumps(pointer.to_json(), indent=2, ensure_ascii=False) + "\n").encode()
    if not folder.write_if(LIVE_JSON, data, generation):
        current = _read(folder)[0]
        raise _conflict(folder, current.release if current else None, expected)
    return pointer


def _conflict(folder: storage.Folder, live: str | None, expected: str | None) -> PublishConflictError:
    where = folder.full(LIVE_JSON)
    return PublishConflictError(f"{where}: {live} went live meanwhile (expected {expected})", "look, then publish again")


def _read(folder: storage.Folder) -> tuple[Pointer | None, int]:
    """The pointer and its generation: 0 where there is none."""
    found = folder.read_with_generation(LIVE_JSON)
    if found is None:
        return None, 0
    path = folder.full(LIVE_JSON)
    cure = f"delete {path}, look at `simpipe releases`, and publish one of them"
    try:
        data = json.loads(found[0])
        forced = tuple(data.get("forced", ()))
        pointer = Pointer(data["release"], data.get("previous"), data["published_at"], data["manifest_sha256"], forced)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{path}: damaged, not a pointer", cure) from None
    texts = [pointer.release, pointer.published_at, pointer.manifest_sha256, pointer.previous or "", *pointer.forced]
    if not all(isinstance(text, str) for text in texts):
        raise ReleaseError(f"{path}: damaged, not a pointer", cure)
    return pointer, found[1]
