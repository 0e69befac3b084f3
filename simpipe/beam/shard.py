"""Sharding as a Beam graph: scan blocks, plan, fill buckets, write train shards.

Elements are descriptors; rows travel in files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, PValue

from simpipe import files
from simpipe.beam.io import SHOWN_REJECTS, Outcome, WriteSummary, write_rejects
from simpipe.beam.metrics import count, count_read, timed
from simpipe.config.models import ClassLists, Source
from simpipe.data.buckets import BucketResult, fill_bucket
from simpipe.data.shards import LabelCounts, ScanResult, ShardPlan, ShardRules, block_file, make_plan, scan_block
from simpipe.data.sources import ExampleSource, SourceBlock, open_source
from simpipe.data.train_shards import write_train_shard
from simpipe.types import Counts

SCAN_JSON, PLAN_JSON, BUCKETS_JSON, TRAIN_JSON = "scan.json", "plan.json", "buckets.json", "train.json"


@dataclass
class ShardExamples(beam.PTransform):
    """The whole graph on a pipeline: blocks to shards, and the summaries `*_JSON` in `work`."""

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
            | "ScanBlocks" >> ScanBlocks(self.source, self.rules, self.work, self.folder)
        )
        _ = scanned | "ScanOutcomes" >> beam.Map(scan_outcome) | "WriteScan" >> WriteSummary(f"{self.work}/{SCAN_JSON}")
        plan: Any = (
            scanned
            | "SumLabels" >> beam.CombineGlobally(_SumLabels())
            | "Plan" >> beam.Map(make_plan, classes=self.classes, rules=self.rules)
        )
        _ = plan | "WritePlan" >> beam.Map(_write_plan, path=f"{self.work}/{PLAN_JSON}")
        filled = (
            input_or_inputs
            | "Buckets" >> beam.Create(range(self.rules.num_shards), reshuffle=False)
            | "SpreadBuckets" >> beam.Reshuffle()
            | "FillBuckets" >> FillBuckets(plan, self.rules, self.work, self.folder)
        )
        _ = filled | "BucketOutcomes" >> beam.Map(bucket_outcome) | "WriteBuckets" >> WriteSummary(f"{self.work}/{BUCKETS_JSON}")
        duplicates: Any = (
            filled | "Duplicates" >> beam.Map(lambda result: result.counts.rejected) | "Sum" >> beam.CombineGlobally(sum)
        )
        return (
            input_or_inputs
            | "TrainShards" >> beam.Create(range(self.rules.num_shards), reshuffle=False)
            | "SpreadTrainShards" >> beam.Reshuffle()
            | "WriteTrainShards" >> WriteTrainShards(plan, duplicates, self.rules, self.work, self.folder)
            | "WriteTrain" >> WriteSummary(f"{self.work}/{TRAIN_JSON}")
        )


@dataclass
class ScanBlocks(beam.PTransform):
    """`SourceBlock` to `ScanResult`; see `scan_block`. Rejects go to `folder/rejects/`; the first few travel on."""

    source: Source
    rules: ShardRules
    work: str
    folder: str

    def expand(self, input_or_inputs: PCollection[SourceBlock]) -> PValue:
        return input_or_inputs | beam.ParDo(_ScanBlock(self.source, self.rules, self.work, self.folder))


@dataclass
class FillBuckets(beam.PTransform):
    """Numbers to `BucketResult`; see `fill_bucket`. The plan is a side input: no bucket is filled before all is scanned."""

    plan: PCollection[ShardPlan]
    rules: ShardRules
    work: str
    folder: str

    def expand(self, input_or_inputs: PCollection[int]) -> PValue:
        return input_or_inputs | beam.ParDo(_FillBucket(self.rules, self.work, self.folder), plan=AsSingleton(self.plan))


@dataclass
class WriteTrainShards(beam.PTransform):
    """Numbers to `Outcome`; see `write_train_shard`.

    `duplicates`, their number in all buckets, is a side input: nothing is written before all buckets are filled, nor
    where an id came twice.
    """

    plan: PCollection[ShardPlan]
    duplicates: PCollection[int]
    rules: ShardRules
    work: str
    folder: str

    def expand(self, input_or_inputs: PCollection[int]) -> PValue:
        return input_or_inputs | beam.ParDo(
            _WriteTrainShard(self.rules, self.work, self.folder),
            plan=AsSingleton(self.plan),
            duplicates=AsSingleton(self.duplicates),
        )


class _ScanBlock(beam.DoFn):
    def __init__(self, source: Source, rules: ShardRules, work: str, folder: str) -> None:
        self._config, self._rules, self._work, self._folder = source, rules, files.located(work), files.located(folder)
        self._source: ExampleSource | None = None

    def setup(self) -> None:
        self._source = open_source(self._config)

    def process(self, block: SourceBlock) -> Iterable[ScanResult]:
        assert self._source is not None
        with timed("scan-msec"):
            result = scan_block(self._source, block, work=self._work, rules=self._rules)
        write_rejects(self._folder, f"block-{block.index:05d}", result.rejects)
        count_read(result.counts)
        count("work-bytes", block_file(self._work, block.index).stat().st_size)
        yield replace(result, rejects=result.rejects[:SHOWN_REJECTS])


class _FillBucket(beam.DoFn):
    def __init__(self, rules: ShardRules, work: str, folder: str) -> None:
        self._rules, self._work, self._folder = rules, files.located(work), files.located(folder)

    def process(self, index: int, plan: ShardPlan) -> Iterable[BucketResult]:
        if plan.problem:
            return
        with timed("fill-msec"):
            result = fill_bucket(index, plan=plan, rules=self._rules, work=self._work, folder=self._folder)
        write_rejects(self._folder, f"bucket-{index:05d}", result.rejects)
        count("out-items", result.counts.written - result.training)
        count("excluded", result.excluded)
        count("duplicates", result.counts.rejected)
        count("out-bytes", sum(shard.size for shard in result.shards.values()))
        yield replace(result, rejects=result.rejects[:SHOWN_REJECTS])


class _WriteTrainShard(beam.DoFn):
    def __init__(self, rules: ShardRules, work: str, folder: str) -> None:
        self._rules, self._work, self._folder = rules, files.located(work), files.located(folder)

    def process(self, index: int, plan: ShardPlan, duplicates: int) -> Iterable[Outcome]:
        if plan.problem or duplicates:
            return
        with timed("fill-msec"):
            shard = write_train_shard(index, plan=plan, rules=self._rules, work=self._work, folder=self._folder)
        count("out-items", shard.num_examples)
        count("out-bytes", shard.size)
        record = {**shard.model_dump(mode="json"), "split": "train", "shard": index}
        yield Outcome(Counts(shard.num_examples, shard.num_examples), (record,))


class _SumLabels(beam.CombineFn):
    """Label counts of all blocks."""

    def create_accumulator(self) -> list[Counter[str]]:
        return [Counter(), Counter(), Counter()]

    def add_input(self, mutable_accumulator: list[Counter[str]], element: ScanResult) -> list[Counter[str]]:
        labels, kept, unlabelled = mutable_accumulator
        labels.update(element.labels.labels)
        kept.update(element.labels.kept)
        unlabelled.update(all=element.labels.unlabelled, kept=element.labels.unlabelled_kept)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Counter[str]]]) -> list[Counter[str]]:
        total = self.create_accumulator()
        for part in accumulators:
            for counter, more in zip(total, part, strict=True):
                counter.update(more)
        return total

    def extract_output(self, accumulator: list[Counter[str]]) -> LabelCounts:
        labels, kept, unlabelled = accumulator
        return LabelCounts(dict(labels), dict(kept), unlabelled["all"], unlabelled["kept"])


def scan_outcome(result: ScanResult) -> Outcome:
    """A block's counts; its descriptor names its file in the work folder."""
    record = {"path": block_file(Path(), result.index).name, "unlabelled": result.labels.unlabelled}
    return Outcome(result.counts, (record,), result.rejects)


def bucket_outcome(result: BucketResult) -> Outcome:
    """A bucket's counts and a descriptor for each of its shards; the first carries what else became of its rows."""
    records: list[dict[str, Any]] = []
    for split, shard in result.shards.items():
        rest = {"excluded": 0, "training": 0} if records else {"excluded": result.excluded, "training": result.training}
        records.append({**shard.model_dump(mode="json"), "split": split, "shard": result.index, **rest})
    return Outcome(result.counts, tuple(records), result.rejects)


@dataclass(frozen=True)
class PlanSummary:
    """What the driver wants to know of a `ShardPlan`: not where each class lies."""

    class_names: tuple[str, ...]
    trained: tuple[str, ...]
    indexed: tuple[str, ...]
    problem: str
    train_counts: tuple[int, ...]
    pieces: int


def _write_plan(plan: ShardPlan, path: str) -> None:
    train = plan.train
    told = PlanSummary(
        plan.class_names, plan.trained, plan.indexed, plan.problem, tuple(train.counts.tolist()), len(train.shards)
    )
    files.write_json(files.located(path), asdict(told))


def read_plan(path: Path) -> PlanSummary:
    data: dict[str, Any] = files.read_json(path)
    lists: dict[str, Any] = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
    return PlanSummary(**{**data, **lists})
