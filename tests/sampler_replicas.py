"""What each logical CPU device gets of the sampler's batches; run as a program by test_sampler.py.

    python tests/sampler_replicas.py EXAMPLES OUT.npz REPLICAS STEPS

Writes `rows`: int64[steps, replicas, P * K / replicas], the number that the first two pixels of each image spell.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from simpipe.config.models import SamplerConfig
from simpipe.samplers.shard_sampler import ShardSampler

CONFIG = SamplerConfig(classes_per_batch=4, examples_per_class=4, open_blocks=12, block_examples=12)


def main(examples: str, out: str, replicas: int, steps: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])
    rows = []
    for inputs, _ in strategy.experimental_distribute_dataset(ShardSampler(examples, CONFIG, seed=5).dataset(steps=steps)):
        shares = [share.numpy().astype(np.int64) for share in strategy.experimental_local_results(inputs)]
        rows.append([share[:, 0, 0, 0] + 256 * share[:, 0, 1, 0] for share in shares])
    np.savez(out, rows=np.array(rows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
