"""Builds a release: routes embeddings into partitions, one ANN index each, and writes the store.

python -m pipelines.build --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpipe import __version__, files, releases
from simpipe.build import BuildPlan
from simpipe.build_start import PLAN_JSON
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.data.vectors import find_ids
from simpipe.embeddings import NO_ENCODER, EmbeddingsInfo
from simpipe.errors import ConfigError, ContractError, DuplicateIdError, SimpipeError
from simpipe.groups import GroupsInfo
from simpipe.index.measure import PROBE_FILE, PartitionMeasure, Probe, measure_file
from simpipe.index.profile import PROFILE_JSON, make_profile
from simpipe.index.route import RouteSpec
from simpipe.index.router import ROUTER_FILE
from simpipe.job import job_of
from simpipe.manifest import Manifest, ManifestEncoder, ManifestFile, ManifestPartition, made_by
from simpipe.progress import watching
from simpipe.reindex.profile import trained
from simpipe.types import INDEXED_SPLITS

_OTHER_ITEMS = "run `simpipe dedupe` on a release of these embeddings, and name its folder in build.representatives"


def run(
    config: Config, *, root: Path, embeddings: Path, encoder: Path | None, key: str, beam_args: Sequence[str] = ()
) -> tuple[Path, Manifest]:
    """Builds a release from the `train` and `index` splits of an embeddings data set.

    Args:
      config: the line's configuration. root: where releases live.
      embeddings: the data set to read. encoder: the folder of the encoder that made it, if any.
      key: what the release is made from; an unfinished release of the same key is continued.
      beam_args: Beam's own options.

    Raises:
      ContractError: an embeddings file is altered, items were lost, or `build.representatives` were made from other items.
      DuplicateIdError: one id, two items.
      RejectedError: too many bad vectors. SimpipeError: nothing to index.
    """
    from pipelines import graphs
    from simpipe.beam.build import work_files
    from simpipe.beam.io import check_rejects, read_summary
    from simpipe.beam.options import run_graph

    info = EmbeddingsInfo.load(embeddings)
    inputs = info.of_splits(*INDEXED_SPLITS)
    total = sum(file.rows for file in inputs)
    if total == 0:
        raise SimpipeError(f"{embeddings}: no items to index", "lower queries.fraction, widen classes.index, or add data")
    groups = _groups(config)
    folder = releases.start_release(root, key)
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    kept = max(1, total - groups.excluded) if groups else total
    plan = make_plan(config, info, embeddings=embeddings, folder=folder, work=work, total=kept)
    asked = getattr(config.build.router, "partitions", None) or 1
    pieces = len(plan.files) + asked + plan.route.store_files
    with watching("build", lambda: work_files(plan), pieces, "parts"):
        run_graph(graphs.build(config, plan), job_of(config, "build", beam_args))
    routed, built, stored = (read_summary(work / f"{name}.json") for name in ("route", "partitions", "store"))
    check_rejects(routed, max_share=config.build.rejects.max_share, step="build", folder=folder, field="build.rejects.max_share")
    if stored.counts.rejected:
        files.remove_folder(folder)
        raise _duplicates(config, stored)
    if groups is not None:
        _check_groups(groups, routed, folder=folder, source=str(plan.groups))
    items = routed.counts.written
    rows = items + sum(record["copies"] for record in routed.records)
    if routed.counts.read != total or built.counts.written != rows or stored.counts.written != items:
        left_out = f"{routed.counts.excluded} left out, " if groups else ""
        raise ContractError(
            f"{folder}: {total} embeddings, {routed.counts.read} read, {items} routed, {left_out}{built.counts.written} of "
            f"{rows} rows in partitions, {stored.counts.written} in the store",
            "items were lost or doubled by the runner: build again, and report the runner",
        )
    parts = [*built.records, *stored.records]
    provenance: dict[str, Any] = {"embeddings": info.key, "made": made_by("build")}
    if groups is not None:
        about = {"groups": groups.key, "release": groups.release, "excluded": routed.counts.excluded}
        provenance["representatives"] = about
    return folder, _finish(
        config, info, plan=plan, parts=parts, encoder=encoder, root=root, key=key, items=items, provenance=provenance
    )


def groups_folder(config: Config) -> Path | None:
    """The folder of `build.representatives`."""
    return None if config.build.representatives is None else files.located(config.build.representatives).resolve()


def _groups(config: Config) -> GroupsInfo | None:
    """The groups whose representatives are indexed alone.

    Raises:
      ContractError: they are missing or altered.
    """
    source = groups_folder(config)
    if source is None:
        return None
    groups = GroupsInfo.load(source)
    for file in groups.files:
        files.verify(files.inside(source, file.path), files.FileEntry(file.path, file.size, file.sha256))
    return groups


def _check_groups(groups: GroupsInfo, routed: Any, *, folder: Path, source: str) -> None:
    """Refuses groups with members that were not met: another item might be left out without its representative."""
    excluded = groups.excluded - routed.counts.excluded
    represents = groups.counts["groups"] - sum(record["representatives"] for record in routed.records)
    if not excluded and not represents:
        return
    files.remove_folder(folder)
    raise ContractError(
        f"{source}: made from other items: {excluded:,} of {groups.excluded:,} near duplicates and {represents:,} of "
        f"{groups.counts['groups']:,} representatives are not among these embeddings",
        _OTHER_ITEMS,
    )


def _duplicates(config: Config, stored: Any) -> DuplicateIdError:
    """The error for ids that come twice; for ready-made vectors it names the rows of the user's own files."""
    lines = [reject.reason for reject in stored.rejects[:5]]
    if isinstance(config.source, VectorsSource):
        wanted = [reject.id for reject in stored.rejects[:5]]
        lines = [f"id {name!r} stands at {' and at '.join(places)}" for name, places in find_ids(config.source, wanted).items()]
    return DuplicateIdError(
        f"{stored.counts.rejected} rows have the id of another one\n  " + "\n  ".join(lines),
        "give every item an id of its own, or drop the repeated rows",
    )


def make_plan(config: Config, info: EmbeddingsInfo, *, embeddings: Path, folder: Path, work: Path, total: int) -> BuildPlan:
    """The plan that all workers share."""
    build, router = config.build, config.build.router
    profile = build.profile
    indexed, queries = info.of_splits(*INDEXED_SPLITS), info.of_splits("query")
    held_out = sum(file.rows for file in queries)
    # Hash routing learns nothing; its sample serves the search profile only, where there are too few held-out queries.
    wanted = max(getattr(router, "sample", 0), 2 * profile.queries)
    column = router.column if router.kind == "column" else None
    if column is not None and column not in info.metadata:
        known = ", ".join(info.metadata) or "none"
        raise ConfigError(f"build.router.column: {column!r} is no metadata column of the embeddings", f"there are: {known}")
    return BuildPlan(
        files=tuple(str(files.inside(embeddings, file.path)) for file in indexed),
        query_files=tuple(str(files.inside(embeddings, file.path)) for file in queries),
        checksums=tuple((file.size, file.sha256) for file in (*indexed, *queries)),
        folder=str(folder),
        work=str(work),
        route=RouteSpec(info.dim, info.distance, 1, build.store_files, info.metadata, column),
        router=router,
        backend=build.backend,
        storage=build.storage,
        profile=profile,
        items=total,
        memory_mib=build.partition_memory_mib,
        workers=build.workers,
        sample_share=min(1.0, wanted / total),
        # A few more than needed: ids decide, and their hashes fall as they fall.
        probe_share=min(1.0, 1.2 * profile.queries / held_out) if held_out else 0.0,
        seed=config.seed,
        groups=str(source) if (source := groups_folder(config)) else None,
    )


def _finish(
    config: Config,
    info: EmbeddingsInfo,
    *,
    plan: BuildPlan,
    parts: list[dict[str, Any]],
    encoder: Path | None,
    root: Path,
    key: str,
    items: int,
    provenance: dict[str, Any],
) -> Manifest:
    """Lists every file with size and checksum, and writes the manifest, which makes the release exist."""
    folder, work = files.located(plan.folder), files.located(plan.work)
    router = files.read_json(work / PLAN_JSON)
    rows = [part["rows"] for part in parts if "partition" in part]
    written = [ROUTER_FILE, *_profile(plan, len(rows))]
    router["trained"] = trained(folder, rows=rows, items=items, target=config.search.target_recall)
    files.remove_folder(work)
    # Workers computed the checksums of what they wrote.
    entries = [
        *(files.entry_of(folder / name, folder).to_json() for name in written),
        *(e for part in parts for e in part["files"]),
    ]
    listed = sorted(entries, key=lambda entry: entry["path"])
    records = sorted((part for part in parts if "partition" in part), key=lambda record: record["partition"])
    partitions = [ManifestPartition(**{name: record[name] for name in ManifestPartition.model_fields}) for record in records]
    where = encoder.relative_to(root).as_posix() if encoder is not None else None
    manifest = Manifest(
        release=folder.name,
        created_at=releases.now(),
        simpipe_version=__version__,
        dim=info.dim,
        distance=info.distance,
        encoder=ManifestEncoder(fingerprint=info.encoder, folder=where if info.encoder != NO_ENCODER else None),
        items=items,
        metadata=info.metadata,
        partitions=tuple(partitions),
        store_files=plan.route.store_files,
        backend=config.build.backend.model_dump(mode="json"),
        storage=config.build.storage,
        router=router,
        search=config.search.model_dump(mode="json"),
        config=config.model_dump(mode="json"),
        provenance=provenance,
        steps={"build": key},
        files=tuple(ManifestFile(**entry) for entry in listed),
    )
    manifest.save(folder)
    (folder / releases.BUILD_JSON).unlink(missing_ok=True)
    return manifest


def _profile(plan: BuildPlan, partitions: int) -> list[str]:
    """Puts the partitions' measures together to the release's search profile.

    Returns:
      Its file and those it was made from, with which a re-index measures only what it rebuilds; none without a profile.
    """
    folder = files.located(plan.folder)
    if not (folder / PROBE_FILE).exists():
        return []
    probe, paths = Probe.load(folder / PROBE_FILE), [measure_file(number) for number in range(partitions)]
    profile = make_profile([PartitionMeasure.load(folder / path) for path in paths], probe, targets=plan.profile.targets)
    if profile is None:
        files.remove_folder((folder / paths[0]).parent)
        (folder / PROBE_FILE).unlink()
        return []
    profile.save(folder / PROFILE_JSON)
    return [PROFILE_JSON, PROBE_FILE, *paths]


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["build", *sys.argv[1:]]))
