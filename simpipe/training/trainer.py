"""Trains an encoder on the `train` split of an examples data set: reproducible, resumable, on all local devices."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simpipe import files
from simpipe.architectures import build_encoder
from simpipe.augmenters.affine import is_identity, random_affine
from simpipe.augmenters.turns import turn_classes
from simpipe.config import Config
from simpipe.config.models import Loss, TrainConfig
from simpipe.errors import ConfigError, SimpipeError
from simpipe.losses import MultiSimilarityLoss, PairLoss, TripletLoss
from simpipe.progress import progress
from simpipe.samplers.shard_sampler import ShardSampler
from simpipe.training.backup import Backup
from simpipe.training.encoder import EncoderInfo, save_encoder

_LOG = logging.getLogger(__name__)
_BACKUP = ".backup"
_CURE = "lower train.learning_rate; if it stays, look for extreme values in the input"


def train(config: Config, *, examples: Path, folder: Path, key: str) -> EncoderInfo:
    """Trains and saves an encoder.

    The same configuration, examples and kind of machine give the same weights to the bit, also where the run was
    killed and started again: it goes on from the last finished epoch, kept in `folder/.backup` until the end. Turns
    on TensorFlow's op determinism for the process.

    Args:
      config: `train` and `seed` are used.
      examples: folder of an examples data set with a `train` split.
      folder: where the encoder goes.
      key: identity of this step's inputs, kept in `encoder.json`.

    Raises:
      ConfigError: the configuration does not fit the data or the devices; names the field.
      ContractError, SourceError: the examples are damaged or too few.
      SimpipeError: the loss or a weight became NaN or infinite.
    """
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    settings, began = config.train, time.monotonic()
    sampler = ShardSampler(examples, settings.sampler, seed=config.seed)
    strategy = tf.distribute.MirroredStrategy(_devices())
    replicas = strategy.num_replicas_in_sync
    if sampler.batch_size % replicas:
        raise ConfigError(
            f"train.sampler: classes_per_batch * examples_per_class = {sampler.batch_size} does not divide by {replicas} devices",
            "change either, or hide devices with CUDA_VISIBLE_DEVICES",
        )
    sampler.check_visits(settings.epochs * settings.steps_per_epoch)
    with strategy.scope():
        model: Any = build_encoder(sampler.info.input, settings.encoder, seed=config.seed)
        adam: Any = keras.optimizers.Adam
        optimizer = adam(_learning_rate(settings))
        # XLA measured slower here: 78 ms a step against 64 for conv4 with batches of 128 on two cores.
        model.compile(optimizer, loss=make_loss(settings.loss), jit_compile=False)
        optimizer.build(model.trainable_variables)
    facts = training_facts(config, replicas=replicas)
    backup = Backup(folder / _BACKUP, run=files.digest({"key": key, **facts}))
    with strategy.scope():
        epoch, losses = backup.restore(model)
    if epoch < settings.epochs:
        _fit(model, sampler, config, backup=backup, epoch=epoch, losses=losses)
    # A fresh model outside the strategy: neither optimizer nor replicas go into the file.
    encoder = build_encoder(sampler.info.input, settings.encoder, seed=config.seed)
    encoder.set_weights(model.get_weights())
    _check_weights(encoder)
    info = save_encoder(
        encoder,
        folder,
        key=key,
        input=sampler.info.input,
        dim=settings.encoder.dim,
        distance="cosine" if settings.loss.distance == "cosine" else "euclidean",
        train_classes=sampler.info.train_classes,
        training=facts,
        history={"loss": losses},
        metrics={"loss": losses[-1]},
    )
    backup.remove()
    _LOG.info("trained %d epochs in %.1f s, loss %.4f", settings.epochs, time.monotonic() - began, losses[-1])
    return info


def make_loss(config: Loss) -> PairLoss:
    """The loss that a configuration names."""
    if config.kind == "triplet":
        return TripletLoss(config.distance, config.positive_mining, config.negative_mining, config.margin)
    return MultiSimilarityLoss(config.distance, config.alpha, config.beta, config.epsilon, config.lmda, config.center)


def training_facts(config: Config, *, replicas: int) -> dict[str, Any]:
    """What determines the weights besides the examples: configuration, seed, replicas, library versions."""
    return {
        **config.train.model_dump(mode="json"),
        "seed": config.seed,
        "replicas": replicas,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
    }


def _devices() -> list[str]:
    """GPUs, or else every logical CPU device."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _learning_rate(settings: TrainConfig) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if settings.schedule == "constant":
        return settings.learning_rate
    return keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.epochs * settings.steps_per_epoch)


def _fit(model: Any, sampler: ShardSampler, config: Config, *, backup: Backup, epoch: int, losses: list[float]) -> None:
    """Trains from the finished `epoch` on; appends to `losses`."""
    settings = config.train
    total = settings.epochs * settings.steps_per_epoch
    with progress("train", total, "steps") as update, sampler.raising():
        model.fit(
            _batches(sampler, config, start_step=epoch * settings.steps_per_epoch),
            initial_epoch=epoch,
            epochs=settings.epochs,
            steps_per_epoch=settings.steps_per_epoch,
            callbacks=[_Watch(settings.steps_per_epoch, update), _KeepState(backup, losses, sampler)],
            shuffle=False,
            verbose=0,
        )


def _check_weights(encoder: keras.Model) -> None:
    bad = [weight.path for weight in encoder.weights if not np.isfinite(np.asarray(weight)).all()]
    if bad:
        raise SimpipeError(f"training: weights {', '.join(bad[:5])} hold NaN or infinity", _CURE)


def _batches(sampler: ShardSampler, config: Config, *, start_step: int) -> tf.data.Dataset:
    batches, augment, seed = sampler.dataset(start_step), config.train.augment, config.seed
    if is_identity(augment) and not augment.turns:
        return batches
    shape = sampler.info.input.shape
    if not sampler.info.input.is_image:
        raise ConfigError("train.augment: only images can be rotated, scaled, sheared or shifted", "leave train.augment out")
    if augment.turns and shape[0] != shape[1]:
        raise ConfigError(
            f"train.augment.turns: images of {shape[0]} x {shape[1]} change shape when turned", "resize to a square"
        )

    # Stateless randomness of (seed, step): the same images whatever the order of the threads.
    def change(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = turn_classes(*batch, seed=seed, step=step) if augment.turns else batch
        return images if is_identity(augment) else random_affine(images, augment, seed=seed, step=step), labels

    return batches.enumerate(start=start_step).map(change, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


class _Watch(keras.callbacks.Callback):
    """Progress, and an end to a run whose loss is no number."""

    def __init__(self, steps_per_epoch: int, update: Callable[[int], None]) -> None:
        super().__init__()
        self._steps, self._update, self._epoch = steps_per_epoch, update, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        done = self._epoch * self._steps + batch + 1
        self._update(done)
        if logs and not math.isfinite(logs["loss"]):
            raise SimpipeError(f"training: the loss is {float(logs['loss'])} at step {done}", _CURE)


class _KeepState(keras.callbacks.Callback):
    """Backs the run up after each epoch."""

    def __init__(self, backup: Backup, losses: list[float], sampler: ShardSampler) -> None:
        super().__init__()
        self._backup, self._losses, self._sampler = backup, losses, sampler

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._sampler.check()  # an epoch cut short is not a finished one
        self._losses.append(float((logs or {})["loss"]))
        model: Any = self.model
        self._backup.save(model, epoch=epoch + 1, losses=self._losses)
