"""Jobs over all queries, as the verbs run them: which queries, the graph, and the reconciliation of its counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.build import groups_folder
from simpipe import files, releases
from simpipe.arrow import pc
from simpipe.config import Config
from simpipe.config.index import RejectLimit
from simpipe.config.runner import JobVerb
from simpipe.embeddings import EmbeddingsFile, EmbeddingsInfo
from simpipe.errors import ContractError, IncompatibleError, SimpipeError
from simpipe.index.query import QueryPlan, QuerySpec, plan_job
from simpipe.index.searcher import Searcher
from simpipe.job import Job, job_of
from simpipe.leases import take_lease
from simpipe.manifest import Manifest
from simpipe.progress import watching
from simpipe.types import INDEXED_SPLITS, QUERY_SPLITS, Counts

if TYPE_CHECKING:
    from simpipe.beam.io import Outcome


def scratch(release: Path, step: str) -> Path:
    """An empty work folder beside the release; what a killed run left there goes."""
    work = release.parent / f".work-{release.name}-{step}"
    files.remove_folder(work)
    work.mkdir()
    return work


def label_items(release: Path, manifest: Manifest, *, at_least: int = 1) -> pa.Table:
    """Labels that at least so many indexed items carry, sorted: columns label, items. The store is read file by file."""
    counts = [pa.table({"label": pa.array([], pa.large_string()), "items": pa.array([], pa.int64())})]
    for entry in manifest.under("store"):
        column = pq.read_table(releases.verify_file(release, entry), columns=["label"]).column("label").drop_null()
        counted = column.value_counts()
        counts.append(pa.table({"label": counted.field("values").cast(pa.large_string()), "items": counted.field("counts")}))
    total = pa.concat_tables(counts).group_by("label").aggregate([("items", "sum")]).sort_by("label")
    return total.filter(pc.field("items_sum") >= at_least).rename_columns(["label", "items"])


def query_spec(
    config: Config,
    release: Path,
    manifest: Manifest,
    embeddings: Path,
    *,
    k: int,
    exact_k: int = 0,
    exact_queries: int | None = None,
    deep: int = 0,
    columns: Sequence[str] = (),
    names: Collection[str] = ("ids", "labels"),
    splits: Sequence[str] = QUERY_SPLITS["held_out"],
    max_queries: int | None = None,
) -> QuerySpec:
    """The job over splits of an embeddings data set, after checking that it fits the release.

    Args:
      splits: `query`; or those that are indexed, where items are the queries: each without its own entry.
      max_queries: about so many, drawn by the hash of the id; None: all.
      exact_queries: of these, about so many are searched exactly as well; None: all.
      k, exact_k, deep, columns, names: see `QuerySpec`.

    Raises:
      IncompatibleError: names both sides. SimpipeError: no queries. ContractError: an altered file.
    """
    info = EmbeddingsInfo.load(embeddings)
    for what, own, other in (
        ("encoder", manifest.encoder.fingerprint, info.encoder),
        ("dim", manifest.dim, info.dim),
        ("distance", manifest.distance, info.distance),
    ):
        if own != other:
            raise IncompatibleError(
                f"{embeddings}: {what} {str(other)[:12]}, release {manifest.release} has {str(own)[:12]}",
                "embed the queries with the release's encoder, or build a release from these embeddings",
            )
    listed = [file for file in info.of_splits(*splits) if file.rows]
    if not listed:
        what = "held-out queries" if tuple(splits) == QUERY_SPLITS["held_out"] else f"embeddings in {', '.join(splits)}"
        raise SimpipeError(f"{embeddings}: no {what}", "set queries.fraction above 0, or add data")
    total, groups = sum(file.rows for file in listed), groups_folder(config)
    asked = total if max_queries is None else min(total, max_queries)
    # As `lookup` will ask: the configuration may have changed since the build.
    setting = Searcher(release, manifest).setting_of(config.search.model_dump())
    return QuerySpec(
        str(release),
        tuple(_verified(embeddings, file) for file in listed),
        k,
        exact_k=exact_k,
        exact_share=1.0 if exact_queries is None else min(1.0, exact_queries / asked),
        deep=deep,
        block=config.search.block,
        columns=tuple(columns),
        names=frozenset(names),
        setting=setting,
        share=asked / total,
        groups=str(groups) if groups is not None and tuple(splits) == INDEXED_SPLITS else None,
    )


def _verified(embeddings: Path, file: EmbeddingsFile) -> str:
    path = files.inside(embeddings, file.path)
    files.verify(path, files.FileEntry(file.path, file.size, file.sha256))
    return str(path)


def run_queries(
    config: Config | None,
    spec: QuerySpec,
    *,
    manifest: Manifest,
    collect: Any,
    beam_args: Sequence[str],
    verb: JobVerb,
    rejects: RejectLimit | None = None,
    folder: Path | None = None,
) -> Counts:
    """Runs one job over all queries.

    Args:
      config: says where the job runs, and its `name` is the job's; None: in this process, and the release's.
      spec: the job; its `work` folder, or one beside the release, holds the files of the job. manifest: of the release.
      collect: a PTransform that consumes the answers.
      beam_args: Beam's own options. verb: for names.
      rejects: the largest share of rejected queries; None: no limit.
      folder: rejected queries are listed in `rejects/` there, where there are any; None: the verb's folder under the root.

    Returns:
      Queries read, answered (`written`), rejected, and not drawn (`excluded`).

    Raises:
      ContractError: a query was neither answered exactly once nor rejected.
      RejectedError: more were rejected than allowed; names the first of them.
    """
    from pipelines import graphs
    from simpipe.beam.io import check_rejects

    lease = take_lease(files.located(spec.release))  # workers take their own; this one spans them all, and the work folder
    work = scratch(files.located(spec.release), f"{verb}-queries") if not spec.work else files.located(spec.work)
    spec = replace(spec, work=str(work))
    partitions = partitions_of(manifest)
    plan = plan_job(spec, partitions, dim=manifest.dim)
    graph = graphs.ask(spec, partitions, plan, collect)
    job = job_of(config, verb, beam_args, name=config.name if config else manifest.release)
    try:
        prepared = run_planned(plan, graph, job, work=work)
        folder = folder or files.located(spec.release).parent.parent / verb
        files.remove_folder(folder / "rejects")
        if (work / "rejects").is_dir():
            files.copy_folder(work / "rejects", folder / "rejects")
        limit = rejects or RejectLimit(max_share=1.0)
        check_rejects(prepared, max_share=limit.max_share, step=verb, folder=folder, field=f"{verb}.rejects.max_share")
        return prepared.counts
    finally:
        files.remove_folder(work)
        if lease is not None:
            lease.close()


def partitions_of(manifest: Manifest) -> tuple[int, ...]:
    """Numbers of the partitions that hold items."""
    return tuple(part.partition for part in manifest.partitions if part.live)


def run_planned(plan: QueryPlan, graph: Callable[[Any], None], job: Job, *, work: Path) -> Outcome:
    """Runs the graph of a planned job, and reconciles what was read with what was answered.

    Returns:
      Counts of queries (`written`: answered; `excluded`: not drawn), and the first rejected ones.

    Raises:
      ContractError: a query was neither answered exactly once nor rejected.
    """
    from simpipe.beam.io import read_summary
    from simpipe.beam.options import run_graph
    from simpipe.beam.query import ANSWERED_JSON, PREPARED_JSON

    with watching(job.verb, lambda: len(list(work.glob("*.done"))), plan.pieces, "parts"):
        run_graph(graph, job)
    prepared, answered = (read_summary(work / name) for name in (PREPARED_JSON, ANSWERED_JSON))
    counts, found = prepared.counts, answered.counts.written
    if plan.rows != counts.read or counts.written != found:
        raise ContractError(
            f"{job.verb}: {plan.rows} queries in the files, {counts.read} read, {found} answered, {counts.rejected} rejected, "
            f"{counts.excluded} not drawn",
            "queries were lost or doubled by the runner: run the step again, and report the runner",
        )
    return prepared
