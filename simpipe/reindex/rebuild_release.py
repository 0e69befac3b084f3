"""What makes the parts of a rebuild one release: checks of the delta and of the counts, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import __version__, files, releases
from simpipe.config import Config
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ContractError
from simpipe.index.hidden import hidden_file
from simpipe.index.measure import PROBE_FILE
from simpipe.index.partitions import partition_folder
from simpipe.index.profile import PROFILE_JSON
from simpipe.index.router import ROUTER_FILE
from simpipe.manifest import FORMAT_VERSION, Manifest, ManifestFile, ManifestPartition, made_by
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.plan import RebuildPlan

_CARRIED = ("partitions/", "hidden/", "store/", "digests/", "measures/")
_CARRIED_FILES = (ROUTER_FILE, PROFILE_JSON, PROBE_FILE)


@dataclass(frozen=True)
class Parts:
    """What a rebuild made.

    Attributes:
      ids: items that go. added: items that came. copies: spilled rows among what was routed. rejected: items left out.
      dropped: int64[partitions of the base], rows that go.
      built: records of partitions, see `Rebuilt`. stored: of store files, see `rewrite_one`.
      hidden: how many rows of a partition do not answer any more, and the entry of their file.
      others: entries of further files.
    """

    plan: RebuildPlan
    dropped: np.ndarray
    ids: int = 0
    added: int = 0
    copies: int = 0
    rejected: int = 0
    built: Sequence[dict[str, Any]] = ()
    stored: Sequence[dict[str, Any]] = ()
    hidden: Mapping[int, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    others: Sequence[dict[str, Any]] = ()

    @property
    def anew(self) -> set[int]:
        """Partitions that were built."""
        return {record["partition"] for record in self.built}


def check_delta(config: Config, info: EmbeddingsInfo, changes: ChangesInfo, manifest: Manifest) -> None:
    """Refuses a delta or a configuration that does not go with the live release.

    Raises:
      ContractError: names what differs.
    """
    build = config.build
    pairs = {
        "dim": (info.dim, manifest.dim),
        "distance": (info.distance, manifest.distance),
        "encoder": (info.encoder, manifest.encoder.fingerprint),
        "metadata": (sorted(info.metadata), sorted(manifest.metadata)),
        "backend": (build.backend.model_dump(mode="json"), manifest.backend),
        "storage": (build.storage, manifest.storage),
        "base": (changes.base, manifest.release),
        "store files": (len(changes.files), manifest.store_files),
    }
    for name, (said, held) in pairs.items():
        if said != held:
            raise ContractError(
                f"{name}: the changes or the configuration say {said}, release {manifest.release} has {held}",
                "run `simpipe reindex` again, or `simpipe run` once",
            )


def reconcile(base: Manifest, parts: Parts, folder: Path) -> int:
    """The number of items of the new release, after store and partitions were found to agree with it.

    Raises:
      ContractError: items were lost or doubled.
    """
    items = base.items - parts.ids + parts.added
    in_store = {name: sum(record[name] for record in parts.stored) for name in ("added", "dropped")}
    live = sum(record["rows"] for record in parts.built)
    for part in base.partitions:
        if part.partition not in parts.anew:
            live += part.rows - parts.hidden[part.partition][0] if part.partition in parts.hidden else part.live
    wanted = sum(part.live for part in base.partitions) - int(parts.dropped.sum()) + parts.added + parts.copies
    wanted -= sum(record["doubled"] for record in parts.built)
    taken = {source for each in parts.plan.work for source in each.sources}
    left = [number for number in np.flatnonzero(parts.dropped).tolist() if number not in parts.hidden and number not in taken]
    if in_store != {"added": parts.added, "dropped": parts.ids} or live != wanted or live < items or left:
        raise ContractError(
            f"{folder}: {base.items} items before, {parts.ids} went, {parts.added} came; in the store {in_store['dropped']} "
            f"went, {in_store['added']} came; partitions hold {live} rows, not {wanted}",
            "items were lost or doubled by the runner: run again, and report the runner",
        )
    return items


def new_manifest(
    config: Config,
    base: Manifest,
    folder: Path,
    parts: Parts,
    *,
    key: str,
    items: int,
    embeddings: str,
    changes: ChangesInfo,
    unlisted: Sequence[str] = (),
) -> Manifest:
    """The manifest of the new release: its own files, and all others of the base by reference to the release that holds them.

    Args:
      config: the line's configuration. base: manifest of the live release. folder: of the new one. parts: what was built.
      key: of the step. items: in the new release. embeddings: key of the delta.
      unlisted: files of the base that do not go with the new release.
    """
    listed = [entry for record in (*parts.built, *parts.stored) for entry in record["files"]]
    listed += [*(entry for _, entry in parts.hidden.values()), *parts.others]
    own = {entry["path"]: ManifestFile(**entry) for entry in listed}
    gone = {*own, *unlisted, *(hidden_file(number) for number in parts.anew)}
    folders = tuple(f"{partition_folder(number)}/" for number in parts.anew)
    carried = [
        entry.model_copy(update={"release": entry.release or base.release})
        for entry in base.files
        if entry.path.startswith(_CARRIED) or entry.path in _CARRIED_FILES
        if entry.path not in gone and not entry.path.startswith(folders)
    ]
    plan = parts.plan
    about = {part.partition: part for part in base.partitions}
    for record in parts.built:
        about[record["partition"]] = ManifestPartition(**{name: record[name] for name in ManifestPartition.model_fields})
    for number, (count, _) in parts.hidden.items():
        about[number] = about[number].model_copy(update={"hidden": count})
    counts = {"total": plan.partitions, "rebuilt": len(parts.anew), "hidden_only": len(parts.hidden)}
    counts |= {"carried": plan.partitions - len(parts.anew) - len(parts.hidden)}
    counts |= {"split": len(plan.split), "merged": len(plan.merged)}
    provenance = {
        "embeddings": embeddings,
        "reindex": {
            "base": base.release,
            "items": changes.items.model_dump(),
            "queries": changes.queries.model_dump(),
            "rejected": parts.rejected,
            "partitions": counts,
            "retrained": False,
            "reasons": [],  # for more than the changes ask for
        },
        "made": made_by("reindex"),
    }
    fields = {
        "format_version": FORMAT_VERSION,
        "release": folder.name,
        "created_at": releases.now(),
        "simpipe_version": __version__,
        "items": items,
        "partitions": tuple(about[number] for number in range(plan.partitions)),
        "router": {**base.router, "partitions": plan.partitions} if "partitions" in base.router else base.router,
        "search": config.search.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "provenance": provenance,
        "steps": {"build": key},
        "parents": tuple(sorted({str(entry.release) for entry in carried})),
        "files": tuple(sorted([*own.values(), *carried], key=lambda entry: entry.path)),
    }
    return base.model_copy(update=fields)


def trained_balance(manifest: Manifest) -> float:
    """The largest partition over the mean when the release's router was trained; of an older release, as it is."""
    known = manifest.router.get("trained", {}).get("balance")
    rows = np.array([part.live for part in manifest.partitions if part.live])
    return float(known if known is not None else rows.max() / rows.mean() if len(rows) else 1.0)


def entries_of(folder: Path, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Size and checksum of files of the new release."""
    return [files.entry_of(folder / path, folder).to_json() for path in paths]
