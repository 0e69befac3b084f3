"""A source becomes shards, first half: `scan_block` sorts each block's rows by bucket into a file, `make_plan` decides.

A bucket holds the rows whose ids have the same hash: equal ids meet there. `buckets` turns it into a shard of the index
and one of the query split, and `train_shards` gathers the rest.

Pure functions of their arguments and the work folder; all leave a small JSON note when done, and do nothing again where
that note and their files are there. TensorFlow is imported only where records are written.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its members when imported)

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe import files
from simpipe.config.models import ClassLists
from simpipe.data.examples import InputSpec, ShardInfo, resolve_classes, sort_classes
from simpipe.data.sources.base import ExampleSource, SourceBlock
from simpipe.data.train_plan import TrainPlan, plan_train
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.ids import bucket_of, holdout
from simpipe.types import Counts, Reject


@dataclass(frozen=True)
class LabelCounts:
    """Examples of each label, and how many of them are not held out as queries; the same of rows without a label."""

    labels: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    unlabelled_kept: int = 0


@dataclass(frozen=True)
class ScanResult:
    """What one block held."""

    index: int
    counts: Counts
    labels: LabelCounts
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class ShardPlan:
    """What every worker must know: class names (their order is the class index), which are trained on and indexed, and
    where training examples go.

    `train` has one place for each trained class, in order, and a last one for rows without a label.
    A `problem` (a configured class that the data lacks) travels as text; the driver raises it.
    """

    class_names: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    indexed: tuple[str, ...] = ()
    index_unlabelled: bool = False
    train_unlabelled: bool = False
    train: TrainPlan = field(default_factory=TrainPlan)
    problem: str = ""


@dataclass(frozen=True)
class ShardRules:
    """How shards are written; the same for all of them."""

    num_blocks: int
    num_shards: int
    compression: Literal["", "gzip"]
    fraction: float
    seed: int
    input: InputSpec
    class_run: int = 256
    one_class_shards: bool = False

    @property
    def suffix(self) -> str:
        return ".tfrecord.gz" if self.compression else ".tfrecord"


def block_file(work: Path, index: int) -> Path:
    return work / f"block-{index:05d}.arrow"


def scan_block(source: ExampleSource, block: SourceBlock, *, work: Path, rules: ShardRules) -> ScanResult:
    """Reads one block and writes its rows to `work`, one record batch a bucket (empty ones too), in the order of buckets.

    Raises:
      SourceError: the block holds another number of rows than when the run began.
    """
    path = block_file(work, block.index)
    note = path.with_suffix(".json")
    if path.exists() and note.exists():
        kept = files.read_json(note)
        rejects = tuple(Reject(**reject) for reject in kept["rejects"])
        return ScanResult(kept["index"], Counts(**kept["counts"]), LabelCounts(**kept["labels"]), rejects)
    table, rejects = source.read(block)
    read = table.num_rows + len(rejects)
    if block.rows is not None and read != block.rows:
        raise SourceError(
            f"{block.name or 'block'} {block.index}: {read} rows read, {block.rows} expected",
            "the source changed during the run: run again when it is at rest",
        )
    write_sorted(path, table, bucket_of(table["id"], rules.num_shards), rules.num_shards)
    labels = table["label"]
    left = labels.filter(pa.array(~holdout(table["id"], rules.fraction, rules.seed)))
    counted = LabelCounts(_count(labels), _count(left), labels.null_count, left.null_count)
    result = ScanResult(block.index, Counts(read, table.num_rows, len(rejects)), counted, tuple(rejects))
    files.write_json(note, asdict(result))
    return result


def _count(labels: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(labels).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counted if entry["values"] is not None}


def write_sorted(path: Path, table: pa.Table, place: np.ndarray, places: int) -> None:
    """Writes rows as an Arrow file of one record batch for each place, in order; their order in a place stays.

    Args:
      place: int64[n] in [0, places).
    """
    ends = np.cumsum(np.bincount(place, minlength=places)).tolist()
    table = table.take(pa.array(np.argsort(place, kind="stable"))).combine_chunks()
    whole = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
    with (
        files.replacing(path) as temporary,
        pa.OSFile(os.fspath(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            writer.write_batch(whole.slice(start, end - start))


def read_place(paths: list[Path], place: int, work: Path) -> pa.Table:
    """One place's rows from files of `write_sorted`, in the order of files.

    Raises:
      ContractError: a file is missing or damaged.
    """
    batches = []
    for path in paths:
        try:
            with pa.memory_map(os.fspath(path)) as source:
                batches.append(pa.ipc.open_file(source).get_batch(place))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise ContractError(
                f"{path}: cannot be read ({error})",
                f"workers must share one file system; remove {work} and run `simpipe shard` again",
            ) from None
    return pa.Table.from_batches(batches)


def make_plan(counts: LabelCounts, classes: ClassLists, rules: ShardRules) -> ShardPlan:
    """Class indexes, class lists and the plan of the train split. A missing class becomes `problem`, no exception."""
    names = sort_classes(set(counts.labels))
    try:
        trained = resolve_classes(classes.train, names, "classes.train")
        indexed = resolve_classes(classes.index, names, "classes.index")
    except ConfigError as error:
        return ShardPlan(tuple(names), problem=str(error))
    # Classes that train come first, so that their numbers, and with them the train shards, stay as they are when classes
    # that are only indexed come or go: no retraining.
    chosen = set(trained)
    names = trained + [name for name in names if name not in chosen]
    numbers = [*(counts.kept.get(name, 0) for name in trained), counts.unlabelled_kept if classes.train_unlabelled else 0]
    train = plan_train(
        [*trained, ""],
        np.array(numbers, np.int64),
        num_shards=rules.num_shards,
        class_run=rules.class_run,
        seed=rules.seed,
        one_class_shards=rules.one_class_shards,
    )
    return ShardPlan(tuple(names), tuple(trained), tuple(indexed), classes.index == "all", classes.train_unlabelled, train)


def intact(folder: Path, shards: Mapping[str, ShardInfo]) -> bool:
    """Whether all of these shards and their sidecars are still there as they were written."""
    try:
        for shard in shards.values():
            for part in (shard, shard.offsets):
                files.verify(files.inside(folder, part.path), files.FileEntry(part.path, part.size, part.sha256))
    except ContractError:
        return False
    return True
