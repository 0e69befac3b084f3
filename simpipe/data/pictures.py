"""Pictures of a few examples, for reports and tables: only the shards that can hold the ids are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simpipe.data.examples import DatasetInfo
from simpipe.ids import bucket_of


def fetch_inputs(folder: Path, info: DatasetInfo, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Inputs of examples by id, as stored: arrays of `info.input.shape`. Ids that are not there are left out.

    Imports TensorFlow. An id's shard follows from its hash, so at most one shard a split is read for each id.
    """
    from simpipe.data.parsing import open_records, parse_batch

    unique = sorted(set(ids))
    shards = bucket_of(unique, info.num_shards)
    found: dict[str, np.ndarray] = {}
    for number in np.unique(shards):
        wanted = [unique[i].encode() for i in np.flatnonzero(shards == number)]
        for split in info.splits:
            path, _ = info.shards(folder, split)[int(number)]
            for batch in open_records(path, info.compression).batch(1024):
                names, _, inputs = (tensor.numpy() for tensor in parse_batch(batch, info.input))
                for row in np.flatnonzero(np.isin(names.astype(bytes), wanted)):
                    found[names[row].decode()] = inputs[row]
    return found
