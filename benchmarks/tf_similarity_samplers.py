"""Examples a second of the samplers, and of a plain `tf.data` line over the same shards that parses record by record.

    python benchmarks/tf_similarity_samplers.py --shards 10 --examples 1000

Shards hold contiguous blocks of 100 examples of a class, an example 64 floats; a batch is 10 classes with 8 examples each.
Prints one JSON line a sampler: examples a second, and CPU seconds for 100,000 examples.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from simpipe.samplers import MultiShotMemorySampler, TFDataSampler, TFRecordDatasetSampler

CLASSES, EACH, DIM, BLOCK = 10, 8, 64, 100


def write(folder: Path, shards: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(shards * examples, DIM)).astype(np.float32)
    y = np.arange(len(x)) // BLOCK
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{shard:03d}.tfrec")) as writer:
            for row in range(shard * examples, (shard + 1) * examples):
                features = {
                    "x": tf.train.Feature(float_list=tf.train.FloatList(value=x[row])),
                    "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[y[row]])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return x, y


def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    spec = {"x": tf.io.FixedLenFeature([DIM], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}
    example = tf.io.parse_single_example(serialized, spec)
    return example["x"], example["y"]


def record_by_record(folder: Path) -> tf.data.Dataset:
    """Blocks of one class from each shard in turn, each record parsed on its own."""
    paths = tf.data.Dataset.list_files(str(folder / "*.tfrec"))
    records = paths.interleave(tf.data.TFRecordDataset, cycle_length=len(paths), block_length=EACH).repeat()
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(CLASSES * EACH).prefetch(10)


def measure(name: str, batches: Iterator, steps: int) -> None:
    for _ in range(20):
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = steps * CLASSES * EACH
    print(
        json.dumps({"sampler": name, "examples_per_second": round(done / wall), "cpu_seconds_100k": round(cpu / done * 1e5, 2)}),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--examples", type=int, default=1000, help="examples a shard, a multiple of 100")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = write(folder, arguments.shards, arguments.examples)
        lines = {
            "tf.data, record by record": record_by_record(folder),
            "TFRecordDatasetSampler": TFRecordDatasetSampler(folder, parse, EACH, CLASSES * EACH),
            "TFRecordDatasetSampler, half of the shards at a time": TFRecordDatasetSampler(
                folder, parse, EACH, CLASSES * EACH, shards_per_cycle=arguments.shards // 2
            ),
            "TFDataSampler": TFDataSampler(tf.data.Dataset.from_tensor_slices((x, y)), CLASSES, EACH),
        }
        for name, dataset in lines.items():
            measure(name, iter(dataset), arguments.steps)
        memory = MultiShotMemorySampler(x, y, classes_per_batch=CLASSES, examples_per_class_per_batch=EACH)
        measure("MultiShotMemorySampler", iter(memory), min(arguments.steps, 900))


if __name__ == "__main__":
    main()
