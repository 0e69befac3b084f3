"""Time of a training step with each loss, as a multiple of the same Keras model's with a trivial loss.

    python benchmarks/train_step.py [--losses MultiSimilarityLoss ...] [--replicas 1 2] [--turns 15]

The model is the one of the MNIST tutorial (Rescaling, Conv2D 64 3x3 relu, Flatten, Dense 64 relu, MetricEmbedding 64; Adam), a
batch 80 images of 10 classes; the trivial loss is the mean of the outputs. Losses of two views get two views of 80 images and
are compared with the trivial loss of both. The model with the loss and the one with the trivial loss take turns, some steps
each, in one process; the figures are medians over the turns, and the ratio the median of the turns' ratios. Replicas are
logical CPU devices under `MirroredStrategy`, the batch of 80 is divided among them; each number of them gets a process of its
own. Prints a JSON line for each loss and number of replicas.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CLASSES, EACH, DIM, TURN = 10, 8, 64, 10
BATCH = CLASSES * EACH


def losses() -> dict[str, tuple[Callable[[], Any], bool]]:
    """How each loss is made, and whether it is one of two views."""
    from simpipe import losses as made

    labelled: dict[str, Callable[[], Any]] = {
        "MultiSimilarityLoss": made.MultiSimilarityLoss,
        "TripletLoss": made.TripletLoss,
        "PNLoss": made.PNLoss,
        "CircleLoss": made.CircleLoss,
        "SoftNearestNeighborLoss": made.SoftNearestNeighborLoss,
        "LiftedStructLoss": made.LiftedStructLoss,
        "XBM(MultiSimilarityLoss, 4096)": lambda: made.XBM(made.MultiSimilarityLoss(), 4096),
        "SupConLoss": made.SupConLoss,
        "ContrastiveLoss": made.ContrastiveLoss,
        "ProxyAnchorLoss(10)": lambda: made.ProxyAnchorLoss(CLASSES),
        "ProxyAnchorLoss(10000, num_sampled=500)": lambda: made.ProxyAnchorLoss(10_000, num_sampled=500),
        "ArcFaceLoss(10)": lambda: made.ArcFaceLoss(CLASSES),
        "ArcFaceLoss(10000)": lambda: made.ArcFaceLoss(10_000),
        "ArcFaceLoss(10000, num_sampled=500)": lambda: made.ArcFaceLoss(10_000, num_sampled=500),
    }
    of_views = (made.SimCLRLoss, made.SimSiamLoss, made.Barlow, made.VicReg, made.MultiNegativesRankLoss, made.InfoNCELoss)
    return {name: (make, False) for name, make in labelled.items()} | {loss.__name__: (loss, True) for loss in of_views}


def trivial(y_true: Any, y_pred: Any) -> Any:
    """The mean of the outputs; of both views' where labels are a view's embeddings."""
    import keras

    mean = keras.ops.mean(y_pred, axis=-1)
    return mean if len(y_true.shape) == 1 else mean + keras.ops.mean(y_true, axis=-1)


def model_of(*, two_views: bool) -> Any:
    """The tutorial's model; with two views, labels are the second view's images."""
    import keras

    from simpipe.layers import MetricEmbedding
    from simpipe.models.loss_state import LossState

    class Model(LossState, keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            y_true = self(y, training=training) if two_views else y
            return super().compute_loss(x, y_true, y_pred, sample_weight, training)

    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(64, 3, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return Model(inputs, MetricEmbedding(DIM)(x))


class Steps:
    """A compiled model that trains on the same batch again and again."""

    def __init__(self, loss: Any, *, two_views: bool, strategy: Any) -> None:
        import keras
        import numpy as np
        import tensorflow as tf

        with strategy.scope():
            self._model = model_of(two_views=two_views)
            self._model.compile(keras.optimizers.Adam(), loss=loss, jit_compile=False)
            self._model.optimizer.build(self._model.trainable_variables)  # as `fit` does
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, size=(2, BATCH, 28, 28, 1)).astype(np.float32)
        other = images[1] if two_views else np.repeat(np.arange(CLASSES), EACH)
        data = tf.data.Dataset.from_tensor_slices((images[0], other)).cache().repeat().batch(BATCH, drop_remainder=True)
        self._batches = iter(strategy.experimental_distribute_dataset(data.prefetch(4)))
        self._model.make_train_function()
        self.turn(2 * TURN)  # traces; the first steps are slow

    def turn(self, steps: int = TURN) -> tuple[float, float]:
        """CPU and wall seconds a step."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            logs = self._model.train_function(self._batches)
        float(logs["loss"])
        return (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps


def compare(name: str, loss: Any, baseline: Steps, *, two_views: bool, strategy: Any, turns: int) -> dict[str, Any]:
    """The ratio for one loss."""
    measured = Steps(loss, two_views=two_views, strategy=strategy)
    with_loss, without = [], []
    for turn in range(turns):
        # Who begins alternates, so that neither always follows the other.
        for steps, times in [(measured, with_loss), (baseline, without)][:: 1 if turn % 2 else -1]:
            times.append(steps.turn())
    line: dict[str, Any] = {"loss": name, "replicas": strategy.num_replicas_in_sync}
    for i, clock in enumerate(("cpu", "wall")):
        a, b = [t[i] for t in with_loss], [t[i] for t in without]
        line[f"{clock}_ratio"] = round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 3)
        line[f"{clock}_ms"] = round(1000 * statistics.median(a), 2)
        line[f"{clock}_ms_trivial"] = round(1000 * statistics.median(b), 2)
    return line


def measure(replicas: int, names: list[str], turns: int) -> None:
    """Prints the lines of one number of replicas; the process must not have used TensorFlow before."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    if replicas == 1:
        strategy = tf.distribute.get_strategy()
    else:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    baselines: dict[bool, Steps] = {}
    for name, (make, two_views) in losses().items():
        if names and not any(name.startswith(each) for each in names):
            continue
        if two_views not in baselines:
            baselines[two_views] = Steps(trivial, two_views=two_views, strategy=strategy)
        line = compare(name, make(), baselines[two_views], two_views=two_views, strategy=strategy, turns=turns)
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="*", default=[], help="beginnings of names; all without")
    parser.add_argument("--replicas", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--turns", type=int, default=15, help=f"of {TURN} steps each, of both models")
    options = parser.parse_args()
    if len(options.replicas) == 1:
        measure(options.replicas[0], options.losses, options.turns)
        return
    for replicas in options.replicas:
        own = ["--replicas", str(replicas), "--turns", str(options.turns), "--losses", *options.losses]
        subprocess.run([sys.executable, __file__, *own], check=True)


if __name__ == "__main__":
    main()
