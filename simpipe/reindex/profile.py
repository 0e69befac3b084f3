"""The search profile of a re-indexed release: only rebuilt partitions are measured, with the queries of the release before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.arrays import load_array
from simpipe.config import Config
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo, iterate_blocks
from simpipe.errors import QueryError
from simpipe.index.distance import bad_rows, prepare
from simpipe.index.hidden import hidden_file
from simpipe.index.measure import PROBE_FILE, PartitionMeasure, Probe, measure_file, measure_partition
from simpipe.index.partitions import Partition, partition_folder
from simpipe.index.profile import PROFILE_JSON, Profile, make_profile
from simpipe.index.routing import Router
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest

_FEW = 100  # queries: fewer say nothing about how many partitions they ask in the mean
_MOST = 2000


def start_profile(base: Searcher, router: Router, folder: Path) -> bool:
    """Prepares measuring, before partitions are built: `probe.npz` in the new release where its router is another one.

    Args:
      base: the live release. router: of the new one. folder: of the new one.

    Returns:
      Whether there is anything to measure with; a release without a profile, or of an older version, has nothing.
    """
    if not base.manifest.has(PROBE_FILE):
        return False
    if router is not base.router:
        probe = Probe.load(base.file(PROBE_FILE))
        replace(probe, nearness=router.nearness(probe.vectors)).save(folder / PROBE_FILE)
    return True


def measure_rebuilt(base: Searcher, folder: Path, record: dict[str, Any], *, params: dict[str, Any]) -> None:
    """Measures a partition of the new release that was just built, and writes `measures/NNNNN.npz`; a finished one is kept.

    Args:
      base: the live release. folder: the new one, after `start_profile`.
      record: of the partition, see `build_partition`. params: of the backend.
    """
    number = int(record["partition"])
    target = folder / measure_file(number)
    if target.exists():
        return
    own = folder / PROBE_FILE
    probe = Probe.load(own if own.exists() else base.file(PROBE_FILE))
    manifest = base.manifest
    part = Partition.load(
        folder / partition_folder(number),
        record["backend"],
        distance=manifest.distance,
        dim=manifest.dim,
        params=params,
        storage=manifest.storage,  # type: ignore[arg-type]  # the loader refuses another
    )
    measure_partition(part, np.asarray(part.vectors[:], np.float32), part.tie, probe, number=number).save(target)


def finish_profile(
    base: Searcher, folder: Path, *, partitions: int, rebuilt: Collection[int], targets: Sequence[float]
) -> list[str]:
    """Puts the measures of rebuilt and carried partitions together to the new release's profile.

    Rows that were hidden since a partition was measured count as gone. A carried partition that is asked by queries that did not
    ask it before, because the router changed, is measured again.

    Args:
      base: the live release. folder: the new one, with the files of hidden rows of partitions that were not rebuilt.
      partitions: slots of the new release. rebuilt: those that were built anew. targets: recalls to list.

    Returns:
      The files of it that lie in `folder`: the profile, the probe where the router changed, measures of what was measured.
    """
    if not base.manifest.has(PROBE_FILE):
        return []
    own = folder / PROBE_FILE
    probe = Probe.load(own if own.exists() else base.file(PROBE_FILE))
    written = [PROBE_FILE] if own.exists() else []
    measures = []
    for number in range(partitions):
        path = folder / measure_file(number)
        if number in rebuilt:
            measures.append(PartitionMeasure.load(path))
            written.append(measure_file(number))
            continue
        measure = PartitionMeasure.load(base.file(measure_file(number)))
        fresh = np.setdiff1d(np.flatnonzero(probe.nearness[:, number] <= probe.reach), measure.asked)
        if len(fresh) and base.manifest.partitions[number].rows:
            measure = _again(base, probe, number)
            measure.save(path)
            written.append(measure_file(number))
        hidden = _hidden(base, folder, number)
        measures.append(measure if hidden is None else measure.without(base.rows(number).tie[hidden]))
    profile = make_profile(measures, probe, targets=targets)
    if profile is None:
        return written
    profile.save(folder / PROFILE_JSON)
    return [PROFILE_JSON, *written]


def _again(base: Searcher, probe: Probe, number: int) -> PartitionMeasure:
    part = base.partition(number)
    return measure_partition(part, np.asarray(part.vectors[:], np.float32), part.tie, probe, number=number)


def _hidden(base: Searcher, folder: Path, number: int) -> np.ndarray | None:
    """The rows of a partition that was not rebuilt that do not answer in the new release: int64[h]."""
    path = folder / hidden_file(number)
    return load_array(path).astype(np.int64) if path.exists() else base.hidden(number)


# --- drift of the routing ------------------------------------------------------------------------------------------------


def trained(folder: Path, *, rows: Sequence[int], items: int, target: float | None) -> dict[str, Any]:
    """What re-indexes compare a router with: `trained` of the manifest's `router`, carried on until it is trained anew.

    Args:
      folder: of the release that it was trained for, with its profile. rows: of each partition. items: of the release.
      target: recall for which the partitions that a query asks are noted.
    """
    sizes = np.array([count for count in rows if count], np.float64)
    balance = float(sizes.max() / sizes.mean()) if len(sizes) else 1.0
    profile = Profile.load(folder / PROFILE_JSON) if (folder / PROFILE_JSON).exists() else None
    return {"release": folder.name, "items": items, "balance": round(balance, 4), "probes": _probes(profile, target)}


def routing_drift(folder: Path, manifest: Manifest, config: Config) -> str | None:
    """Why the router of a re-indexed release should be trained anew, from how many partitions its queries have to ask.

    The queries of its profile are those of training. Where the embeddings of today's held-out queries are still there, these tell
    how many partitions are asked by the setting that the profile gives for the target recall.

    Args:
      folder, manifest: the release, in `releases` of its root.
      config: `reindex.retrain_probes`, and `search.target_recall`, for which probes are compared.
    """
    before = manifest.router.get("trained") or {}
    target, known = config.search.target_recall, before.get("probes")
    if known is None or before.get("release") == manifest.release or target != manifest.search.get("target_recall"):
        return None
    searcher = Searcher(folder, manifest)
    now, queries = _probes(searcher.profile, target), _queries(folder, manifest)
    if now is not None and len(queries) >= _FEW:
        asked = searcher.ask(queries, 1, searcher.setting_of({"target_recall": target}))
        now = round(float(asked.sum() / len(queries)), 4)
    limit = config.reindex.retrain_probes
    # A fraction of a partition more is no reason, however many times the fraction before it is.
    if now is None or now <= max(limit * known, known + 1):
        return None
    return f"recall {target:g} takes {now:.1f} partitions a query, {known:.1f} when the router was trained"


def _queries(folder: Path, manifest: Manifest) -> np.ndarray:
    """The first held-out queries of a release's embeddings: float32[q, dim], prepared; none where these are gone."""
    source = folder.parent.parent / "embeddings" / str(manifest.provenance.get("embeddings"))[:12]
    parts, rows = [np.zeros((0, manifest.dim), np.float32)], 0
    if (source / EMBEDDINGS_JSON).exists():
        for file in EmbeddingsInfo.load(source).of_splits("query"):
            for block in iterate_blocks(files.inside(source, file.path), _MOST, ["embedding"]):
                not_finite, zero = bad_rows(block.vectors, manifest.distance)
                parts.append(prepare(block.vectors[~not_finite & ~zero], manifest.distance))
                rows += len(parts[-1])
                if rows >= _MOST:
                    return np.concatenate(parts)
    return np.concatenate(parts)


def _probes(profile: Profile | None, target: float | None) -> float | None:
    """Partitions that a query asks in the mean for a target recall; None where that is not known or not reached."""
    if profile is None or target is None:
        return None
    try:
        return round(profile.point_for(target).probes, 4)
    except QueryError:
        return None
