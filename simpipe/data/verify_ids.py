"""Whether ids are unique over a whole data set: 8 bytes an example, exact where hashes are equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simpipe.data.examples import ShardInfo
from simpipe.data.record_reader import read_records
from simpipe.errors import ContractError
from simpipe.ids import hash_ids
from simpipe.storage import Folder

_READ = 8 << 20


@dataclass(frozen=True)
class ShardHashes:
    """Hashes of one shard's ids: uint64[n], and which of them are known."""

    shard: ShardInfo
    values: np.ndarray
    known: np.ndarray

    def put(self, first: int, ids: np.ndarray, good: np.ndarray) -> None:
        rows = first + np.flatnonzero(good)
        self.values[rows] = hash_ids(ids[good].tolist())
        self.known[rows] = True


class IdCheck:
    """Gathers hashes shard by shard; then finds ids that occur twice."""

    def __init__(self) -> None:
        self._shards: list[ShardHashes] = []

    def begin(self, shard: ShardInfo) -> ShardHashes:
        count = shard.num_examples
        self._shards.append(ShardHashes(shard, np.zeros(count, np.uint64), np.zeros(count, bool)))
        return self._shards[-1]

    def duplicates(self, folder: Folder) -> Iterator[tuple[tuple[ShardInfo, int], tuple[ShardInfo, int], str]]:
        """(shard, record) of an id's first place, (shard, record) of another one, and the id."""
        shards = [each for each in self._shards if len(each.values)]
        if not shards:
            return
        values = np.concatenate([each.values for each in shards])
        values.sort()
        twice = np.unique(values[1:][values[1:] == values[:-1]])
        if not len(twice):
            return
        seen: dict[str, tuple[ShardInfo, int]] = {}
        for each in shards:
            for record in np.flatnonzero(np.isin(each.values, twice) & each.known).tolist():
                name = _id_of(folder, each.shard, record)
                if name is None:  # its sidecar is damaged: go by the hash, which is as good as certain
                    name = f"hash {each.values[record]:016x}"
                if name in seen:
                    yield seen[name], (each.shard, record), name
                else:
                    seen[name] = (each.shard, record)


def _id_of(folder: Folder, shard: ShardInfo, record: int) -> str | None:
    import tensorflow as tf

    try:
        found = read_records(folder, shard, record, record + 1)
    except ContractError:
        return None
    if len(found.bad):
        return None
    example = tf.train.Example.FromString(found.data[0])
    return example.features.feature["id"].bytes_list.value[0].decode()
