"""Makes a new release from the live one and what changed since: only the partitions and store files that changes touch are built.

Run by `simpipe reindex`; see pipelines/reindex.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import __version__, files, releases
from simpipe.config import Config
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.errors import ContractError, DuplicateIdError
from simpipe.grouped import count_groups, read_group
from simpipe.index.hidden import hidden_file
from simpipe.index.partitions import partition_folder
from simpipe.index.planner import bytes_a_row
from simpipe.index.route import RouteSpec
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest, ManifestFile, ManifestPartition, made_by
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.plan import PartitionWork, RebuildPlan, plan_rebuild
from simpipe.reindex.rebuild import kept_rows
from simpipe.reindex.rebuild_work import WORK_ROUTER, RebuildSpec, duplicates_of, hide_rows, write_dropped_ids
from simpipe.types import INDEXED_SPLITS

_CARRIED = ("partitions/", "hidden/", "store/", "digests/", "measures/")
_KEPT_FILES = (ROUTER_FILE, "profile.json", "probe.npz")
_LOST = "items were lost or doubled by the runner: run again, and report the runner"


@dataclass(frozen=True)
class RetrainNeeded:
    """Nothing was built: the router should be trained anew, and why."""

    reason: str


def run(
    config: Config,
    *,
    root: Path,
    base: Path,
    manifest: Manifest,
    delta: Path,
    key: str,
    reasons: Sequence[str] = (),
    beam_args: Sequence[str] = (),
) -> tuple[Path, Manifest] | RetrainNeeded:
    """Rebuilds what changed; all other files are carried over by reference.

    Args:
      config: the line's configuration. root: where releases live.
      base: the live release's folder. manifest: its manifest.
      delta: an embeddings data set with `changes.json`: items that were added or changed, and what goes.
      key: what the release is made from; an unfinished release of the same key is continued.
      reasons: for the provenance. beam_args: Beam's own options.

    Returns:
      The new release; or why the router should be trained anew, and then nothing was built.

    Raises:
      ContractError: an altered file, changes that belong to another release, or items were lost.
      DuplicateIdError: one id, two items. RejectedError: too many bad vectors.
    """
    info, changes = EmbeddingsInfo.load(delta), ChangesInfo.load(delta)
    _check(config, info, changes, manifest)
    folder = releases.start_release(root, key)
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    job = _Rebuild(config, base, manifest, delta, info, changes, folder, tuple(beam_args))
    made = job.run(key, list(reasons)) if changes.items.any else job.carry_all(key, list(reasons))
    if isinstance(made, RetrainNeeded):
        shutil.rmtree(folder)
        return made
    return folder, made


def _check(config: Config, info: EmbeddingsInfo, changes: ChangesInfo, manifest: Manifest) -> None:
    """Refuses a delta or a configuration that does not go with the live release."""
    said = {"dim": info.dim, "distance": info.distance, "encoder": info.encoder, "metadata": sorted(info.metadata)}
    held: dict[str, Any] = {"dim": manifest.dim, "distance": manifest.distance, "metadata": sorted(manifest.metadata)}
    held |= {"encoder": manifest.encoder.fingerprint, "backend": manifest.backend, "storage": manifest.storage}
    held |= {"base": manifest.release, "store files": manifest.store_files}
    build = config.build
    said |= {"backend": build.backend.model_dump(mode="json"), "storage": build.storage}
    said |= {"base": changes.base, "store files": len(changes.files)}
    for name, value in said.items():
        if value != held[name]:
            message = f"{name} of the changes is {value}, release {manifest.release} has {held[name]}"
            raise ContractError(message, "run `simpipe reindex` again, or `simpipe run` once")


@dataclass
class _Rebuild:
    """One rebuild of `manifest`, the live release in `base`, into `folder`."""

    config: Config
    base: Path
    manifest: Manifest
    delta: Path
    info: EmbeddingsInfo
    changes: ChangesInfo
    folder: Path
    beam_args: tuple[str, ...]

    def __post_init__(self) -> None:
        self.searcher = Searcher(self.base, self.manifest)
        self.work = self.folder / ".work"
        listed = [file for file in self.info.of_splits(*INDEXED_SPLITS) if file.rows]
        router = self.manifest.router
        column = router.get("column") if router.get("kind") == "column" else None
        self.spec = RebuildSpec(
            base=str(self.base.resolve()),
            delta=str(self.delta),
            files=tuple(str(files.inside(self.delta, file.path)) for file in listed),
            checksums=tuple((file.size, file.sha256) for file in listed),
            folder=str(self.folder),
            work=str(self.work),
            route=RouteSpec(
                self.manifest.dim,
                self.manifest.distance,
                len(self.manifest.partitions),
                self.manifest.store_files,
                self.manifest.metadata,
                column,
            ),
            backend=self.config.build.backend,
            storage=self.config.build.storage,
        )

    # --- the stages ------------------------------------------------------------------------------------------------

    def run(self, key: str, reasons: list[str]) -> Manifest | RetrainNeeded:
        from simpipe.beam.io import check_rejects
        from simpipe.beam.rebuild import LocateDropped, RebuildTouched, RouteDelta

        self._set_router(self.searcher.router)
        ids, buckets = write_dropped_ids(self.spec, self.changes)
        gone, routed = self._graph(
            {"dropped": LocateDropped(self.spec, len(self.manifest.partitions)), "route": RouteDelta(self.spec)}
        )
        unknown = [record["unknown"] for record in routed.records if "unknown" in record]
        if unknown:
            return RetrainNeeded(f"{self.spec.route.column} has a new value, {unknown[0]!r}")
        self._check_rejects(check_rejects, routed)
        dropped = np.zeros(len(self.manifest.partitions), np.int64)
        for record in gone.records:
            dropped[record["partition"]] = record["rows"]
        plan = self._plan(dropped)
        if plan.retrain is not None:
            return RetrainNeeded(plan.retrain)
        if plan.router is not self.searcher.router:
            self._set_router(plan.router)
            (routed,) = self._graph({"route": RouteDelta(self.spec)})
            plan = plan.with_added(self._added())
        emptied = tuple(PartitionWork(number, ()) for number in plan.emptied)
        plan = replace(plan, work=tuple(sorted([*plan.work, *emptied], key=lambda each: each.partition)))
        if plan.split or plan.merged:  # items moved whose ids may be in any store file
            buckets = tuple(range(self.manifest.store_files))
        built, stored = self._graph({"": RebuildTouched(self.spec, plan.work, self.changes, buckets)}, ("partitions", "store"))
        self._check_duplicates(stored.records)
        hidden = {number: hide_rows(self.spec, self.searcher, number) for number in plan.hidden}
        items = self._reconcile(plan, dropped, ids=ids, routed=routed, built=built, stored=stored, hidden=hidden)
        return self._finish(
            key, reasons, items=items, plan=plan, built=built.records, stored=stored.records,
            hidden=hidden, rejected=routed.counts.rejected,
        )  # fmt: skip

    def carry_all(self, key: str, reasons: list[str]) -> Manifest:
        """A release of the same items, where only queries changed."""
        plan = RebuildPlan(len(self.manifest.partitions), self.searcher.router, ())
        return self._finish(
            key, reasons, items=self.manifest.items, plan=plan, built=(), stored=(), hidden={}, rejected=0
        )  # fmt: skip

    def _set_router(self, router: Router) -> None:
        router.save(self.work / WORK_ROUTER)
        self.spec = replace(self.spec, route=replace(self.spec.route, partitions=router.partitions))

    def _graph(self, transforms: dict[str, Any], summaries: Sequence[str] = ()) -> list[Any]:
        """Runs transforms in one graph; what their summaries say."""
        from simpipe.beam.io import read_summary
        from simpipe.beam.options import run_graph

        def graph(pipeline: Any) -> None:
            for name, transform in transforms.items():
                _ = pipeline | f"{type(transform).__name__} {name}".strip() >> transform

        run_graph(graph, self.beam_args, job_name=f"simpipe-rebuild-{self.config.name}")
        return [read_summary(self.work / f"{name}.json") for name in summaries or transforms]

    def _plan(self, dropped: np.ndarray) -> RebuildPlan:
        about, build = self.manifest.partitions, self.config.build
        return plan_rebuild(
            self.searcher.router,
            rows=np.array([part.rows for part in about], np.int64),
            hidden=np.array([part.hidden for part in about], np.int64),
            dropped=dropped,
            added=self._added(),
            vectors_of=self._vectors_of,
            config=self.config.reindex,
            balance=trained_balance(self.manifest),
            cap_rows=max(1, (build.partition_memory_mib << 20) // bytes_a_row(build.backend, self.manifest.dim)),
        )

    def _added(self) -> np.ndarray:
        return count_groups(self.spec.grouped("route"), self.spec.route.partitions)

    def _vectors_of(self, number: int) -> np.ndarray:
        """The rows that a partition would have: float32[n, dim]."""
        kept = kept_rows(self.searcher, number, self.spec.dropped(number))
        stays = self.searcher.stored_vectors(number)[kept]
        fresh = read_group(self.spec.grouped("route"), number, self.spec.route.partitions) if self.spec.files else None
        return stays if fresh is None else np.concatenate([stays, vectors_of(fresh)])

    # --- checks ----------------------------------------------------------------------------------------------------

    def _check_rejects(self, check_rejects: Any, routed: Any) -> None:
        share = self.config.build.rejects.max_share
        check_rejects(routed, max_share=share, step="reindex", folder=self.folder, field="build.rejects.max_share")

    def _check_duplicates(self, records: Sequence[dict[str, Any]]) -> None:
        duplicates = duplicates_of(records)
        if duplicates:
            shutil.rmtree(self.folder)
            raise DuplicateIdError(
                f"{len(duplicates)} rows have the id of another one\n  " + "\n  ".join(each.reason for each in duplicates[:5]),
                "give every item an id of its own, or drop the repeated rows",
            )

    def _reconcile(
        self, plan: RebuildPlan, dropped: np.ndarray, *, ids: int, routed: Any, built: Any, stored: Any, hidden: dict[int, Any]
    ) -> int:
        """The number of items of the new release, after stores and partitions were found to agree with it."""
        added, copies = routed.counts.written, sum(record["copies"] for record in routed.records)
        items = self.manifest.items - ids + added
        in_store = [sum(record[name] for record in stored.records) for name in ("added", "dropped")]
        doubled = sum(record["doubled"] for record in built.records)
        before = sum(part.live for part in self.manifest.partitions)
        anew = {record["partition"] for record in built.records}
        live = built.counts.written
        for part in self.manifest.partitions:
            if part.partition not in anew:
                live += part.rows - hidden[part.partition][0] if part.partition in hidden else part.live
        wanted = before - int(dropped.sum()) + added + copies - doubled
        lost = [number for number in np.flatnonzero(dropped).tolist() if number not in {*hidden, *_sources(plan)}]
        if in_store != [added, ids] or live != wanted or live < items or lost:
            raise ContractError(
                f"{self.folder}: {self.manifest.items} items before, {ids} went and {added} came; the store says "
                f"{in_store[1]} and {in_store[0]}; partitions hold {live} rows instead of {wanted}",
                _LOST,
            )
        return items

    # --- the manifest ----------------------------------------------------------------------------------------------

    def _finish(
        self,
        key: str,
        reasons: list[str],
        *,
        items: int,
        plan: RebuildPlan,
        built: Sequence[dict[str, Any]],
        stored: Sequence[dict[str, Any]],
        hidden: dict[int, tuple[int, dict[str, Any]]],
        rejected: int,
    ) -> Manifest:
        """Lists every file, its own or carried over, and writes the manifest, which makes the release exist."""
        folder, base = self.folder, self.manifest
        entries = [entry for record in (*built, *stored) for entry in record["files"]] + [entry for _, entry in hidden.values()]
        if plan.router is not self.searcher.router:
            plan.router.save(folder / ROUTER_FILE)
            entries.append(files.entry_of(folder / ROUTER_FILE, folder).to_json())
        shutil.rmtree(self.work)
        own = {entry["path"]: ManifestFile(**entry) for entry in entries}
        anew = {record["partition"] for record in built}
        replaced = tuple(f"{partition_folder(number)}/" for number in anew)
        left_out = {hidden_file(number) for number in anew}
        carried = [
            entry.model_copy(update={"release": entry.release or base.release})
            for entry in base.files
            if entry.path.startswith(_CARRIED) or entry.path in _KEPT_FILES
            if entry.path not in own and entry.path not in left_out and not entry.path.startswith(replaced)
        ]
        about = {part.partition: part for part in base.partitions}
        for record in built:
            about[record["partition"]] = ManifestPartition(**{name: record[name] for name in ManifestPartition.model_fields})
        for number, (count, _) in hidden.items():
            about[number] = about[number].model_copy(update={"hidden": count})
        manifest = base.model_copy(
            update={
                "format_version": Manifest.model_fields["format_version"].default,
                "release": folder.name,
                "created_at": releases.now(),
                "simpipe_version": __version__,
                "items": items,
                "partitions": tuple(about[number] for number in range(plan.partitions)),
                "router": {**base.router, "partitions": plan.partitions} if "partitions" in base.router else base.router,
                "search": self.config.search.model_dump(mode="json"),
                "config": self.config.model_dump(mode="json"),
                "provenance": self._provenance(plan, len(anew), len(hidden), reasons, rejected),
                "steps": {"build": key},
                "parents": tuple(sorted({entry.release for entry in carried if entry.release})),
                "files": tuple(sorted([*own.values(), *carried], key=lambda entry: entry.path)),
            }
        )
        manifest.save(folder)
        (folder / releases.BUILD_JSON).unlink(missing_ok=True)
        return manifest

    def _provenance(self, plan: RebuildPlan, rebuilt: int, hidden: int, reasons: list[str], rejected: int) -> dict[str, Any]:
        counts = {"total": plan.partitions, "rebuilt": rebuilt, "carried": plan.partitions - rebuilt - hidden}
        counts |= {"hidden_only": hidden, "split": len(plan.split), "merged": len(plan.merged)}
        about = {
            "base": self.manifest.release,
            "items": self.changes.items.model_dump(),
            "queries": self.changes.queries.model_dump(),
            "partitions": counts,
            "rejected": rejected,
            "balance": trained_balance(self.manifest),
            "retrained": False,
            "reasons": reasons,
        }
        return {"embeddings": self.info.key, "reindex": about, "made": made_by("reindex")}


def trained_balance(manifest: Manifest) -> float:
    """The largest partition over the mean, when the release's router was trained."""
    known = manifest.provenance.get("reindex", {}).get("balance")
    if known is not None:
        return float(known)
    rows = np.array([part.live for part in manifest.partitions if part.live])
    return round(float(rows.max() / rows.mean()), 4) if len(rows) else 1.0


def _sources(plan: RebuildPlan) -> set[int]:
    return {source for each in plan.work for source in each.sources}
