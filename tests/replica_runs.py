"""Trains tiny models with every batch loss on logical CPU devices; run as a program by test_loss_replicas.py.

    python tests/replica_runs.py OUT.json REPLICAS SHAPES...

SHAPES is "fixed" (three steps of 16 examples, a batch size that the graph knows) or "ragged" (the same, not known, and a
fourth step of 10 examples, which 4 replicas share as 4, 4, 2 and none). Writes {shapes: {loss: {"loss": its value in each
step, "weights": the network's and the loss's variables, flat}}}. A process holds one strategy: all of a process would use
the same keys for their exchanges.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simpipe import losses
from simpipe.layers import MetricEmbedding
from simpipe.models.loss_state import LossState

BATCH, INPUT, DIM, CLASSES = 16, 5, 4, 10
EXAMPLES = {"fixed": 3 * BATCH, "ragged": 3 * BATCH + 10}

LABELLED: dict[str, Callable[[], Any]] = {
    "triplet": lambda: losses.TripletLoss(),
    "multisimilarity": lambda: losses.MultiSimilarityLoss(epsilon=0.3),
    "pn": lambda: losses.PNLoss(),
    "circle": lambda: losses.CircleLoss(gamma=10),
    "softnearestneighbor": lambda: losses.SoftNearestNeighborLoss(),
    "liftedstructure": lambda: losses.LiftedStructLoss(),
    "xbm_multisimilarity": lambda: losses.XBM(losses.MultiSimilarityLoss(epsilon=0.3), memory_size=24),
    "xbm_triplet": lambda: losses.XBM(losses.TripletLoss(), memory_size=40, warmup_steps=1),
    "supcon": lambda: losses.SupConLoss(),
    "contrastive": lambda: losses.ContrastiveLoss(),
    "proxyanchor": lambda: losses.ProxyAnchorLoss(CLASSES, alpha=8),
    "proxyanchor_sampled": lambda: losses.ProxyAnchorLoss(50, alpha=8, num_sampled=7),
    "arcface": lambda: losses.ArcFaceLoss(CLASSES, scale=8),
    "arcface_sampled": lambda: losses.ArcFaceLoss(50, scale=8, num_sampled=7),
}
TWO_VIEWS: dict[str, Callable[[], Any]] = {
    "simclr": lambda: losses.SimCLRLoss(temperature=0.5),
    "simsiam": lambda: losses.SimSiamLoss(),
    "barlow": lambda: losses.Barlow(),
    "vicreg": lambda: losses.VicReg(),
    "multinegativesrank": lambda: losses.MultiNegativesRankLoss(),
    "infonce": lambda: losses.InfoNCELoss(temperature=0.2),
}


class Labelled(LossState, keras.Model):
    """As SimilarityModel: a functional model whose losses may have variables."""


class TwoViews(LossState, keras.Model):
    """`fit` on batches (view, other view); a loss gets the embeddings of both."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Any:
        return super().compute_loss(x, self(y, training=training), y_pred, sample_weight, training)


def datasets(shapes: str) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Batches (x, {output: label}) and batches (view, other view)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES[shapes], INPUT)).astype(np.float32)
    views = (x + 0.3 * rng.normal(size=x.shape)).astype(np.float32)
    labels = rng.integers(4, size=len(x))
    labels[BATCH - 1] = CLASSES - 1  # an example without a positive
    labelled = tf.data.Dataset.from_tensor_slices((x, dict.fromkeys(LABELLED, labels)))
    pairs = tf.data.Dataset.from_tensor_slices((x, views))
    fixed = shapes == "fixed"
    return labelled.batch(BATCH, drop_remainder=fixed), pairs.batch(BATCH, drop_remainder=fixed)


def run(kind: Any, cases: dict[str, Callable[[], Any]], data: tf.data.Dataset, strategy: Any) -> dict[str, Any]:
    """One model with a network and an output of its own for each loss: all train in one graph, none meets another."""
    with strategy.scope():
        inputs = keras.Input((INPUT,))
        layers = {
            name: MetricEmbedding(DIM, kernel_initializer=keras.initializers.GlorotUniform(seed=1), name=name) for name in cases
        }
        model = kind(inputs, {name: layer(inputs) for name, layer in layers.items()})
        made = {name: make() for name, make in cases.items()}
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=made, jit_compile=False)
    history = model.fit(data, epochs=len(data), steps_per_epoch=1, verbose=0).history
    out = {}
    for name, layer in layers.items():
        loss = made[name]
        variables = [*layer.weights, *getattr(loss, "trainable_variables", ()), *getattr(loss, "non_trainable_variables", ())]
        values = [np.asarray(variable.numpy(), np.float64).ravel() for variable in variables]
        out[name] = {"loss": history[f"{name}_loss"], "weights": np.concatenate(values).tolist()}
    return out


def main() -> None:
    out_path, replicas = Path(sys.argv[1]), int(sys.argv[2])
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    out = {}
    for shapes in sys.argv[3:]:
        labelled, pairs = datasets(shapes)
        out[shapes] = run(Labelled, LABELLED, labelled, strategy) | run(TwoViews, TWO_VIEWS, pairs, strategy)
    out_path.write_text(json.dumps(out))


if __name__ == "__main__":
    main()
