"""One shard of the train split, gathered from all buckets. See `simpipe.data.shards` and `simpipe.data.train_plan`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.arrow import pc
from simpipe.data.buckets import bucket_file
from simpipe.data.examples import ShardInfo, shard_name
from simpipe.data.serialize import CLASS_INDEX, write_rows
from simpipe.data.shards import ShardPlan, ShardRules, intact, read_place
from simpipe.data.train_plan import CLASS_ORDER, ROW_ORDER
from simpipe.ids import hash_ids


def train_note(work: Path, index: int) -> Path:
    return work / f"train-{index:05d}.json"


def write_train_shard(index: int, *, plan: ShardPlan, rules: ShardRules, work: Path, folder: Path) -> ShardInfo:
    """Writes one train shard, also where it is empty: classes in the order of a hash of their name, one run each, and the
    rows of a class in the order of a hash of their id. The same input and seed give the same bytes.

    Raises:
      ContractError: a bucket's file is missing or damaged.
    """
    note = train_note(work, index)
    if note.exists():
        shard = ShardInfo.model_validate(files.read_json(note))
        if intact(folder, {"train": shard}):
            return shard
    rows = read_place([bucket_file(work, bucket) for bucket in range(rules.num_shards)], index, work)
    rows = rows.take(pa.array(_order(rows, plan, rules.seed)))
    path = folder / shard_name("train", index, rules.num_shards, rules.suffix)
    shard = write_rows(path, rows, input=rules.input, compression=rules.compression, folder=folder)
    files.write_json(note, shard.model_dump(mode="json"))
    return shard


def _order(rows: pa.Table, plan: ShardPlan, seed: int) -> np.ndarray:
    """int64[n]: the rows in the order of the file, whatever the order they came in."""
    present, inverse = np.unique(rows[CLASS_INDEX].to_numpy(), return_inverse=True)
    names = ["" if place < 0 else plan.class_names[place] for place in present.tolist()]
    rank = np.empty(len(present), np.int64)
    rank[np.argsort(hash_ids(names, seed=seed + CLASS_ORDER), kind="stable")] = np.arange(len(present))
    keys = {"class": rank[inverse], "hash": hash_ids(rows["id"], seed=seed + ROW_ORDER), "id": rows["id"]}
    return pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
