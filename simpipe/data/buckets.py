"""One bucket of a source: duplicates are found, its shards of the index and query split written, its training rows kept.

See `simpipe.data.shards`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its members when imported)

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simpipe import files
from simpipe.data.examples import ShardInfo, shard_name, split_of
from simpipe.data.serialize import CLASS_INDEX, write_rows
from simpipe.data.shards import ShardPlan, ShardRules, block_file, intact, read_place, write_sorted
from simpipe.ids import holdout
from simpipe.types import SPLITS, Counts, Reject

_WRITTEN_HERE = tuple(name for name in SPLITS if name != "train")


@dataclass(frozen=True)
class BucketResult:
    """What became of one bucket: its shards, one a split, rows for the train split, and rows `excluded` because their
    class is in no list.

    `counts.read` leaves the excluded rows out, so `read = written + rejected`; training rows count as written.
    """

    index: int
    counts: Counts
    training: int
    excluded: int
    shards: dict[str, ShardInfo]
    rejects: tuple[Reject, ...]


def bucket_file(work: Path, index: int) -> Path:
    return work / f"bucket-{index:05d}.arrow"


def fill_bucket(index: int, *, plan: ShardPlan, rules: ShardRules, work: Path, folder: Path) -> BucketResult:
    """Writes a shard of the index and of the query split, also where it is empty, rows sorted by (class index, id).

    Rows to train on go to `work`, one record batch for each train shard. Rows whose id came before in (block, row) order
    are rejected with code `duplicate-id`. The same input gives the same bytes.

    Raises:
      ContractError: a block's file is missing or damaged.
    """
    path = bucket_file(work, index)
    note = path.with_suffix(".json")
    if path.exists() and note.exists() and (kept := _kept(note, folder)) is not None:
        return kept
    table = read_place([block_file(work, block) for block in range(rules.num_blocks)], index, work)
    keep, rejects = _duplicates(table)
    total, table = table.num_rows, table.filter(pa.array(keep))
    classes, split = _places(table, plan, rules)
    table = table.append_column(CLASS_INDEX, pa.array(classes)).drop_columns(["source", "label"])
    here = split == SPLITS.index("train")
    training = table.filter(pa.array(here))
    write_sorted(path, training, plan.train.shard_of(classes[here], training["id"], rules.seed), rules.num_shards)
    shards: dict[str, ShardInfo] = {}
    for name in _WRITTEN_HERE:
        rows = table.filter(pa.array(split == SPLITS.index(name))).sort_by([(CLASS_INDEX, "ascending"), ("id", "ascending")])
        shard = folder / shard_name(name, index, rules.num_shards, rules.suffix)
        shards[name] = write_rows(shard, rows, input=rules.input, compression=rules.compression, folder=folder)
    excluded = int((split < 0).sum())
    counts = Counts(total - excluded, int((split >= 0).sum()), len(rejects))
    result = BucketResult(index, counts, training.num_rows, excluded, shards, tuple(rejects))
    told = {name: shard.model_dump(mode="json") for name, shard in shards.items()}
    files.write_json(note, {**asdict(result), "shards": told})
    return result


def _kept(note: Path, folder: Path) -> BucketResult | None:
    """The result of an earlier run, where all of its files are still there as they were written."""
    data = files.read_json(note)
    shards = {name: ShardInfo.model_validate(shard) for name, shard in data["shards"].items()}
    if not intact(folder, shards):
        return None
    rejects = tuple(Reject(**reject) for reject in data["rejects"])
    return BucketResult(data["index"], Counts(**data["counts"]), data["training"], data["excluded"], shards, rejects)


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
    trained = np.array([*map(set(plan.trained).__contains__, plan.class_names), plan.train_unlabelled])
    indexed = np.array([*map(set(plan.indexed).__contains__, plan.class_names), plan.index_unlabelled])
    held_out = holdout(table["id"], rules.fraction, rules.seed)
    return class_index, split_of(held_out, trained[class_index], indexed[class_index])
