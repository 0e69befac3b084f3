"""What lies in `ROOT/releases`: finished releases, and everything else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from simpipe import files, releases
from simpipe.errors import ContractError, ReleaseError
from simpipe.manifest import MANIFEST_JSON, Manifest


@dataclass(frozen=True)
class Survey:
    """Folders of releases by name.

    Attributes:
      manifests: of finished releases, newest first. unreadable: why a manifest cannot be read.
      pruned: removed ones whose files others still refer to, or whose removal was cut short.
      unfinished: key of the build; None: a folder in which nothing was written yet.
      unknown: other folders.
    """

    manifests: dict[str, Manifest]
    unreadable: dict[str, str]
    pruned: tuple[str, ...]
    unfinished: dict[str, str | None]
    unknown: tuple[str, ...]

    def without(self, names: Collection[str]) -> Survey:
        """As it would be if these releases were pruned."""
        manifests = {name: manifest for name, manifest in self.manifests.items() if name not in names}
        unfinished = {name: key for name, key in self.unfinished.items() if name not in names}
        return replace(self, manifests=manifests, unfinished=unfinished, pruned=(*self.pruned, *names))


def survey(root: Path) -> Survey:
    """Looks at every folder in `ROOT/releases`."""
    parent = releases.releases_folder(root)
    folders = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    manifests, unreadable, unfinished, pruned, unknown = {}, {}, {}, [], []
    for folder in folders:
        name = folder.name
        if name.startswith("."):
            continue
        if (folder / MANIFEST_JSON).exists():
            try:
                manifests[name] = Manifest.load(folder)
            except (ReleaseError, ContractError) as error:
                unreadable[name] = error.message
        elif (folder / releases.PRUNED).exists():
            pruned.append(name)
        elif (folder / releases.BUILD_JSON).exists():
            unfinished[name] = _key(folder)
        elif all(path.name.startswith(files.TMP_PREFIX) for path in folder.iterdir()):
            unfinished[name] = None
        else:
            unknown.append(name)
    newest = sorted(manifests.items(), key=lambda pair: (pair[1].created_at, pair[0]), reverse=True)
    return Survey(dict(newest), unreadable, tuple(pruned), unfinished, tuple(unknown))


def release_lock(root: Path, key: str | None) -> Path:
    """The lock of the steps that write into releases of a build's key."""
    return root / ".locks" / f"release-{(key or 'none')[:12]}"


def _key(folder: Path) -> str:
    try:
        return str(files.read_json(folder / releases.BUILD_JSON)["key"])
    except (ContractError, KeyError, TypeError):
        return "none"
