"""The graph of every job, from what was planned for it. Verbs run them; the dry run translates them from made-up plans.

Each function returns what adds the transforms to a pipeline, `route_changes` and `rebuild` the transform itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from simpipe.beam.build import BuildRelease
from simpipe.beam.changes import EmbedChanges, FindChanges
from simpipe.beam.dataflow import build_hints
from simpipe.beam.dedupe import RunBuckets
from simpipe.beam.embed import EmbedItem, EmbedShards, ImportBlocks
from simpipe.beam.export import ExportItems, ExportSpec
from simpipe.beam.io import WriteSummary
from simpipe.beam.query import ANSWERED_JSON, AnswerFiles, CountAnswers, QueryRelease
from simpipe.beam.rebuild import FindChanges as RouteChanges
from simpipe.beam.rebuild import RebuildTouched
from simpipe.beam.shard import ShardExamples
from simpipe.beam.unload import UnloadItems, UnloadSpec
from simpipe.build import BuildPlan
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.data.shards import ShardRules
from simpipe.data.sources import SourceBlock
from simpipe.data.vectors import VectorPlan
from simpipe.embed import EmbedSpec
from simpipe.import_vectors import ImportSpec
from simpipe.index.planner import bytes_a_row
from simpipe.index.query import QueryPlan, QuerySpec
from simpipe.query_answers import AnswerTable
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.detect import ChangesPlan
from simpipe.reindex.embed_changes import Part
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.rebuild_work import RebuildSpec
from simpipe.reindex.units import Units

Graph = Callable[[beam.Pipeline], Any]


def shard(config: Config, blocks: Sequence[SourceBlock], rules: ShardRules, *, work: Path, folder: Path) -> Graph:
    """Source blocks to TFRecord shards."""
    transform = ShardExamples(config.source, list(blocks), config.classes, rules, str(work), str(folder))
    return lambda pipeline: pipeline | "ShardExamples" >> transform


def import_vectors(source: VectorsSource, plan: VectorPlan, spec: ImportSpec, *, folder: Path, summary: Path) -> Graph:
    """Blocks of ready-made vectors to embeddings."""

    def graph(pipeline: beam.Pipeline) -> None:
        blocks = pipeline | "Blocks" >> beam.Create(list(plan.blocks))
        _ = blocks | "ImportBlocks" >> ImportBlocks(source, plan, spec, str(folder)) | "Summary" >> WriteSummary(str(summary))

    return graph


def embed(items: Sequence[EmbedItem], spec: EmbedSpec, *, encoder: Path, folder: Path, summary: Path) -> Graph:
    """Shards through the encoder to embeddings."""

    def graph(pipeline: beam.Pipeline) -> None:
        outcomes = pipeline | "Shards" >> beam.Create(list(items)) | "EmbedShards" >> EmbedShards(spec, str(encoder), str(folder))
        _ = outcomes | "Summary" >> WriteSummary(str(summary))

    return graph


def build(config: Config, plan: BuildPlan) -> Graph:
    """Embeddings to the parts of a release."""
    row_bytes = bytes_a_row(plan.backend, plan.route.dim)
    hints = build_hints(config.runner, memory_mib=plan.memory_mib, items=plan.items, row_bytes=row_bytes)
    return lambda pipeline: pipeline | "BuildRelease" >> BuildRelease(plan, hints)


def ask(spec: QuerySpec, partitions: tuple[int, ...], plan: QueryPlan, collect: Any) -> Graph:
    """All queries of a data set; `collect`, a PTransform, consumes the answers."""

    def graph(pipeline: beam.Pipeline) -> None:
        answers = pipeline | "QueryRelease" >> QueryRelease(spec, partitions, plan)
        _ = answers | "Collect" >> collect
        _ = answers | "CountAnswers" >> CountAnswers(f"{spec.work}/{ANSWERED_JSON}")

    return graph


def answer(spec: QuerySpec, partitions: tuple[int, ...], plan: QueryPlan, table: AnswerTable) -> Graph:
    """Files of queries to files of answers."""
    return lambda pipeline: pipeline | "AnswerFiles" >> AnswerFiles(spec, partitions, plan, table)


def buckets(step: Callable[[int], int], count: int, summary: Path) -> Graph:
    """A step of grouping near duplicates, bucket by bucket."""
    return lambda pipeline: pipeline | "RunBuckets" >> RunBuckets(step, count, str(summary))


def find_changes(units: Units, plan: ChangesPlan) -> Graph:
    """The source against a release."""
    return lambda pipeline: pipeline | "FindChanges" >> FindChanges(units, plan)


def embed_changes(parts: Sequence[Part], units: Units, plan: ChangesPlan) -> Graph:
    """What was added or changed to embeddings."""
    return lambda pipeline: pipeline | "Parts" >> beam.Create(list(parts)) | "EmbedChanges" >> EmbedChanges(units, plan)


def route_changes(spec: RebuildSpec, partitions: int) -> beam.PTransform:
    """New items to partitions, and what goes from them; `partitions` 0: routes only."""
    return RouteChanges(spec, partitions)


def rebuild(
    config: Config, spec: RebuildSpec, work: tuple[PartitionWork, ...], changes: ChangesInfo, stores: tuple[int, ...]
) -> beam.PTransform:
    """The partitions and store files that changes touch."""
    build = config.build
    row_bytes = bytes_a_row(spec.backend, spec.route.dim)
    # How many rows a partition has is not known before it is read; none may take more than this.
    most = (build.partition_memory_mib << 20) // row_bytes
    hints = build_hints(config.runner, memory_mib=build.partition_memory_mib, items=most, row_bytes=row_bytes)
    return RebuildTouched(spec, work, changes, stores, hints)


def unload(spec: UnloadSpec) -> Graph:
    """The items of a release to an embeddings data set."""
    return lambda pipeline: pipeline | "UnloadItems" >> UnloadItems(spec)


def export(spec: ExportSpec) -> Graph:
    """The items of a release to files of other software."""
    return lambda pipeline: pipeline | "ExportItems" >> ExportItems(spec)
