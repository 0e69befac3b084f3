"""Sharding as a Beam graph: scan blocks, agree on classes, write shards. Elements are descriptors; rows travel in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsSingleton, PCollection, PValue

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.config.models import ClassLists, Source
from simpipe.data.shards import (
    ScanResult,
    ShardPlan,
    ShardResult,
    ShardRules,
    block_file,
    make_plan,
    scan_block,
    write_shard,
)
from simpipe.data.sources import ExampleSource, SourceBlock, open_source

SCAN_JSON, PLAN_JSON, WRITE_JSON = "scan.json", "plan.json", "write.json"


@dataclass
class ShardExamples(beam.PTransform):
    """The whole graph on a pipeline: blocks to shards, with the summaries `scan.json`, `plan.json` and `write.json` in `work`."""

    source: Source
    blocks: list[SourceBlock]
    classes: ClassLists
    rules: ShardRules
    work: str
    folder: str

    def expand(self, input_or_inputs: beam.Pipeline) -> PValue:
        scanned = (
            input_or_inputs
            | "Blocks" >> beam.Create(self.blocks, reshuffle=False)
            | "SpreadBlocks" >> beam.Reshuffle()
            | "ScanBlocks" >> ScanBlocks(self.source, self.work, self.folder, self.rules.num_shards)
        )
        _ = scanned | "ScanOutcomes" >> beam.Map(scan_outcome) | "WriteScan" >> WriteSummary(f"{self.work}/{SCAN_JSON}")
        plan: Any = (
            scanned | "SumLabels" >> beam.CombineGlobally(_SumLabels()) | "Plan" >> beam.Map(make_plan, classes=self.classes)
        )
        _ = plan | "WritePlan" >> beam.Map(_write_plan, path=f"{self.work}/{PLAN_JSON}")
        return (
            input_or_inputs
            | "Shards" >> beam.Create(range(self.rules.num_shards), reshuffle=False)
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> WriteShards(plan, self.rules, self.work, self.folder)
            | "ShardOutcomes" >> beam.Map(shard_outcome)
            | "WriteWritten" >> WriteSummary(f"{self.work}/{WRITE_JSON}")
        )


@dataclass
class ScanBlocks(beam.PTransform):
    """`SourceBlock` to `ScanResult`; see `scan_block`. Rejects go to `folder/rejects/`; the first few travel on."""

    source: Source
    work: str
    folder: str
    num_shards: int

    def expand(self, input_or_inputs: PCollection[SourceBlock]) -> PValue:
        return input_or_inputs | beam.ParDo(_ScanBlock(self.source, self.work, self.folder, self.num_shards))


@dataclass
class WriteShards(beam.PTransform):
    """Shard numbers to `ShardResult`; see `write_shard`. The plan is a side input: nothing is written before all is scanned."""

    plan: PCollection[ShardPlan]
    rules: ShardRules
    work: str
    folder: str

    def expand(self, input_or_inputs: PCollection[int]) -> PValue:
        return input_or_inputs | beam.ParDo(_WriteShard(self.rules, self.work, self.folder), plan=AsSingleton(self.plan))


class _ScanBlock(beam.DoFn):
    def __init__(self, source: Source, work: str, folder: str, num_shards: int) -> None:
        self._config, self._work, self._folder, self._num_shards = source, Path(work), Path(folder), num_shards
        self._source: ExampleSource | None = None
        self._in = Metrics.counter("simpipe", "in-items")
        self._rejected = Metrics.counter("simpipe", "rejected")
        self._bytes = Metrics.counter("simpipe", "scan-bytes")

    def setup(self) -> None:
        self._source = open_source(self._config)

    def process(self, block: SourceBlock) -> Iterable[ScanResult]:
        assert self._source is not None
        result = scan_block(self._source, block, work=self._work, num_shards=self._num_shards)
        write_rejects(self._folder, f"block-{block.index:05d}", result.rejects)
        self._in.inc(result.counts.read)
        self._rejected.inc(result.counts.rejected)
        self._bytes.inc(block_file(self._work, block.index).stat().st_size)
        yield ScanResult(result.index, result.counts, result.labels, result.unlabelled, result.rejects[:SHOWN_REJECTS])


class _WriteShard(beam.DoFn):
    def __init__(self, rules: ShardRules, work: str, folder: str) -> None:
        self._rules, self._work, self._folder = rules, Path(work), Path(folder)
        self._out = Metrics.counter("simpipe", "out-items")
        self._excluded = Metrics.counter("simpipe", "excluded")
        self._duplicates = Metrics.counter("simpipe", "duplicates")
        self._bytes = Metrics.counter("simpipe", "out-bytes")

    def process(self, index: int, plan: ShardPlan) -> Iterable[ShardResult]:
        if plan.problem:
            return
        result = write_shard(index, plan=plan, rules=self._rules, work=self._work, folder=self._folder)
        write_rejects(self._folder, f"shard-{index:05d}", result.rejects)
        self._out.inc(result.counts.written)
        self._excluded.inc(result.excluded)
        self._duplicates.inc(result.counts.rejected)
        self._bytes.inc(sum(shard.size for shard in result.shards.values()))
        yield ShardResult(result.index, result.counts, result.excluded, result.shards, result.rejects[:SHOWN_REJECTS])


class _SumLabels(beam.CombineFn):
    """Label counts of all blocks."""

    def create_accumulator(self) -> Counter[str]:
        return Counter()

    def add_input(self, mutable_accumulator: Counter[str], element: ScanResult) -> Counter[str]:
        mutable_accumulator.update(element.labels)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Counter[str]]) -> Counter[str]:
        total: Counter[str] = Counter()
        for part in accumulators:
            total.update(part)
        return total

    def extract_output(self, accumulator: Counter[str]) -> dict[str, int]:
        return dict(accumulator)


def scan_outcome(result: ScanResult) -> Outcome:
    """A block's counts; its descriptor names its file in the work folder."""
    return Outcome(
        result.counts, ({"path": block_file(Path(), result.index).name, "unlabelled": result.unlabelled},), result.rejects
    )


def shard_outcome(result: ShardResult) -> Outcome:
    """A shard's counts and a descriptor for each of its files; the first of them carries the number of excluded rows."""
    records: list[dict[str, Any]] = []
    for split, shard in result.shards.items():
        excluded = 0 if records else result.excluded
        records.append({**shard.model_dump(mode="json"), "split": split, "shard": result.index, "excluded": excluded})
    return Outcome(result.counts, tuple(records), result.rejects)


def _write_plan(plan: ShardPlan, path: str) -> None:
    files.write_json(Path(path), asdict(plan))


def read_plan(path: Path) -> ShardPlan:
    data: dict[str, Any] = files.read_json(path)
    lists = {name: tuple(data.pop(name)) for name in ("class_names", "trained", "indexed")}
    return ShardPlan(**lists, **data)
