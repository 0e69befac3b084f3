"""What an examples data set holds, from `dataset.json` alone; and a few of its examples, read by their offsets."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.data.examples import DatasetInfo, ShardInfo, sort_classes
from simpipe.data.record_reader import read_records
from simpipe.errors import ContractError, SimpipeError
from simpipe.storage import Folder

_THREADS = 16  # reads at the same time: object storage answers each after tens of milliseconds
_BARS = 10


def summarize(info: DatasetInfo, where: str) -> dict[str, Any]:
    """A data set in figures, as JSON: splits, classes, shards, input, metadata, provenance.

    Sizes of classes are numbers of examples; `histogram` lists (smallest size, largest size, classes) of bins.
    """
    sizes = class_sizes(info)
    return {
        "folder": where,
        "name": info.name,
        "key": info.key,
        "compression": info.compression or "none",
        "examples": sum(split.num_examples for split in info.splits.values()),
        "splits": {name: _split(info, name) for name in info.splits},
        "classes": {
            "all": len(info.class_names),
            "trained": len(info.train_classes),
            "histogram_of": "train" if info.class_counts.get("train") else "all splits",
            "histogram": histogram(np.array(list((info.class_counts.get("train") or sizes).values()), np.int64)),
            "largest": [[name, sizes[name]] for name in sorted(sizes, key=lambda name: -sizes[name])[:5]],
            "smallest": [[name, sizes[name]] for name in sorted(sizes, key=sizes.__getitem__)[:5]],
        },
        "input": info.input.model_dump(mode="json"),
        "metadata": dict(info.metadata),
        "seed": info.seed,
        "counts": dict(info.counts),
        "provenance": info.provenance,
    }


def class_sizes(info: DatasetInfo) -> dict[str, int]:
    """Examples of each class over all splits, in the order of class indexes; classes without examples have 0."""
    sizes = dict.fromkeys(info.class_names, 0)
    for counts in info.class_counts.values():
        for name, count in counts.items():
            sizes[name] += count
    return sizes


def _split(info: DatasetInfo, name: str) -> dict[str, Any]:
    split = info.splits[name]
    sizes = np.array(list(info.class_counts.get(name, {}).values()), np.int64)
    lengths = np.array(split.shard_lengths, np.int64)
    records = sum(shard.statistics.record_bytes for shard in split.shards)
    return {
        "examples": split.num_examples,
        "unlabelled": split.num_examples - int(sizes.sum()),
        "shards": len(split.shards),
        "bytes": split.num_bytes,
        "sidecar_bytes": sum(shard.offsets.size for shard in split.shards),
        "bytes_per_example": round(split.num_bytes / max(split.num_examples, 1), 1),
        "record_bytes_per_example": round(records / max(split.num_examples, 1), 1),
        "classes": len(sizes),
        "class_size": _spread(sizes),
        "shard_examples": _spread(lengths),
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def histogram(sizes: np.ndarray) -> list[list[int]]:
    """(smallest, largest, how many) of at most ten bins over class sizes, int64[n]; equally wide, or by powers of two
    where the largest class is over 32 times the smallest. Bins without a class inside of the range are kept.
    """
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return []
    low, high = int(sizes.min()), int(sizes.max())
    if high > 32 * low:
        step = math.ceil((math.log2(high + 1) - math.floor(math.log2(low))) / _BARS)
        edges = [2**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high + 1)) + step, step)]
    else:
        width = math.ceil((high - low + 1) / _BARS)
        edges = list(range(low, high + width + 1, width))
    edges = [edge for place, edge in enumerate(edges) if place == 0 or edges[place - 1] <= high]
    counts, _ = np.histogram(sizes, edges)
    return [[begin, end - 1, int(count)] for begin, end, count in zip(edges, edges[1:], counts, strict=False)]


@dataclass(frozen=True)
class ExampleGrid:
    """Examples of some classes, for a picture.

    Attributes:
      names: a row's class.
      inputs: a row's inputs, as many as the class has but at most as many as were asked for; each of the input's shape.
      classes: how many classes the data set has.
    """

    names: list[str]
    inputs: list[np.ndarray]
    classes: int


def choose_examples(
    info: DatasetInfo, *, classes: int, examples: int, seed: int
) -> list[tuple[str, list[tuple[ShardInfo, int]]]]:
    """Random classes, in the order of their names, and random distinct records of each, from all splits.

    Returns:
      for each class its name and (shard, record number) of its examples.
    """
    rng = np.random.default_rng(seed)
    filled = np.array([index for index, size in enumerate(class_sizes(info).values()) if size], np.int64)
    chosen = np.sort(rng.choice(filled, min(classes, len(filled)), replace=False))
    runs: dict[int, list[tuple[ShardInfo, int, int]]] = {int(index): [] for index in chosen}
    for split in info.splits.values():
        for shard in split.shards:
            blocks = np.array(shard.class_blocks, np.int64).reshape(-1, 2)
            begins = np.cumsum(blocks[:, 1]) - blocks[:, 1]
            for row in np.flatnonzero(np.isin(blocks[:, 0], chosen)):
                runs[int(blocks[row, 0])].append((shard, int(begins[row]), int(blocks[row, 1])))
    result: dict[str, list[tuple[ShardInfo, int]]] = {}
    for index, of_class in runs.items():
        ends = np.cumsum([count for _, _, count in of_class])
        picked = np.sort(rng.choice(ends[-1], min(examples, int(ends[-1])), replace=False))
        places = []
        for run, pick in zip(np.searchsorted(ends, picked, side="right").tolist(), picked.tolist(), strict=True):
            shard, begin, count = of_class[run]
            places.append((shard, begin + pick - int(ends[run] - count)))
        result[info.class_names[index]] = places
    return [(name, result[name]) for name in sort_classes(set(result))]


def read_grid(folder: Folder, info: DatasetInfo, *, classes: int, examples: int, seed: int) -> ExampleGrid:
    """Reads the chosen examples only, each at its offset. Imports TensorFlow.

    Raises:
      SimpipeError: inputs are no pictures, or there is no labelled example.
      ContractError: a record is damaged; names file and record.
    """
    shape = info.input.shape
    if not info.input.is_image or shape[2] not in (1, 3, 4):
        raise SimpipeError(
            f"{folder.where}: inputs of shape {list(shape)} are no pictures",
            "leave out --grid: it draws [height, width, 1, 3 or 4]",
        )
    chosen = choose_examples(info, classes=classes, examples=examples, seed=seed)
    if not chosen:
        raise SimpipeError(f"{folder.where}: no labelled example to draw", "leave out --grid")
    import tensorflow as tf

    from simpipe.data.parsing import parse_batch

    places = [place for _, of_class in chosen for place in of_class]
    with ThreadPoolExecutor(_THREADS) as pool:
        records = list(pool.map(lambda place: _record(folder, *place), places))
    try:
        inputs = parse_batch(tf.constant(records), info.input)[2].numpy()
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise ContractError(f"{folder.where}: an example does not parse ({reason})", "run `simpipe shard --verify`") from None
    ends = np.cumsum([len(of_class) for _, of_class in chosen])
    return ExampleGrid([name for name, _ in chosen], np.split(inputs, ends[:-1]), len(info.class_names))


def _record(folder: Folder, shard: ShardInfo, number: int) -> bytes:
    found = read_records(folder, shard, number, number + 1)
    if len(found.bad):
        raise ContractError(f"{folder.full(shard.path)}: record {number}: {found.reason}", "run `simpipe shard --verify`")
    return found.data[0]
