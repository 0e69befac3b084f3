"""Batches that do not divide by the replicas, and what a replica may not do; 2 logical CPU devices in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAM = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from simpipe import training_metrics
from simpipe.errors import ConfigError
from simpipe.layers import MetricEmbedding
from simpipe.losses import XBM, LiftedStructLoss, PNLoss, TripletLoss
from simpipe.losses.gather import gather_replicas

one, two = tf.distribute.MirroredStrategy(["CPU:0"]), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(4, size=30) + 2**40
out = {"runs": []}
# Epochs end in batches of 13 (7 and 6 a replica) and of 1 (1 and 0).
for rows, loss in (
    (29, lambda: LiftedStructLoss("euclidean", "all")),
    (17, lambda: XBM(PNLoss(margin=0.5), 40)),
):
    pair = []
    for strategy in (one, two):
        with strategy.scope():
            init = keras.initializers.GlorotUniform(seed=1)
            model = keras.Sequential([keras.Input((5,)), MetricEmbedding(4, kernel_initializer=init)])
            metrics = [training_metrics.avg_pos("cosine"), training_metrics.dist_gap("cosine")]
            model.compile(keras.optimizers.SGD(0.5), loss=loss(), metrics=metrics)
        history = model.fit(tf.data.Dataset.from_tensor_slices((x[:rows], y[:rows])).batch(16), epochs=1, verbose=0).history
        memory = model.loss.variables[0].numpy().tolist() if isinstance(model.loss, XBM) else []
        names = ("avg_pos", "dist_gap")
        pair.append({"metrics": [history[n] for n in names], "weights": model.get_weights()[0].tolist(), "memory": memory})
    out["runs"].append(pair)

# Replica 0 holds 2 rows, replica 1 one; each weighs all three rows with its own factor: the gradients add up.
def weigh(three):
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    part = three[: 2 - replica]
    with tf.GradientTape() as tape:
        tape.watch(part)
        joined, begin = gather_replicas(part)
        total = tf.reduce_sum(joined * tf.range(1.0, 4.0)[:, None]) * (tf.cast(replica, tf.float32) + 1)
    return joined, begin, tape.gradient(total, part)

@tf.function(input_signature=[tf.TensorSpec([None, 1])])
def run(three):
    return two.run(weigh, args=(three,))

answers = run(tf.constant([[1.0], [2.0], [3.0]]))
out["gather"] = [[np.asarray(v).tolist() for v in two.experimental_local_results(r)] for r in answers]
try:
    two.run(lambda: XBM(TripletLoss(), 8)(y[:4], x[:4]))
except ConfigError as error:
    out["unbuilt"] = str(error)
json.dump(out, open(sys.argv[1], "w"))
"""


def test_two_replicas_of_unequal_batches(tmp_path: Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "out.json")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads((tmp_path / "out.json").read_text())
    assert len(out["runs"]) == 2
    for one, two in out["runs"]:
        np.testing.assert_allclose(one["weights"], two["weights"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one["metrics"], two["metrics"], rtol=1e-5)
        np.testing.assert_allclose(one["memory"], two["memory"], rtol=1e-5, atol=1e-6)
    assert np.ptp(out["runs"][1][0]["memory"]) > 0
    joined, begin, gradients = out["gather"]
    assert joined == [[[1], [2], [1]]] * 2
    assert begin == [0, 2]
    # 1, 2 and 3 times the row, from replica 0 (once) and replica 1 (twice).
    assert gradients == [[[3], [6]], [[9]]]
    assert "no memory yet" in out["unbuilt"]
    assert "loss.build(5) inside strategy.scope()" in out["unbuilt"]
