"""Plans as the verbs make them, made up for a number of items: what the dry run translates. No data is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import graphs
from pipelines.build import make_plan
from simpipe import dedupe, files
from simpipe.beam.calibrate import CollectCalibration
from simpipe.beam.dedupe import CollectEdges
from simpipe.beam.embed import EmbedItem
from simpipe.beam.evaluate import CollectMetrics
from simpipe.beam.unload import UnloadSpec
from simpipe.build import BuildPlan
from simpipe.calibration.counts import LABEL, CountSpec
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.config.runner import JobVerb
from simpipe.data.examples import DatasetInfo, InputSpec, ShardInfo, ShardStatistics, SidecarInfo, shard_name
from simpipe.data.shards import ShardRules
from simpipe.data.sources import SourceBlock
from simpipe.data.vectors import BLOCK_ROWS, VectorBlock, VectorPlan
from simpipe.digests import digests_file
from simpipe.embed import EmbedSpec
from simpipe.embeddings import EmbeddingsFile, EmbeddingsInfo, row_group_rows
from simpipe.evaluators import EvaluationRules
from simpipe.import_vectors import ImportSpec, named_classes
from simpipe.index.query import QueryPlan, QuerySpec, cut_job
from simpipe.plan.shape import Shape, shape_of
from simpipe.plan.workload import Workload
from simpipe.query_answers import AnswerTable
from simpipe.query_files import cut_sources
from simpipe.reindex.changes import ChangeCounts, ChangesFile, ChangesInfo, changes_file
from simpipe.reindex.detect import ChangesPlan
from simpipe.reindex.embed_changes import Part
from simpipe.reindex.plan import PartitionWork
from simpipe.reindex.rebuild_work import RebuildSpec
from simpipe.reindex.units import ClassFilter, ExampleUnits, ShardUnit, Units, VectorUnits
from simpipe.types import INDEXED_SPLITS, SPLITS

_SUM = "0" * 64
_IMAGE = (64, 64, 3)
_MOST_CLASSES = 10_000
_RELEASE = "20260101T000000Z-dry-run"
_PAIR_BLOCK = dedupe.BLOCK


@dataclass(frozen=True)
class DryJob:
    """A job that the line could run: what it does, the verb whose workers it takes, and its graph."""

    title: str
    verb: JobVerb
    graph: graphs.Graph


@dataclass(frozen=True)
class DryPlans:
    """All jobs of a configuration, at a number of items. `dim`: of ready-made vectors; encoders have their own."""

    config: Config
    items: int
    dim: int = 128
    classes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", min(_MOST_CLASSES, max(2, self.items // 100)))

    @cached_property
    def shape(self) -> Shape:
        """How many of each there are."""
        dim = self.dim if self._ready else self.config.train.encoder.dim
        return shape_of(self.config, Workload(self.items, dim, None if self._ready else _IMAGE))

    def jobs(self) -> Iterator[DryJob]:
        """Every job of every verb that this configuration can run, in the order of the line."""
        if isinstance(self.config.source, VectorsSource):
            yield DryJob("import", "import", self._import(self.config.source))
        else:
            yield DryJob("shard", "shard", self._shard())
            yield DryJob("embed", "embed", self._embed())
        yield DryJob("build", "build", graphs.build(self.config, self._build_plan))
        yield DryJob("calibrate", "calibrate", self._asked("calibrate", self._calibration()))
        yield DryJob("evaluate", "evaluate", self._asked("evaluate", self._evaluation()))
        yield DryJob("dedupe", "dedupe", self._asked("dedupe", CollectEdges(0.1, str(self._work), f"{self._work}/pairs.json")))
        yield DryJob("dedupe: group", "dedupe", self._grouping())
        for verb, table in (("lookup", AnswerTable()), ("match", AnswerTable("matches"))):
            spec, plan = self._queries(10, self._files("queries", self.items), work=self._work)
            yield DryJob(verb, verb, graphs.answer(spec, self._partitions, plan, table))  # type: ignore[arg-type]
        yield DryJob("reindex: find changes", "reindex", graphs.find_changes(self._units, self._changes_plan))
        parts = [
            Part(unit, 1000, 100, shard_name("index", unit, self._unit_count, ".parquet"), None)
            for unit in range(self._unit_count)
        ]
        yield DryJob("reindex: embed changes", "embed", graphs.embed_changes(parts, self._units, self._changes_plan))
        route = graphs.route_changes(self._rebuild_spec, self.shape.partitions)
        yield DryJob("reindex: route changes", "build", lambda pipeline: pipeline | route)
        touched = tuple(PartitionWork(number, (number,)) for number in self._partitions)
        stores = tuple(range(self.shape.store_files))
        rebuild = graphs.rebuild(self.config, self._rebuild_spec, touched, self._changes, stores)
        yield DryJob("reindex: rebuild", "build", lambda pipeline: pipeline | rebuild)
        names = tuple(shard_name("index", number, self.shape.store_files, ".parquet") for number in stores)
        unload = UnloadSpec(str(self._release), str(self._root / "unload"), names, str(self._root / "delta"), self._changes)
        yield DryJob("reindex: unload", "reindex", graphs.unload(unload))

    # --- where things lie ------------------------------------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        return isinstance(self.config.source, VectorsSource)

    @property
    def _root(self) -> Path:
        return files.located(self.config.root)

    @property
    def _release(self) -> Path:
        return self._root / "releases" / _RELEASE

    @property
    def _work(self) -> Path:
        return self._release / ".work"

    @property
    def _partitions(self) -> tuple[int, ...]:
        return tuple(range(self.shape.partitions))

    # --- examples and embeddings -----------------------------------------------------------------------------------

    @cached_property
    def _rules(self) -> ShardRules:
        shard = self.config.shard
        blocks = math.ceil(self.items / shard.block_rows)
        given = InputSpec(name="image", shape=_IMAGE, dtype="uint8", encoding="image")
        return ShardRules(blocks, shard.num_shards, shard.compression, self.config.queries.fraction, self.config.seed, given)

    def _shard(self) -> graphs.Graph:
        rows = self.config.shard.block_rows
        blocks = [
            SourceBlock(number, f"{self._root}/source/file-{number:06d}.parquet", number * rows, (number + 1) * rows)
            for number in range(self._rules.num_blocks)
        ]
        return graphs.shard(self.config, blocks, self._rules, work=self._root / "examples/.work", folder=self._root / "examples")

    def _shard_info(self, split: str, number: int) -> ShardInfo:
        """A shard of a split, as it travels: see `ShardInfo.bare`."""
        shards = self.config.shard.num_shards
        rows = max(1, self.items // (3 * shards))
        path = shard_name(split, number, shards, self._rules.suffix)
        some = {"smallest_class": 1, "largest_class": rows, "shortest_record": 1, "longest_record": 4096}
        return ShardInfo(
            path=path, size=rows * 4096, sha256=_SUM, num_examples=rows, class_blocks=((0, rows),),
            offsets=SidecarInfo(path=f"{path}.offsets.npy", size=8 * rows, sha256=_SUM),
            statistics=ShardStatistics(num_classes=self.classes, record_bytes=rows * 4096, **some),
        ).bare()  # fmt: skip

    @cached_property
    def _embed_spec(self) -> EmbedSpec:
        info = DatasetInfo(
            name=self.config.name, key=_SUM, input=self._rules.input,
            class_names=tuple(f"class-{number}" for number in range(self.classes)), train_classes=(), splits={},
            class_counts={}, num_shards=self.config.shard.num_shards, compression=self.config.shard.compression,
            seed=self.config.seed, counts={}, provenance={},
        )  # fmt: skip
        return EmbedSpec(info.without_shards(), self.shape.dim, "cosine", _SUM, self.config.embed.batch_size)

    @cached_property
    def _units_of_examples(self) -> tuple[ShardUnit, ...]:
        folder, shards = self._root / "examples", range(self.config.shard.num_shards)
        infos = [(split, self._shard_info(split, number)) for split in SPLITS for number in shards]
        return tuple(ShardUnit(str(folder / info.path), info, split) for split, info in infos)

    def _embed(self) -> graphs.Graph:
        items = [EmbedItem(unit.path, unit.info, unit.split, f"{unit.info.path}.parquet") for unit in self._units_of_examples]
        folder = self._root / "embeddings"
        encoder, summary = self._root / "encoder", folder / ".work" / "summary.json"
        return graphs.embed(items, self._embed_spec, encoder=encoder, folder=folder, summary=summary)

    @cached_property
    def _vectors(self) -> VectorPlan:
        source: Any = self.config.source
        blocks = tuple(
            VectorBlock(number, f"{source.path}/part-{number:05d}.parquet", 0, min(BLOCK_ROWS, self.items - first), 0)
            for number, first in enumerate(range(0, self.items, BLOCK_ROWS))
        )
        return VectorPlan(blocks, self.shape.dim, self.items, tuple(pa.field(name, pa.string()) for name in source.metadata))

    @property
    def _import_spec(self) -> ImportSpec:
        return ImportSpec(self.config.queries.fraction, self.config.seed, named_classes(self.config.classes.index))

    def _import(self, source: VectorsSource) -> graphs.Graph:
        folder = self._root / "embeddings"
        summary = folder / ".work" / "summary.json"
        return graphs.import_vectors(source, self._vectors, self._import_spec, folder=folder, summary=summary)

    @cached_property
    def _embeddings(self) -> EmbeddingsInfo:
        """Their files: one a block or shard and split."""
        shape, splits = self.shape, ("index", "query") if self._ready else SPLITS
        each = shape.blocks if self._ready else shape.shards
        rows = {"query": shape.held_out, "index": shape.indexed // (len(splits) - 1), "train": shape.indexed // 2}
        listed = tuple(
            EmbeddingsFile(
                path=shard_name(split, number, each, ".parquet"), split=split,  # type: ignore[arg-type]
                rows=max(1, rows[split] // each), size=1 << 24, sha256=_SUM,
            )
            for split in splits
            for number in range(each)
        )  # fmt: skip
        router = self.config.build.router
        names: list[str] = [*getattr(self.config.source, "metadata", ()), *([router.column] if router.kind == "column" else [])]
        return EmbeddingsInfo(
            key=_SUM, dim=shape.dim, distance="cosine", encoder=_SUM, metadata=tuple(dict.fromkeys(names)), files=listed,
            counts={}, provenance={},
        )  # fmt: skip

    @cached_property
    def _build_plan(self) -> BuildPlan:
        where = {"embeddings": self._root / "embeddings", "folder": self._release, "work": self._work}
        return make_plan(self.config, self._embeddings, total=self.shape.indexed, **where)

    # --- queries ---------------------------------------------------------------------------------------------------

    def _files(self, name: str, rows: int) -> list[tuple[str, int]]:
        """Files of queries and their rows."""
        return [
            (f"{self._root}/{name}/part-{number:05d}.parquet", min(BLOCK_ROWS, rows - first))
            for number, first in enumerate(range(0, max(rows, 1), BLOCK_ROWS))
        ]

    def _queries(self, k: int, listed: list[tuple[str, int]], **more: Any) -> tuple[QuerySpec, QueryPlan]:
        paths, group = tuple(path for path, _ in listed), row_group_rows(self.shape.dim)
        more = {name: str(value) for name, value in more.items()}
        spec = QuerySpec(str(self._release), paths, k, block=self.config.search.block, **more)
        groups = [[min(group, rows - first) for first in range(0, rows, group)] for _, rows in listed]
        return spec, cut_job(cut_sources(paths, groups, dim=self.shape.dim, block=spec.block), self._partitions)

    def _asked(self, verb: str, collect: Any) -> graphs.Graph:
        splits = INDEXED_SPLITS if verb == "dedupe" else ("query",)
        listed = [(f"{self._root}/embeddings/{file.path}", file.rows) for file in self._embeddings.of_splits(*splits)]
        spec, plan = self._queries(self.config.dedupe.k if verb == "dedupe" else 10, listed, work=self._work)
        return graphs.ask(spec, self._partitions, plan, collect)

    def _calibration(self) -> CollectCalibration:
        settings = self.config.calibrate
        matchers = ((settings.matcher, settings.k), *((each.matcher, each.k) for each in settings.matchers))
        spec = CountSpec(matchers, settings.by or LABEL, settings.max_distinct)
        return CollectCalibration(spec, f"{self._work}/labels.parquet", f"{self._work}/counts.npz")

    def _evaluation(self) -> CollectMetrics:
        settings = self.config.evaluate
        rules = EvaluationRules(k=settings.k, max_r=settings.max_r, slices=settings.slices, partitions=self.shape.partitions)
        return CollectMetrics(rules, f"{self._work}/label-items.parquet", str(self._work))

    def _grouping(self) -> graphs.Graph:
        """A step on buckets of pairs: two rows an item, as many buckets as `group_items` would make."""
        buckets = max(2, -(-2 * self.items // _PAIR_BLOCK))
        forest = [f"{self._work}/forest-{number:05d}.npy" for number in range(buckets)]
        step = functools.partial(dedupe._root_members, work=self._work, forest=forest, buckets=buckets)
        return graphs.buckets(step, buckets, self._work / "buckets.json")

    # --- re-index --------------------------------------------------------------------------------------------------

    @property
    def _unit_count(self) -> int:
        return len(self._vectors.blocks) if self._ready else len(self._units_of_examples)

    @cached_property
    def _units(self) -> Units:
        if isinstance(self.config.source, VectorsSource):
            return VectorUnits(self.config.source, self._vectors, self._import_spec)
        return ExampleUnits(self._units_of_examples, self._embed_spec, str(self._root / "encoder"), ClassFilter(None, True))

    @cached_property
    def _changes_plan(self) -> ChangesPlan:
        stores = self.shape.store_files
        queries = self._embeddings.of_splits("query")
        return ChangesPlan(
            folder=str(self._root / "delta"), work=str(self._root / "delta/.work"),
            digests=tuple(files.HashedFile(str(self._release / digests_file(n, stores)), 1 << 24, _SUM) for n in range(stores)),
            old_queries=tuple(files.HashedFile(f"{self._root}/embeddings/{file.path}", file.size, _SUM) for file in queries),
            units=tuple(f"unit-{number:05d}" for number in range(self._unit_count)),
            first=tuple(np.zeros(self._unit_count, int).tolist()), dropped=(), deltas=False,
        )  # fmt: skip

    @cached_property
    def _changes(self) -> ChangesInfo:
        stores, some = self.shape.store_files, ChangeCounts(changed=self.items // 100)
        listed = tuple(ChangesFile(path=changes_file(n, stores), size=1 << 20, sha256=_SUM) for n in range(stores))
        return ChangesInfo(base=_RELEASE, items=some, queries=ChangeCounts(), files=listed)

    @cached_property
    def _rebuild_spec(self) -> RebuildSpec:
        plan = self._build_plan
        listed = tuple(files.HashedFile(path, 1 << 24, _SUM) for path in plan.files)
        route = plan.route_into(self.shape.partitions)
        return RebuildSpec(
            str(self._release), str(self._root / "delta"), listed, str(self._release), str(self._work), route, plan.backend,
            plan.storage, measured=True,
        )  # fmt: skip
