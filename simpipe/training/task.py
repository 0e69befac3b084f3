"""What a run is made of: sampler, devices, model, and the encoder in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.architectures import build_encoder
from simpipe.config import Config
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ConfigError
from simpipe.samplers.shard_sampler import ShardSampler
from simpipe.training.average import WeightAverage
from simpipe.training.batches import changed, labelled_change, views_change
from simpipe.training.held_out import HeldOut, choose_held_out
from simpipe.training.optimizer import build_optimizer, computing_in, make_optimizer
from simpipe.training.recipes import make_learner, sampler_of
from simpipe.training.start import load_start


class Task:
    """All parts of a run, made and checked; nothing is trained yet.

    Attributes:
      sampler, info: the batches, and what the examples are.
      held_out: names of the train classes that are not drawn; `measuring` compares their examples.
      classes: indexes of the train classes that are.
      devices, strategy: all GPUs, or else all logical CPU devices.
      epoch_steps, total: steps of an epoch, and of the run.
      model: what is trained; `trained` is the encoder in it.
      encoder: a float32 copy of the encoder outside the strategy, which is measured and saved.
      average: of the weights, if wanted.
      start: the encoder that training begins with, if any.

    Raises:
      ConfigError: the configuration does not fit the data or the devices; names the field.
      ContractError, SourceError: the examples are damaged or too few.
    """

    def __init__(self, config: Config, examples: str | Path) -> None:
        self.config, self.examples = config, examples
        settings = self.settings = config.train
        stopping, sampling = settings.early_stopping, sampler_of(settings)
        info = DatasetInfo.load(examples)
        self.held_out: tuple[str, ...] = ()
        if stopping:
            self.held_out = choose_held_out(info, stopping, seed=config.seed, classes_per_batch=sampling.classes_per_batch)
        self.sampler = ShardSampler(examples, sampling, seed=config.seed, held_out=self.held_out)
        self.devices = local_devices()
        if self.sampler.batch_size % len(self.devices):
            raise ConfigError(
                f"train.sampler: classes_per_batch * examples_per_class = {self.sampler.batch_size} does not divide by "
                f"{len(self.devices)} devices",
                "change either, or hide devices with CUDA_VISIBLE_DEVICES",
            )
        self.strategy = tf.distribute.MirroredStrategy(self.devices)
        self.epoch_steps = settings.steps_per_epoch or self.sampler.steps_per_pass
        self.total = settings.epochs * self.epoch_steps
        self.sampler.check_groups(self.total)
        self.info = self.sampler.info

        place = {name: index for index, name in enumerate(self.info.class_names)}
        self.classes = [place[name] for name in self.info.train_classes if name not in self.held_out]
        self.change = self._change()
        turns = 4 if settings.augment.turns else 1
        with self.strategy.scope(), computing_in(settings.precision):
            learner = make_learner(config, self.info.input, num_classes=turns * len(self.classes))
            optimizer = make_optimizer(settings, total_steps=self.total, replicas=len(self.devices))
            self.model: Any = learner.model
            # XLA measured slower here: 78 ms a step against 64 for conv4 with batches of 128 on two cores.
            self.model.compile(optimizer, loss=learner.loss, jit_compile=False)
            build_optimizer(self.model)
        self.model.make_train_function()
        loss = next(metric for metric in self.model.metrics if metric.name == "loss")
        self._forget_loss: Any = tf.function(loss.reset_state)  # one call; its operations apart cost a millisecond
        self.trained: Any = learner.encoder
        # A float32 model outside the strategy: neither optimizer nor replicas go into the file.
        self.encoder: Any = build_encoder(self.info.input, settings.encoder, seed=config.seed)
        self.start = None
        if settings.start_from is not None:
            self.start = load_start(settings.start_from, self.encoder, spec=self.info.input, settings=settings.encoder)
            self.trained.set_weights(self.encoder.get_weights())
        self.average = WeightAverage(self.trained.weights, settings.ema) if settings.ema is not None else None
        self.measuring = None
        if stopping:
            self.measuring = HeldOut(examples, self.info, self.held_out, at_most=stopping.at_most, seed=config.seed)

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """What the model trains on in steps `first` to `last` - 1, counted from 0, for all devices."""
        batches = changed(self.sampler.dataset(first, steps=last - first), self.change, start_step=first)
        return iter(self.strategy.experimental_distribute_dataset(batches))

    def step(self, batches: Iterator[Any]) -> Any:
        """Trains on the next batch; returns its loss, a tensor that may not be there yet."""
        self._forget_loss()  # Keras logs the mean since the last time
        return self.model.train_function(batches)["loss"]

    def variables(self) -> list[Any]:
        """All that a step changes."""
        model = self.model
        metrics = {id(variable) for variable in model.metrics_variables}  # begin anew in each step
        own = {id(variable): variable for variable in (*model.variables, *model.loss_variables) if id(variable) not in metrics}
        average = self.average.variables if self.average else []
        return [*own.values(), *model.optimizer.variables, *average]

    def current_encoder(self) -> Any:
        """The encoder as it would be saved now."""
        self.encoder.set_weights(self.average.values() if self.average else self.trained.get_weights())
        return self.encoder

    def _change(self) -> Any:
        if self.settings.recipe.kind != "supervised":
            return views_change(self.config, self.info.input)
        numbers = None
        if self.settings.loss.kind in ("proxy_anchor", "arcface"):  # a proxy for each class that is drawn
            numbers = np.full(len(self.info.class_names), -1, np.int64)
            numbers[self.classes] = np.arange(len(self.classes))
        return labelled_change(self.config, self.info.input, classes=numbers)


def local_devices() -> list[str]:
    """GPUs, or else every logical CPU device."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]
