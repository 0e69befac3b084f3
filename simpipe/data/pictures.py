"""Pictures of a few examples, for reports and tables: only runs of their classes are read, by their offsets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from simpipe.data.examples import DatasetInfo, InputSpec, ShardInfo
from simpipe.data.plain_examples import parse_pictures
from simpipe.data.record_reader import read_records
from simpipe.ids import bucket_of
from simpipe.storage import Folder, open_folder

_ROWS = 1024
_NO_CLASS = -2


def fetch_inputs(
    folder: str | Path | Folder,
    info: DatasetInfo,
    ids: Sequence[str],
    labels: Mapping[str, str | None] | None = None,
    *,
    plain: bool = False,
) -> dict[str, np.ndarray]:
    """Inputs of examples by id, as stored: arrays of `info.input.shape`. Ids that are not there are left out.

    Imports TensorFlow, unless `plain`. Outside of the train split an id's shard follows from its hash; in it a class lies in
    few shards.

    Args:
      labels: class names of ids, None for an example without a label. An id that is not in it is looked for in all runs.
      plain: pictures only, read without TensorFlow; a JPEG may come out a little different, as another library decodes it.
    """
    opened, unique = open_folder(folder), sorted(set(ids))
    index_of = {name: index for index, name in enumerate(info.class_names)}
    known = {name: -1 if label is None else index_of.get(label, _NO_CLASS) for name, label in (labels or {}).items()}
    shard_of = dict(zip(unique, bucket_of(unique, info.num_shards).tolist(), strict=True))
    left = set(unique)
    found: dict[str, np.ndarray] = {}
    for split in sorted(info.splits, key=lambda name: name == "train"):  # last: an id of unknown label is looked for in all of it
        for number, shard in enumerate(info.splits[split].shards):
            here = {name for name in left if split == "train" or shard_of[name] == number}
            for begin, stop in _spans(shard, {known.get(name) for name in here}):
                inputs = _of_run(opened, shard, info, begin, stop, here, plain=plain)
                found |= inputs
                left -= inputs.keys()
                here -= inputs.keys()
    return found


def _spans(shard: ShardInfo, classes: set[int | None]) -> list[tuple[int, int]]:
    """Ranges of records that the runs of some classes make up; None among them stands for all classes."""
    blocks = np.array(shard.class_blocks, np.int64).reshape(-1, 2)
    wanted = np.isin(blocks[:, 0], [index for index in classes if index is not None]) | (None in classes)
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0))
    records = np.concatenate([[0], np.cumsum(blocks[:, 1])])[edges].tolist()
    return list(zip(records[::2], records[1::2], strict=True))


def _of_run(
    folder: Folder, shard: ShardInfo, info: DatasetInfo, first: int, stop: int, wanted: set[str], *, plain: bool
) -> dict[str, np.ndarray]:
    """The wanted examples among some records of a shard; reads no further than to the last of them."""
    parse = parse_pictures if plain else _parse
    names, found = {name.encode() for name in wanted}, {}
    for start in range(first, stop, _ROWS):
        records = read_records(folder, shard, start, min(start + _ROWS, stop)).data
        found |= {name.decode(): value for name, value in parse(records, names, info.input).items()}
        if len(found) == len(wanted):
            break
    return found


def _parse(records: np.ndarray, wanted: Collection[bytes], spec: InputSpec) -> dict[bytes, np.ndarray]:
    """The inputs of wanted examples by id, by TensorFlow."""
    import tensorflow as tf

    from simpipe.data.parsing import parse_batch

    ids = tf.io.parse_example(records, {"id": tf.io.FixedLenFeature([], tf.string, "")})["id"].numpy()
    rows = np.flatnonzero(np.isin(ids.astype(bytes), list(wanted)))
    if not len(rows):
        return {}
    inputs = parse_batch(tf.constant(records[rows]), spec)[2].numpy()
    return dict(zip((ids[row] for row in rows), inputs, strict=True))
