"""A source becomes shards: `scan_block` sorts each block's rows by shard into a file, `write_shard` gathers one shard.

Pure functions of their arguments and the work folder; both leave a small JSON note when done, and do nothing again where
that note and their files are there. TensorFlow is imported only where records are written.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute and protobuf make their members when imported)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe import files
from simpipe.config.models import ClassLists
from simpipe.data.examples import InputSpec, ShardInfo, resolve_classes, shard_name, sort_classes, split_of
from simpipe.data.sources.base import ExampleSource, SourceBlock
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.ids import bucket_of, holdout
from simpipe.types import SPLITS, Counts, Reject

_SLICE = 1024


@dataclass(frozen=True)
class ScanResult:
    """What one block held: counts, examples a label, examples without a label, and its rejects."""

    index: int
    counts: Counts
    labels: dict[str, int]
    unlabelled: int
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class ShardPlan:
    """What every shard must know: class names (their order is the class index), and which are trained on and indexed.

    A `problem` (a configured class that the data lacks) travels as text; the driver raises it.
    """

    class_names: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    indexed: tuple[str, ...] = ()
    index_unlabelled: bool = False
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

    @property
    def suffix(self) -> str:
        return ".tfrecord.gz" if self.compression else ".tfrecord"


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard: its files, one a split, and rows `excluded` because their class is in no list.

    `counts.read` leaves the excluded rows out, so `read = written + rejected`.
    """

    index: int
    counts: Counts
    excluded: int
    shards: dict[str, ShardInfo]
    rejects: tuple[Reject, ...]


def block_file(work: Path, index: int) -> Path:
    return work / f"block-{index:05d}.arrow"


def shard_note(work: Path, index: int) -> Path:
    return work / f"shard-{index:05d}.json"


def scan_block(source: ExampleSource, block: SourceBlock, *, work: Path, num_shards: int) -> ScanResult:
    """Reads one block and writes its rows to `work`, one record batch a shard (empty ones too), in the order of shards.

    Raises:
      SourceError: the block holds another number of rows than when the run began.
    """
    path = block_file(work, block.index)
    note = path.with_suffix(".json")
    if path.exists() and note.exists():
        kept = files.read_json(note)
        return ScanResult(
            kept["index"],
            Counts(**kept["counts"]),
            kept["labels"],
            kept["unlabelled"],
            tuple(Reject(**reject) for reject in kept["rejects"]),
        )
    table, rejects = source.read(block)
    read = table.num_rows + len(rejects)
    if block.rows is not None and read != block.rows:
        raise SourceError(
            f"{block.name or 'block'} {block.index}: {read} rows read, {block.rows} expected",
            "the source changed during the run: run again when it is at rest",
        )
    shard = bucket_of(table["id"], num_shards)
    ends = np.cumsum(np.bincount(shard, minlength=num_shards))
    table = table.take(pa.array(np.argsort(shard, kind="stable"))).combine_chunks()
    with (
        files.replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        whole = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            writer.write_batch(whole.slice(start, end - start))
    counted = pc.value_counts(table["label"]).to_pylist()
    labels = {entry["values"]: entry["counts"] for entry in counted if entry["values"] is not None}
    counts = Counts(read, table.num_rows, len(rejects))
    result = ScanResult(block.index, counts, labels, table["label"].null_count, tuple(rejects))
    files.write_json(note, asdict(result))
    return result


def make_plan(labels: Mapping[str, int], classes: ClassLists) -> ShardPlan:
    """Class indexes and class lists from the labels of all blocks. A missing class becomes `problem`, no exception."""
    names = sort_classes(set(labels))
    try:
        trained = resolve_classes(classes.train, names, "classes.train")
        indexed = resolve_classes(classes.index, names, "classes.index")
    except ConfigError as error:
        return ShardPlan(tuple(names), problem=str(error))
    # Classes that train come first, so that their numbers, and with them the train shards, stay as they are when classes
    # that are only indexed come or go: no retraining.
    names = trained + [name for name in names if name not in set(trained)]
    return ShardPlan(tuple(names), tuple(trained), tuple(indexed), classes.index == "all")


def write_shard(index: int, *, plan: ShardPlan, rules: ShardRules, work: Path, folder: Path) -> ShardResult:
    """Writes one shard: a TFRecord file for each split, also where it is empty, rows sorted by (class index, id).

    Features: `id` (bytes), `label` (int64 class index, -1 without one), the input, and metadata (absent where null). Rows
    whose id came before in (block, row) order are rejected with code `duplicate-id`. The same input gives the same bytes.

    Raises:
      ContractError: a block's file is missing or damaged.
    """
    note = shard_note(work, index)
    if note.exists() and (kept := _kept(note, folder)) is not None:
        return kept
    table = pa.Table.from_batches([_batch(work, block, index) for block in range(rules.num_blocks)])
    keep, rejects = _duplicates(table)
    total, table = table.num_rows, table.filter(pa.array(keep))
    class_index, split = _places(table, plan, rules)
    table = table.append_column("class index", pa.array(class_index))
    shards: dict[str, ShardInfo] = {}
    for number, name in enumerate(SPLITS):
        rows = table.filter(pa.array(split == number)).sort_by([("class index", "ascending"), ("id", "ascending")])
        path = folder / shard_name(name, index, rules.num_shards, rules.suffix)
        _write_records(path, rows, rules)
        classes, counts = np.unique(rows["class index"].to_numpy(), return_counts=True)
        entry = files.entry_of(path, folder)
        shards[name] = ShardInfo(
            path=entry.path,
            size=entry.size,
            sha256=entry.sha256,
            num_examples=rows.num_rows,
            class_blocks=tuple(zip(classes.tolist(), counts.tolist(), strict=True)),
        )
    excluded = int((split < 0).sum())
    written = sum(shard.num_examples for shard in shards.values())
    result = ShardResult(index, Counts(total - excluded, written, len(rejects)), excluded, shards, tuple(rejects))
    files.write_json(
        note,
        {
            "index": index,
            "counts": asdict(result.counts),
            "excluded": excluded,
            "shards": {name: shard.model_dump(mode="json") for name, shard in shards.items()},
            "rejects": [asdict(reject) for reject in rejects],
        },
    )
    return result


def _kept(note: Path, folder: Path) -> ShardResult | None:
    """The result of an earlier run, where all of its files are still there as they were written."""
    data = files.read_json(note)
    shards = {name: ShardInfo.model_validate(shard) for name, shard in data["shards"].items()}
    try:
        for shard in shards.values():
            files.verify(files.inside(folder, shard.path), files.FileEntry(shard.path, shard.size, shard.sha256))
    except ContractError:
        return None
    rejects = tuple(Reject(**reject) for reject in data["rejects"])
    return ShardResult(data["index"], Counts(**data["counts"]), data["excluded"], shards, rejects)


def _batch(work: Path, block: int, shard: int) -> pa.RecordBatch:
    path = block_file(work, block)
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).get_batch(shard)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ContractError(
            f"{path}: cannot be read ({error})",
            f"workers must share one file system; remove {work} and run `simpipe shard` again",
        ) from None


def _duplicates(table: pa.Table) -> tuple[np.ndarray, list[Reject]]:
    """bool[n]: the first row of each id; and the others as rejects that name both places."""
    codes = pc.dictionary_encode(table["id"]).combine_chunks().indices.to_numpy() if table.num_rows else np.empty(0, np.int64)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(codes)))
    keep = np.ones(len(codes), bool)
    keep[again] = False
    ids, places = table["id"].take(again).to_pylist(), table["source"].take(again).to_pylist()
    before = table["source"].take(first[inverse[again]]).to_pylist()
    found = zip(ids, places, before, strict=True)
    return keep, [Reject(name, place, "duplicate-id", f"the same id is at {other}") for name, place, other in found]


def _places(table: pa.Table, plan: ShardPlan, rules: ShardRules) -> tuple[np.ndarray, np.ndarray]:
    """Class index (int64[n], -1 without a label) and split (int8[n], -1 for excluded rows)."""
    names = pa.array(plan.class_names, pa.string())
    found = pc.index_in(table["label"], value_set=names, skip_nulls=True)
    class_index = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    # One more place at the end, which index -1 reaches: rows without a label.
    trained = np.array([*map(set(plan.trained).__contains__, plan.class_names), False])
    indexed = np.array([*map(set(plan.indexed).__contains__, plan.class_names), plan.index_unlabelled])
    held_out = holdout(table["id"], rules.fraction, rules.seed)
    return class_index, split_of(held_out, trained[class_index], indexed[class_index])


def _write_records(path: Path, rows: pa.Table, rules: ShardRules) -> None:
    import tensorflow as tf

    with (
        files.replacing(path) as temporary,
        tf.io.TFRecordWriter(str(temporary), options="GZIP" if rules.compression else "") as writer,
    ):
        for record in serialize(rows, rules.input):
            writer.write(record)


def serialize(rows: pa.Table, spec: InputSpec) -> Iterator[bytes]:
    """Each row as a serialized `tf.train.Example`, byte for byte the same every time.

    Args:
      rows: columns `id`, `class index`, `input`, and metadata columns (string, int64 or float32) after `source`.
      spec: gives the input feature its name.
    """
    from tensorflow.core.example import example_pb2

    places = {"id": "id", "label": "class index", spec.name: "input"}
    places |= {name: name for name in rows.column_names if name not in {"id", "label", "input", "source", "class index"}}
    for start in range(0, rows.num_rows, _SLICE):
        part = rows.slice(start, _SLICE)
        columns = [(name, part.schema.field(column).type, _values(part[column])) for name, column in places.items()]
        for row in range(part.num_rows):
            example = example_pb2.Example()
            for name, kind, values in columns:
                value = values[row]
                if value is None:
                    continue
                feature = example.features.feature[name]
                if pa.types.is_integer(kind):
                    feature.int64_list.value.append(value)
                elif pa.types.is_fixed_size_list(kind):
                    feature.float_list.value.extend(value)
                elif pa.types.is_floating(kind):
                    feature.float_list.value.append(value)
                else:
                    feature.bytes_list.value.append(value)
            yield example.SerializeToString(deterministic=True)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; strings as UTF-8 bytes."""
    return (column.cast(pa.binary()) if pa.types.is_string(column.type) else column).to_pylist()
