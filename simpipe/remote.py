"""Releases on object storage, read and verified without a local copy."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simpipe import files, storage
from simpipe.errors import ContractError, ReleaseError
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile

_THREADS = 16


def load_manifest(root: storage.Folder, release: str) -> tuple[Manifest, str]:
    """A release's manifest, and its SHA-256.

    Raises:
      ReleaseError: no such release, or a bad manifest; see `Manifest.load`.
    """
    name = f"releases/{release}/{MANIFEST_JSON}"
    if Path(release).name != release or root.size(name) is None:
        raise ReleaseError(f"{root.where}/releases/{release}: no such release, or an unfinished one", "name another release")
    data = root.read(name)
    with tempfile.TemporaryDirectory(prefix="simpipe-") as copy, named(Path(copy), root.where):
        folder = Path(copy) / "releases" / release
        files.write_bytes(folder / MANIFEST_JSON, data)
        return Manifest.load(folder), files.sha256_bytes(data)


def verify_files(root: storage.Folder, manifest: Manifest) -> None:
    """Checks sizes, then SHA-256, of every file of a release; several at the same time.

    Raises:
      ReleaseError: one is missing or was altered.
    """

    def size(entry: ManifestFile) -> None:
        name = _name(manifest, entry)
        found = root.size(name)
        if found != entry.size:
            there = "missing" if found is None else f"{found} bytes, the manifest says {entry.size}"
            raise _altered(root, name, there)

    def content(entry: ManifestFile) -> None:
        name = _name(manifest, entry)
        actual = storage.sha256(root, name, entry.size)
        if actual != entry.sha256:
            raise _altered(root, name, f"SHA-256 {actual[:12]}…, the manifest says {entry.sha256[:12]}…")

    with ThreadPoolExecutor(_THREADS) as pool:
        for check in (size, content):
            list(pool.map(check, manifest.files))


def _name(manifest: Manifest, entry: ManifestFile) -> str:
    files.check_inside(manifest.release, entry.path)
    files.check_inside("releases", entry.release or manifest.release)
    return f"releases/{entry.release or manifest.release}/{entry.path}"


def _altered(root: storage.Folder, name: str, what: str) -> ReleaseError:
    return ReleaseError(f"{root.full(name)}: {what}", "it was altered after it was written: copy the release again")


@contextlib.contextmanager
def named(local: Path, uri: str) -> Iterator[None]:
    """Errors name the address, not the copy."""
    try:
        yield
    except (ReleaseError, ContractError) as error:
        texts = (text.replace(str(local), uri) for text in (error.message, error.cure))
        raise type(error)(*texts) from None
