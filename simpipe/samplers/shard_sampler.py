"""Class-balanced batches from the TFRecord shards of an examples data set, in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import CURE, DATASET_JSON, DatasetInfo, verify_dataset
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.samplers.plan import Visit, VisitPlan, plan_pass
from simpipe.samplers.shard_reader import read_shards

_LOG = logging.getLogger(__name__)
_SPLIT = "train"


class ShardSampler:
    """Batches of exactly P classes with K distinct examples each, drawn from the `train` split.

    At most `open_shards` shards are in memory. The batch of a step follows from (seed, step) alone.

    Args:
      folder: an examples data set.
      config: P, K and `open_shards`.
      seed: of the run.

    Raises:
      ContractError: `dataset.json` or a shard is missing, or they contradict each other; names the file.
      ConfigError: fewer than P train classes.
      SourceError: train classes with fewer than K examples; names them with their counts.
    """

    def __init__(self, folder: Path, config: SamplerConfig, *, seed: int) -> None:
        self.info = DatasetInfo.load(folder)
        verify_dataset(folder, self.info, checksums=False, sizes=False)  # content is checked where a shard is read
        self.config, self.seed = config, seed
        self.error: BaseException | None = None
        self._shards = self.info.shards(folder, _SPLIT)
        self._folder = folder
        self._check_classes()

    @property
    def batch_size(self) -> int:
        return self.config.classes_per_batch * self.config.examples_per_class

    def visits(self) -> Iterator[tuple[tuple[int, int], Visit]]:
        """((pass, number), visit) without end, or one visit that never ends."""
        lengths = [shard.num_examples for _, shard in self._shards]
        number = 0
        while True:
            visits = plan_pass(lengths, open_shards=self.config.open_shards, batch=self.batch_size, seed=self.seed, number=number)
            yield from (((number, place), visit) for place, visit in enumerate(visits))
            number += 1

    def batches(self, start_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches from `start_step` on, without end: inputs [P * K, *shape], class indexes int64[P * K].

        Visits that lie before `start_step` are skipped unread.
        """
        step = 0
        for place, visit in self.visits():
            if visit.steps is not None and step + visit.steps <= start_step:
                step += visit.steps
                continue
            inputs, labels = read_shards([self._shards[shard] for shard in visit.shards], self.info)
            for rows in self._rows(labels, visit, place):
                if step >= start_step:
                    yield inputs[rows], labels[rows]
                step += 1
            del inputs, labels  # before the next group is read

    def dataset(self, start_step: int = 0) -> tf.data.Dataset:
        """`batches` as a prefetched data set. Where the sampler fails it ends, and `raising` tells why."""

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            try:
                yield from self.batches(start_step)
            except Exception as error:
                # TensorFlow would keep only its text, and print the traceback.
                self.error = error

        spec = self.info.input
        signature = (
            tf.TensorSpec((self.batch_size, *spec.shape), tf.dtypes.as_dtype(spec.dtype)),
            tf.TensorSpec((self.batch_size,), tf.int64),
        )
        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(4)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raises the sampler's own error where `dataset()` ended early inside the block."""
        try:
            yield
        except Exception:
            self.check()  # the sampler's error explains TensorFlow's; any other goes on as it is
            raise
        self.check()

    def check(self) -> None:
        """Raises the error that ended `dataset()`, if any."""
        if self.error is not None:
            raise self.error from None

    def check_visits(self, steps: int) -> None:
        """Checks from `dataset.json` alone that every group of shards up to step `steps` can fill its batches.

        Classes that no group holds K examples of are never drawn: they are logged as a warning.

        Raises:
          ConfigError: a group holds fewer than P classes with K examples; names `train.sampler.open_shards`.
        """
        p, k = self.config.classes_per_batch, self.config.examples_per_class
        step, drawable = 0, np.zeros(len(self.info.class_names), bool)
        for _, visit in self.visits():
            counts = np.zeros(len(self.info.class_names), np.int64)
            for shard in visit.shards:
                np.add.at(counts, *np.array(self._shards[shard][1].class_blocks, np.int64).reshape(-1, 2).T)
            if (counts >= k).sum() < p:
                raise ConfigError(
                    f"train.sampler.open_shards: {len(visit.shards)} shards open together hold {k} examples of only "
                    f"{(counts >= k).sum()} classes; a batch needs {p} classes",
                    f"raise train.sampler.open_shards (there are {len(self._shards)} shards), or lower "
                    "train.sampler.examples_per_class",
                )
            drawable |= counts >= k
            if visit.steps is None or (step := step + visit.steps) >= steps:
                break
        unused = len(self.info.train_classes) - int(drawable.sum())
        if unused:
            _LOG.warning("%d train classes are never drawn: raise train.sampler.open_shards or the number of steps", unused)

    def _rows(self, labels: np.ndarray, visit: Visit, place: tuple[int, int]) -> Iterator[np.ndarray]:
        p, k = self.config.classes_per_batch, self.config.examples_per_class
        plan = VisitPlan(labels, classes_per_batch=p, examples_per_class=k, seed=(self.seed, *place))
        yield from itertools.islice(plan.batches(), visit.steps)

    def _check_classes(self) -> None:
        names, p, k = self.info.class_names, self.config.classes_per_batch, self.config.examples_per_class
        counts = np.zeros(len(names), np.int64)
        trained = np.isin(np.array(names, object), np.array(self.info.train_classes, object))
        for path, shard in self._shards:
            blocks = np.array(shard.class_blocks, np.int64).reshape(-1, 2)
            known = (blocks[:, 0] >= 0) & (blocks[:, 0] < len(names))
            if not (known.all() and trained[blocks[:, 0]].all()):
                raise ContractError(f"{path}: {DATASET_JSON} lists a class there that is not trained on", CURE)
            np.add.at(counts, blocks[:, 0], blocks[:, 1])
        declared = np.array([self.info.class_counts.get(_SPLIT, {}).get(name, 0) for name in names], np.int64)
        if (declared != counts).any():
            name = names[int(np.argmax(declared != counts))]
            raise ContractError(f"{self._folder / DATASET_JSON}: class_counts and class_blocks differ for class {name!r}", CURE)
        if trained.sum() < p:
            raise ConfigError(
                f"train.sampler.classes_per_batch: {p} classes a batch, but the train split has {trained.sum()}",
                "lower train.sampler.classes_per_batch, or name more classes in classes.train",
            )
        few = np.flatnonzero(trained & (counts < k))
        if len(few):
            listed = ", ".join(f"{names[index]} ({counts[index]})" for index in few[:10]) + (", …" if len(few) > 10 else "")
            raise SourceError(
                f"{len(few)} train classes have fewer than train.sampler.examples_per_class = {k} examples: {listed}",
                "lower train.sampler.examples_per_class, add examples, or take these classes out of classes.train",
            )
