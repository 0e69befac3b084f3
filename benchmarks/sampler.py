"""The shard sampler against plain reading of the same files, its memory as the data grow, and its first batch.

    python benchmarks/sampler.py [--examples 200000] [--large 2000000] [--classes 1000] [--rounds 5] [--folder DIR]

Examples are 28 x 28 x 1 bytes in 64 plain shards, class runs as `simpipe shard` lays them; batches hold 10 classes with 8
examples each. Prints one JSON line a measurement:

- `throughput`: examples/s of `ShardSampler.dataset()`; of `TFRecordDataset` over all shards, batched and parsed a batch at a
  time, in file order; and of the usual class-balanced line of `tf.data` that interleaves shards and parses each record. They
  take turns in one process; the ratios are medians over the rounds. Once consumed inside a graph, as Keras and `simpipe train`
  take batches, and once by a loop in Python, whose interpreter lock the sampler's reader then shares.
- `memory`: peak resident memory of a process that samples a whole pass, for both sizes of data and as the growth between them.
  The data are sampled with 64 open blocks of 1024 examples; `imported_mib` is what TensorFlow takes before that.
- `first_batch`: 100,000 classes whose sizes follow a power law, 1 to 20,000 examples: seconds from opening the folder to the
  first batch, with and without the import of TensorFlow, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import DatasetInfo, InputSpec, SplitInfo, shard_name
from simpipe.data.record_writer import RecordWriter, finish_shard

SHARDS, SIDE, P, K = 64, 28, 10, 8
BATCH = P * K
SPEC = InputSpec(name="image", shape=(SIDE, SIDE, 1), dtype="uint8", encoding="raw")
CONFIG = SamplerConfig(classes_per_batch=P, examples_per_class=K, open_blocks=64, block_examples=1024)


def make(folder: Path, sizes: np.ndarray) -> None:
    """A data set of classes with these sizes, each class in runs of 256 examples or more."""
    from tensorflow.core.example import example_pb2

    folder.mkdir(parents=True, exist_ok=True)
    pieces = np.clip(sizes // 256, 1, SHARDS)
    owner = np.repeat(np.arange(len(sizes)), pieces)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    count = sizes[owner] // pieces[owner] + (within < sizes[owner] % pieces[owner])
    shard_of = np.arange(len(owner)) % SHARDS
    noise = np.random.default_rng(0).integers(0, 256, SIDE * SIDE + 4096, np.uint8).tobytes()
    splits: dict[str, SplitInfo] = {}
    for split in ("train", "index", "query"):
        shards = []
        for shard in range(SHARDS):
            runs = np.flatnonzero(shard_of == shard) if split == "train" else np.empty(0, np.int64)
            blocks = [(int(owner[run]), int(count[run])) for run in runs]
            with RecordWriter(folder / shard_name(split, shard, SHARDS, ".tfrecord"), "") as writer:
                row = 0
                for name, many in blocks:
                    for _ in range(many):
                        example = example_pb2.Example()
                        feature = example.features.feature
                        feature["id"].bytes_list.value.append(b"%02d-%09d" % (shard, row))
                        feature["label"].int64_list.value.append(name)
                        begin = (name * 7 + row) % 4096
                        feature["image"].bytes_list.value.append(noise[begin : begin + SIDE * SIDE])
                        writer.write(example.SerializeToString())
                        row += 1
            shards.append(finish_shard(writer, folder, blocks))
        lengths = tuple(each.num_examples for each in shards)
        size = sum(each.size for each in shards)
        splits[split] = SplitInfo(num_examples=sum(lengths), shard_lengths=lengths, num_bytes=size, shards=tuple(shards))
    names = tuple(map(str, range(len(sizes))))
    DatasetInfo(
        name="bench",
        key="bench",
        input=SPEC,
        class_names=names,
        train_classes=names,
        splits=splits,
        class_counts={"train": dict(zip(names, sizes.tolist(), strict=True))},
        num_shards=SHARDS,
        compression="",
        seed=0,
        counts={"read": int(sizes.sum())},
        provenance={},
    ).save(folder)


def ready(folder: Path, sizes: np.ndarray) -> Path:
    """`folder` with the data in it; made once."""
    if not (folder / "dataset.json").exists():
        make(folder, sizes)
    return folder


def power_law(classes: int, largest: int) -> np.ndarray:
    """Class sizes from `largest` down to 1, as a power of the rank."""
    return np.maximum(largest / np.arange(1, classes + 1) ** 0.9, 1).astype(np.int64)


def sampled(folder: Path) -> Iterator[Any]:
    from simpipe.samplers.shard_sampler import ShardSampler

    return iter(ShardSampler(folder, CONFIG, seed=1).dataset())


def bare(folder: Path) -> Iterator[Any]:
    """No sampling: every record in file order, parsed a batch at a time."""
    import tensorflow as tf

    from simpipe.data.parsing import parse_batch

    paths = sorted(map(str, folder.glob("train-*.tfrecord")))
    records = tf.data.TFRecordDataset(paths, buffer_size=8 << 20).repeat()
    return iter(records.batch(BATCH).map(lambda part: parse_batch(part, SPEC), num_parallel_calls=tf.data.AUTOTUNE).prefetch(4))


def interleaved(folder: Path) -> Iterator[Any]:
    """The usual line: K records of each shard in turn, each record parsed on its own."""
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record: Any) -> Any:
        example: Any = tf.io.parse_single_example(record, features)
        return tf.reshape(tf.io.decode_raw(example["image"], tf.uint8), SPEC.shape), example["label"]

    paths = tf.data.Dataset.from_tensor_slices(sorted(map(str, folder.glob("train-*.tfrecord"))))
    records = paths.interleave(lambda path: tf.data.TFRecordDataset(path).repeat(), cycle_length=SHARDS, block_length=K)
    return iter(records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(4))


def drain() -> Callable[[Any, int], int]:
    """Takes batches inside a graph, as a training step does: no Python between them."""
    import tensorflow as tf

    @tf.function
    def graph(batches: Any, steps: Any) -> Any:
        total = tf.constant(0, tf.int64)
        for _ in tf.range(steps):
            total += tf.size(next(batches)[1], tf.int64)
        return total

    return lambda batches, steps: int(graph(batches, tf.constant(steps)))


def loop(batches: Any, steps: int) -> int:
    """Takes batches in a Python loop."""
    for _ in range(steps):
        next(batches)
    return steps * BATCH


def throughput(folder: Path, examples: int, rounds: int, take: Callable[[Any, int], int], consumer: str) -> dict[str, Any]:
    lines = {"sampler": sampled(folder), "bare": bare(folder), "interleaved": interleaved(folder)}
    share = {"sampler": 1.0, "bare": 1.0, "interleaved": 0.2}
    for line in lines.values():
        take(line, 50)
    found: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, line in lines.items():
            began, steps = time.perf_counter(), int(examples * share[name]) // BATCH
            take(line, steps)
            found[name].append(steps * BATCH / (time.perf_counter() - began))
    ratios = {
        f"sampler_to_{other}": statistics.median(a / b for a, b in zip(found["sampler"], found[other], strict=True))
        for other in ("bare", "interleaved")
    }
    middle = {f"{name}_per_s": round(statistics.median(values)) for name, values in found.items()}
    about = {"measurement": "throughput", "consumer": consumer, "examples": examples, "rounds": rounds}
    return {**about, **middle, **_rounded(ratios)}


def memory(folder: Path) -> dict[str, Any]:
    """Samples a whole pass; meant for a process of its own."""
    from simpipe.samplers.shard_sampler import ShardSampler

    imported = _peak()
    sampler = ShardSampler(folder, CONFIG, seed=1)
    seen = sum(len(labels) for _, labels in sampler.dataset(steps=sampler.steps_per_pass))
    return {"examples": sampler.info.splits["train"].num_examples, "sampled": seen, "imported_mib": imported, "peak_mib": _peak()}


def first_batch(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    from simpipe.samplers.shard_sampler import ShardSampler

    imported = time.perf_counter()
    config = CONFIG.model_copy(update={"small_classes": "repeat", "weighting": "sqrt"})
    sampler = ShardSampler(folder, config, seed=1)
    next(iter(sampler.dataset()))
    ended = time.perf_counter()
    return {
        "measurement": "first_batch",
        "classes": len(sampler.info.class_names),
        "examples": sampler.info.splits["train"].num_examples,
        **_rounded({"first_batch_s": ended - imported, "with_import_s": ended - began}),
        "peak_mib": _peak(),
    }


def _peak() -> int:
    """Largest resident memory of this process, MiB."""
    # Not `ru_maxrss`: that also counts the process which this one was started from.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _apart(task: str, folder: Path) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--large", type=int, default=2_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keeps the data there for the next time")
    parser.add_argument("--task", choices=("memory", "first_batch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps({"memory": memory, "first_batch": first_batch}[options.task](options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        equal = [np.full(options.classes, many // options.classes) for many in (options.examples, options.large)]
        small = ready(root / f"equal-{options.examples}", equal[0])
        for consumer, take in (("graph", drain()), ("loop", loop)):
            print(json.dumps(throughput(small, options.examples, options.rounds, take, consumer)), flush=True)
        rare = ready(root / "power-law", power_law(100_000, 20_000))
        print(json.dumps(_apart("first_batch", rare)), flush=True)
        large = ready(root / f"equal-{options.large}", equal[1])
        both = [_apart("memory", folder) for folder in (small, large)]
        grown = both[1]["peak_mib"] / both[0]["peak_mib"]
        print(json.dumps({"measurement": "memory", "runs": both, **_rounded({"growth": grown})}), flush=True)


if __name__ == "__main__":
    main()
