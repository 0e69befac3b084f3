"""Trains an encoder on the `train` split of an examples data set: reproducible, resumable, on all local devices."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simpipe import files
from simpipe.architectures.views import with_views
from simpipe.config import Config
from simpipe.errors import SimpipeError
from simpipe.progress import progress
from simpipe.training.backup import Backup, RunState
from simpipe.training.curves import Curves
from simpipe.training.encoder import EncoderInfo, fingerprint_of, save_encoder
from simpipe.training.hard_classes import near_classes
from simpipe.training.held_out import verdict
from simpipe.training.optimizer import check_scale
from simpipe.training.record import session, training_facts, write_record
from simpipe.training.task import Task

_LOG = logging.getLogger(__name__)
_BACKUP = ".backup"
_CURE = "lower train.learning_rate; if it stays, look for extreme values in the input"
_CURE_16 = "use `precision: mixed_bfloat16`, whose numbers reach as far as float32's; or " + _CURE
_READ_EVERY = 16  # steps: reading a loss waits for the device


def train(config: Config, *, examples: str | Path, folder: Path, key: str) -> EncoderInfo:
    """Trains and saves an encoder, with `train.json` and `losses.npy` beside it.

    The same configuration, examples and kind of machine give the same weights to the bit, also where the run was
    killed and started again: it goes on from the last backup, kept in `folder/.backup` until the end. Turns on
    TensorFlow's op determinism for the process.

    Args:
      config: `train` and `seed` are used.
      examples: folder of an examples data set with a `train` split, a local path or `gs://bucket/prefix`.
      folder: where the encoder goes.
      key: identity of this step's inputs, kept in `encoder.json`.

    Raises:
      ConfigError: the configuration does not fit the data or the devices; names the field.
      ContractError, SourceError: the examples are damaged or too few.
      SimpipeError: the loss or a weight became NaN or infinite.
    """
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    run = _Run(Task(config, examples), folder=folder, key=key)
    run.begin()
    run.go_on()
    return run.finish()


class _Run:
    """One run: its loop, and its end."""

    def __init__(self, task: Task, *, folder: Path, key: str) -> None:
        self.task, self.folder, self.key = task, folder, key
        self.settings = task.config.train
        self.facts = training_facts(task.config, replicas=len(task.devices), start=task.start)
        # A run may go on with another number of replicas: the batches are the same.
        identity = {name: value for name, value in self.facts.items() if name != "replicas"}
        self.backup = Backup(folder / _BACKUP, run=files.digest({"key": key, "epoch_steps": task.epoch_steps, **identity}))
        self.state = RunState()
        self.saved = 0  # steps in the backup
        self.curves: Curves | None = None
        self.began = time.monotonic()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From the backup, or from the first step."""
        with self.task.strategy.scope():
            self.state = self.backup.restore(self.task.variables())
        state, self.saved = self.state, self.state.step
        state.sessions.append(session(state.step, self.task.devices))
        if self.settings.tensorboard:
            self.curves = Curves(self.folder / "logs", step=state.step)
        for step, neighbors in state.neighbors:
            self.task.sampler.set_neighbors(neighbors, from_step=step)
        if not state.step and self.task.start is not None and self.settings.sampler.hard_classes:
            self._find_near_classes()
        if state.step:
            _LOG.info("going on after step %d of %d", state.step, self.task.total)

    def go_on(self) -> None:
        """Trains to the end, or until the held-out metric has stopped rising."""
        with progress("train", self.task.total, "steps") as update, self.task.sampler.raising():
            while self.state.step < self.task.total and not self._stopped():
                # Batches are made ahead: they end where the next ones depend on the weights.
                first, last = self.state.step, self._next_refresh(self.state.step)
                batches = self.task.batches(first, last)
                pending: list[Any] = []
                for step in range(first + 1, last + 1):
                    if self.curves:
                        self._draw_rate(step)
                    pending.append(self.task.step(batches))
                    if self.task.average:
                        self.task.average.update(step)
                    epoch_ends, saves = step % self.task.epoch_steps == 0, self._saves_at(step)
                    if epoch_ends or saves or len(pending) == _READ_EVERY:
                        self._read(pending)
                    if epoch_ends:
                        self._end_epoch(step // self.task.epoch_steps)
                    if saves:
                        self._save()
                    update(step)
                    if epoch_ends and self._stopped():
                        break
        if self.state.step != self.saved:
            self._save()

    def _read(self, pending: list[Any]) -> None:
        """Takes the losses of the steps since the last call."""
        first = self.state.step + 1
        values = [float(np.asarray(loss)) for loss in pending]
        pending.clear()
        for step, value in enumerate(values, first):
            if not math.isfinite(value):
                half = self.settings.precision == "mixed_float16"
                raise SimpipeError(f"training: the loss is {value} at step {step}", _CURE_16 if half else _CURE)
            if self.curves:
                self.curves.add(step, {"train/loss": value})
        self.state.losses += values

    def _end_epoch(self, epoch: int) -> None:
        step, stopping, hard = self.state.step, self.settings.early_stopping, self.settings.sampler.hard_classes
        if stopping and self.task.measuring and (epoch % stopping.every == 0 or step == self.task.total):
            found = self.task.measuring.measure(self.task.current_encoder())
            self.state.measured.append({"epoch": epoch, "step": step, **found})
            if self._best() == len(self.state.measured) - 1:
                self.state.best = self.task.encoder.get_weights()
            if self.curves:
                self.curves.add(step, {f"held_out/{name}": value for name, value in found.items()})
            _LOG.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        if hard and epoch % hard.every == 0 and step < self.task.total:
            self._find_near_classes()

    def _find_near_classes(self) -> None:
        """Neighbors by the present weights, for groups that begin from here on."""
        step, hard = self.state.step, self.settings.sampler.hard_classes
        assert hard is not None
        encoder = self.task.current_encoder()
        near = near_classes(
            self.task.examples,
            self.task.info,
            self.task.classes,
            encode=encoder.encode,
            settings=hard,
            seed=self.task.config.seed,
        )
        self.task.sampler.set_neighbors(near, from_step=step)
        # A group that is being dealt still has the neighbors of its beginning, no more than a pass ago.
        needed = step - 2 * self.task.sampler.steps_per_pass
        older = [entry for entry in self.state.neighbors if entry[0] < step]
        last_before = max((at for at, _ in older if at <= needed), default=0)
        self.state.neighbors = [entry for entry in older if entry[0] >= last_before] + [(step, near)]

    def _save(self) -> None:
        check_scale(self.task.model.optimizer, step=self.state.step)
        now = time.monotonic()
        self.state.sessions[-1]["seconds"] += now - self.began
        self.began = now
        if self.curves:
            self.curves.close(self.state.step)
        self.backup.save(self.task.variables(), self.state)
        self.saved = self.state.step

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> EncoderInfo:
        """Saves the encoder."""
        state, settings = self.state, self.settings
        encoder, best = self.task.current_encoder(), None
        if settings.early_stopping:
            best = self._best()
            encoder.set_weights(state.best)
        _check_weights(encoder)
        if settings.encoder.views:
            encoder = with_views(encoder, settings.augment, views=settings.encoder.views, seed=self.task.config.seed)
        self.task.sampler.check()
        history = {"loss": [float(np.mean(epoch)) for epoch in np.array(state.losses).reshape(-1, self.task.epoch_steps)]}
        metrics = {"loss": history["loss"][-1]}
        if best is not None:
            metrics |= {f"held_out_{name}": value for name, value in state.measured[best].items()}
        supervised = settings.recipe.kind == "supervised"
        write_record(
            self.folder,
            config=self.task.config,
            key=self.key,
            info=self.task.info,
            facts=self.facts,
            state=state,
            history=history,
            held_out=self.task.held_out,
            best=best,
            stopped=state.step < self.task.total,
            sampler=self.task.sampler.summary(),
            fingerprint=fingerprint_of(encoder),
        )
        info = save_encoder(
            encoder,
            self.folder,
            key=self.key,
            input=self.task.info.input,
            dim=settings.encoder.dim,
            distance="euclidean" if supervised and settings.loss.distance != "cosine" else "cosine",
            train_classes=self.task.info.train_classes,
            training=self.facts,
            history=history,
            metrics=metrics,
        )
        self.backup.remove()
        seconds = sum(one["seconds"] for one in state.sessions)
        _LOG.info("trained %d steps in %.1f s, loss %.4f", state.step, seconds, metrics["loss"])
        return info

    # --- parts -------------------------------------------------------------------------------------------------------

    def _best(self) -> int:
        return self._verdict()[0]

    def _stopped(self) -> bool:
        return bool(self.state.measured) and self._verdict()[1]

    def _verdict(self) -> tuple[int, bool]:
        stopping = self.settings.early_stopping
        assert stopping is not None
        return verdict([found[stopping.metric] for found in self.state.measured], stopping.patience)

    def _saves_at(self, step: int) -> bool:
        return step == self.task.total or step % (self.settings.backup_every or self.task.epoch_steps) == 0

    def _next_refresh(self, step: int) -> int:
        hard = self.settings.sampler.hard_classes
        if hard is None:
            return self.task.total
        every = hard.every * self.task.epoch_steps
        return min((step // every + 1) * every, self.task.total)

    def _draw_rate(self, step: int) -> None:
        assert self.curves
        self.curves.add(step, {"train/learning_rate": float(np.asarray(self.task.model.optimizer.learning_rate))})


def _check_weights(encoder: keras.Model) -> None:
    bad = [weight.path for weight in encoder.weights if not np.isfinite(np.asarray(weight)).all()]
    if bad:
        raise SimpipeError(f"training: weights {', '.join(bad[:5])} hold NaN or infinity", _CURE)
