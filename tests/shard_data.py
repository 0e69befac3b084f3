"""What tests of the shard step share: configurations, and the records of a data set."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe.config import parse_config
from simpipe.data.parsing import open_records, parse_batch
from simpipe.data.train_plan import CLASS_ORDER, ROW_ORDER
from simpipe.ids import hash_ids
from simpipe.types import SPLITS


def config(**changes):
    return parse_config({"name": "digits", "root": "unused", "source": "digits", **changes})


def records_of(folder, info):
    """{split: [(id, class index, input)]} by our own parser, in file order."""
    found = {}
    names = {-1: "", **dict(enumerate(info.class_names))}
    for split in SPLITS:
        found[split] = []
        for path, shard in info.shards(folder, split):
            rows = []
            for batch in open_records(path, info.compression).batch(256):
                ids, labels, inputs = (part.numpy() for part in parse_batch(batch, info.input))
                rows += list(zip([name.decode() for name in ids], labels.tolist(), inputs, strict=True))
            assert len(rows) == shard.num_examples
            order = {name: place for place, name in enumerate(_ordered([row[:2] for row in rows], split, names, info.seed))}
            assert [order[row[:2]] for row in rows] == list(range(len(rows)))
            runs = [(label, len(list(run))) for label, run in groupby(row[1] for row in rows)]
            assert list(shard.class_blocks) == runs
            assert len({label for label, _ in runs}) == len(runs), "a class has one run"
            offsets = np.load(folder / shard.offsets.path)
            assert (offsets.dtype, len(offsets)) == (np.uint64, len(rows) + 1)
            told = shard.statistics
            labelled = [count for label, count in runs if label >= 0]
            assert (told.num_classes, told.largest_class) == (len(labelled), max(labelled, default=0))
            assert told.record_bytes == int(offsets[-1]) - 16 * len(rows)
            assert bool(shard.entries) == bool(info.compression)
            found[split] += rows
    return found


def table_source(tmp_path, rows, group=5, **fields):
    """A Parquet source of one numeric column from (id, label, value) rows, in row groups of `group`."""
    ids, labels, values = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {"id": pa.array(ids, pa.string()), "label": pa.array(labels, pa.string()), "v": pa.array(values, pa.float64())}
    columns |= {"name": pa.array([f"n {i}" if v else None for i, v in zip(ids, values, strict=True)], pa.string())}
    columns |= {"year": pa.array(range(len(ids)), pa.int64()), "price": pa.array(values, pa.float32())}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return {"kind": "parquet", "path": str(path), "columns": ["v"], "metadata": ["name", "year", "price"], **fields}


def _lengths(info):
    lengths = info.splits["train"].shard_lengths
    return {"largest_shard": max(lengths), "smallest_shard": min(lengths)}


def _ordered(rows, split, names, seed):
    """(id, class index) of one shard in the order in which it must lie there."""
    if split != "train":
        return sorted(rows, key=lambda row: (row[1], row[0].encode()))
    ids, labels = [row[0] for row in rows], [names[row[1]] for row in rows]
    keys = zip(hash_ids(labels, seed + CLASS_ORDER).tolist(), hash_ids(ids, seed + ROW_ORDER).tolist(), rows, strict=True)
    return [row for _, _, row in sorted(keys)]
