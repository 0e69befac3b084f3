"""A local copy of the files of a release on object storage: each is downloaded once, when it is first needed.

Contents lie under their SHA-256, `sha256/ab/abcd…`, so that releases share them; each release has a folder of hard links
with the names that its manifest gives, `roots/<digest of the address>/releases/<id>/…`, because libraries load folders.
Several processes may use one cache: files appear by a rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from simpipe import files, releases, remote, storage, tags
from simpipe.errors import ContractError, ReleaseError
from simpipe.manifest import MANIFEST_JSON, Manifest, ManifestFile

_BLOCK = 16 << 20


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/simpipe`, or `~/.cache/simpipe`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simpipe"


@dataclass(frozen=True)
class Mirror:
    """A release on object storage and its local copy.

    Attributes:
      folder: the release's local folder. cache: of contents. root: of the data sets on object storage.
    """

    folder: Path
    cache: Path
    root: storage.Folder

    def fetch(self, folder: Path, entry: ManifestFile) -> Path:
        """The local path of a listed file, downloaded where it is not there yet, and verified.

        Raises:
          ReleaseError: it is missing on object storage, or not what the manifest says.
        """
        path = releases.resolve(folder, entry)
        with contextlib.suppress(ReleaseError):  # not there yet, or damaged in the cache
            return releases.verify_file(folder, entry)
        content = self.cache / "sha256" / entry.sha256[:2] / entry.sha256
        expected = files.FileEntry(entry.path, entry.size, entry.sha256)
        try:
            files.verify(content, expected)
        except ContractError:
            self._download(f"releases/{entry.release or folder.name}/{entry.path}", content, entry)
        _link(content, path)
        return releases.verify_file(folder, entry)

    def _download(self, name: str, content: Path, entry: ManifestFile) -> None:
        where, hasher = self.root.full(name), hashlib.sha256()
        cure = "it was altered after it was written: restore it, or publish another release"
        with files.replacing(content) as temporary:
            with open(temporary, "wb") as handle:
                for start in range(0, entry.size, _BLOCK):
                    block = self.root.read_range(name, start, min(start + _BLOCK, entry.size))
                    hasher.update(block)
                    handle.write(block)
            size = self.root.size(name)
            if size != entry.size:
                raise ReleaseError(f"{where}: {size} bytes, the manifest says {entry.size}", cure)
            if hasher.hexdigest() != entry.sha256:
                found = hasher.hexdigest()[:12]
                raise ReleaseError(f"{where}: SHA-256 {found}…, the manifest says {entry.sha256[:12]}…", cure)


def open_mirror(uri: str, release: str | None, cache_dir: str | Path | None) -> tuple[Mirror, Manifest]:
    """Opens a release on object storage; reads the pointer and the manifest only.

    Args:
      uri: `gs://BUCKET/ROOT` (its live release, or the one named by `release`, an id or a tag), or a release's own folder.
      cache_dir: of local copies; None: `default_cache()`.

    Raises:
      ReleaseError: nothing is published, no such release, or a manifest that is not the published one.
      SimpipeError: storage cannot be reached.
    """
    cache = default_cache() if cache_dir is None else files.local(cache_dir)
    address = uri.rstrip("/")
    parent, _, name = address.rpartition("/releases/")
    if release is None and parent and "/" not in name:
        address, release = parent, name
    root = storage.open_folder(address)
    local = cache / "roots" / hashlib.sha256(root.where.encode()).hexdigest()[:16]
    with remote.named(local, root.where):
        if release is None:
            _copy(root, releases.LIVE_JSON, local)
            pointer = releases.read_pointer(local)
            if pointer is None:
                raise ReleaseError(f"{local}: nothing is published", "run `simpipe publish`, or name a release with --release")
            name = pointer.release
        else:
            name = tags.resolve(root, release)
        folder = files.inside(releases.releases_folder(local), name)
        if not _copy(root, f"releases/{name}/{MANIFEST_JSON}", local):
            raise ReleaseError(f"{folder}: no such release, or an unfinished one", "look at the folder `releases`")
        folder, manifest = releases.open_live(local) if release is None else releases.find(local, name)
    return Mirror(folder, cache, root), manifest


def _copy(root: storage.Folder, name: str, local: Path) -> bool:
    """Copies a small file that may have changed since; False where there is none, and then there is no copy either."""
    target = local / name
    if root.size(name) is None:
        target.unlink(missing_ok=True)
        return False
    files.write_bytes(target, root.read(name))
    return True


def _link(content: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{files.TMP_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        os.link(content, temporary)
    except OSError:  # no hard links here
        shutil.copyfile(content, temporary)
    # Of two names of one file a rename would leave both; but then `path` is what it should be already.
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)
