"""Makes a new release from the live one and what changed since: only the partitions and store files that changes touch are built.

Run by `simpipe reindex`; see pipelines/reindex.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files, releases
from simpipe.config import Config
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.errors import DuplicateIdError
from simpipe.grouped import count_groups, read_group
from simpipe.index.planner import bytes_a_row
from simpipe.index.profile import PROFILE_JSON
from simpipe.index.route import RouteSpec
from simpipe.index.router import ROUTER_FILE, Router
from simpipe.index.searcher import Searcher
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.plan import PartitionWork, RebuildPlan, plan_rebuild
from simpipe.reindex.profile import finish_profile, start_profile
from simpipe.reindex.rebuild import kept_rows
from simpipe.reindex.rebuild_release import Parts, check_delta, entries_of, new_manifest, reconcile, trained_balance
from simpipe.reindex.rebuild_work import WORK_ROUTER, RebuildSpec, duplicates_of, hide_rows, write_dropped_ids
from simpipe.types import INDEXED_SPLITS


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
    beam_args: Sequence[str] = (),
) -> tuple[Path, Manifest] | RetrainNeeded:
    """Rebuilds what changed; all other files are carried over by reference.

    Args:
      config: the line's configuration. root: where releases live.
      base: the live release's folder. manifest: its manifest.
      delta: an embeddings data set with `changes.json`: items that were added or changed, and what goes.
      key: what the release is made from; an unfinished release of the same key is continued.
      beam_args: Beam's own options.

    Returns:
      The new release; or why the router should be trained anew, and then nothing was built.

    Raises:
      ContractError: an altered file, changes that belong to another release, or items were lost.
      DuplicateIdError: one id, two items. RejectedError: too many bad vectors.
    """
    info, changes = EmbeddingsInfo.load(delta), ChangesInfo.load(delta)
    check_delta(config, info, changes, manifest)
    folder = releases.start_release(root, key)
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    job = _Rebuild(config, base, manifest, delta, info, changes, folder, tuple(beam_args))
    parts = job.run() if changes.items.any else job.carry_all()
    if isinstance(parts, RetrainNeeded):
        files.remove_folder(folder)
        return parts
    items = reconcile(manifest, parts, folder)
    # A profile that could not be put together again does not go with these partitions.
    unlisted = [PROFILE_JSON] if job.spec.measured and PROFILE_JSON not in {entry["path"] for entry in parts.others} else []
    made = new_manifest(
        config, manifest, folder, parts, key=key, items=items, embeddings=info.key, changes=changes,
        unlisted=unlisted,
    )  # fmt: skip
    files.remove_folder(work)
    made.save(folder)
    (folder / releases.BUILD_JSON).unlink(missing_ok=True)
    return folder, made


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
            files=tuple(files.HashedFile(str(files.inside(self.delta, file.path)), file.size, file.sha256) for file in listed),
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

    def run(self) -> Parts | RetrainNeeded:
        """Everything but the manifest."""
        from pipelines import graphs
        from simpipe.beam.io import check_rejects
        from simpipe.beam.rebuild import BUILT_JSON, FOUND_JSON

        self._set_router(self.searcher.router)
        ids, buckets = write_dropped_ids(self.spec, self.changes)
        found = self._graph(graphs.route_changes(self.spec, len(self.manifest.partitions)), FOUND_JSON)
        unknown = [record["unknown"] for record in found.records if "unknown" in record]
        if unknown:
            return RetrainNeeded(f"{self.spec.route.column} has a new value, {unknown[0]!r}")
        share = self.config.build.rejects.max_share
        check_rejects(found, max_share=share, step="reindex", folder=self.folder, field="build.rejects.max_share")
        dropped = np.zeros(len(self.manifest.partitions), np.int64)
        for record in found.records:
            if "dropped" in record:
                dropped[record["partition"]] = record["dropped"]
        plan = self._plan(dropped)
        if plan.retrain is not None:
            return RetrainNeeded(plan.retrain)
        if plan.router is not self.searcher.router:
            self._set_router(plan.router)
            if self.spec.files:
                found = self._graph(graphs.route_changes(self.spec, 0), FOUND_JSON)
                plan = plan.with_added(self._added())
        plan = _with_emptied(plan)
        if plan.split or plan.merged:  # items moved whose ids may be in any store file
            buckets = tuple(range(self.manifest.store_files))
        self.spec = replace(self.spec, measured=start_profile(self.searcher, plan.router, self.folder))
        graph = graphs.rebuild(self.config, self.spec, plan.work, self.changes, buckets)
        records = self._graph(graph, BUILT_JSON).records
        built, stored = ([each for each in records if ("partition" in each) is of] for of in (True, False))
        self._check_duplicates(stored)
        hidden = {number: hide_rows(self.spec, self.searcher, number) for number in plan.hidden}
        parts = Parts(
            plan=plan, dropped=dropped, ids=ids, added=found.counts.written,
            copies=sum(record.get("copies", 0) for record in found.records), rejected=found.counts.rejected,
            built=built, stored=stored, hidden=hidden,
        )  # fmt: skip
        return replace(parts, others=entries_of(self.folder, self._others(parts)))

    def _others(self, parts: Parts) -> list[str]:
        """Writes the router, where it is another one, and the search profile; what was written."""
        targets, plan = self.config.build.profile.targets, parts.plan
        written = finish_profile(
            self.searcher, self.folder, partitions=plan.partitions, rebuilt=parts.anew, targets=targets
        )  # fmt: skip
        if plan.router is not self.searcher.router:
            plan.router.save(self.folder / ROUTER_FILE)
            written.append(ROUTER_FILE)
        return written

    def carry_all(self) -> Parts:
        """Where only queries changed."""
        plan = RebuildPlan(len(self.manifest.partitions), self.searcher.router, ())
        return Parts(plan, np.zeros(plan.partitions, np.int64))

    def _set_router(self, router: Router) -> None:
        router.save(self.work / WORK_ROUTER)
        self.spec = replace(self.spec, route=replace(self.spec.route, partitions=router.partitions))

    def _graph(self, transform: Any, summary: str) -> Any:
        """Runs a graph; what its summary says."""
        from simpipe.beam.io import read_summary
        from simpipe.beam.options import run_graph

        def graph(pipeline: Any) -> None:
            _ = pipeline | transform

        run_graph(graph, job_of(self.config, "build", self.beam_args))
        return read_summary(self.work / summary)

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

    def _check_duplicates(self, records: Sequence[dict[str, Any]]) -> None:
        duplicates = duplicates_of(records)
        if duplicates:
            files.remove_folder(self.folder)
            raise DuplicateIdError(
                f"{len(duplicates)} rows have the id of another one\n  " + "\n  ".join(each.reason for each in duplicates[:5]),
                "give every item an id of its own, or drop the repeated rows",
            )


def _with_emptied(plan: RebuildPlan) -> RebuildPlan:
    """A plan that also builds what was merged away, without rows: every slot has files."""
    planned = {each.partition for each in plan.work}
    emptied = [PartitionWork(number, ()) for number in plan.emptied if number not in planned]
    return replace(plan, work=tuple(sorted([*plan.work, *emptied], key=lambda each: each.partition)))
