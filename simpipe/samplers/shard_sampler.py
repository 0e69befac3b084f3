"""Class-balanced batches from the TFRecord shards of an examples data set, in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.config.models import SamplerConfig
from simpipe.errors import ConfigError
from simpipe.samplers.block_reader import BlockReader
from simpipe.samplers.contract import check_classes, open_split
from simpipe.samplers.deal import deal, schedule, spread
from simpipe.samplers.layout import block_size, make_layout
from simpipe.samplers.passes import DEAL, SCHEDULE, Group, Pass, Planner
from simpipe.storage import LocalFolder, open_folder

_LOG = logging.getLogger(__name__)
# Blocks read at a time. Object storage answers late, but many at once; from a local file one thread is as fast as the
# parser, and more only wait for each other.
_REMOTE_READERS = 8
_CHUNK_BYTES = 4 << 20


class ShardSampler:
    """Batches of exactly P classes with K distinct examples each, drawn from the `train` split.

    A pass goes once over all blocks of all shards, in groups that are open together; the next group is read while one is
    dealt. The batch of a step follows from (seed, step) alone, whatever was read before.

    Args:
      folder: an examples data set, a local path or `gs://bucket/prefix`.
      config: P, K, weighting, open blocks.
      seed: of the run.
      held_out: names of train classes that are never drawn.

    Raises:
      ContractError: `dataset.json` or a shard is missing, or they contradict each other; names the file.
      ConfigError: fewer than P train classes.
      SourceError: train classes with fewer than K examples; names them with their counts.
    """

    def __init__(self, folder: str | Path, config: SamplerConfig, *, seed: int, held_out: Collection[str] = ()) -> None:
        self._folder = open_folder(folder)
        self.config, self.seed = config, seed
        self.error: BaseException | None = None
        self.info, self._shards = open_split(self._folder, missing_allowed=config.skip_corrupt > 0)
        runs = [np.array(shard.class_blocks, np.int64).reshape(-1, 2) for shard in self._shards]
        drawable = check_classes(self._folder, self.info, runs, config, held_out=held_out)
        size = block_size(self.info.input, wanted=config.block_examples, examples_per_class=config.examples_per_class)
        self._layout = make_layout(runs, size)
        # One more place at the end, which index -1 reaches: segments without a label.
        owner = np.where(drawable, np.arange(len(drawable)), -1)
        if config.ignore_labels:
            owner = np.where(drawable, 0, -1)
        self._planner = Planner(self._layout, owner[self._layout.segment_class], config, seed=seed)
        total = int(self._layout.segment_count.sum())
        self._reader = BlockReader(self._folder, self.info, max_corrupt=int(config.skip_corrupt * total))
        self._plan = lru_cache(maxsize=2)(self._planner.plan)
        self._neighbors: list[tuple[int, np.ndarray | None]] = []

    @property
    def batch_size(self) -> int:
        """Examples of a batch over all replicas: P * K."""
        return self.config.classes_per_batch * self.config.examples_per_class

    @property
    def steps_per_pass(self) -> int:
        """Batches of the first pass; later ones differ by a few, where groups leave other remainders."""
        return self._plan(0).batches

    def set_neighbors(self, neighbors: np.ndarray | None, *, from_step: int) -> None:
        """Brings near classes into one batch, as `config.hard_classes` says.

        Args:
          neighbors: int32[number of class names, m], the nearest classes of each, nearest first; -1 for none.
          from_step: groups of blocks that begin at this step or later are dealt so.
        """
        self._neighbors = [entry for entry in self._neighbors if entry[0] < from_step] + [(from_step, neighbors)]

    def batches(
        self, start_step: int = 0, *, steps: int | None = None, replica: int = 0, replicas: int = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches from `start_step` on: inputs [P * K / replicas, *shape], class indexes int64[P * K / replicas].

        What lies before `start_step` is skipped unread. The batches of all replicas, put together in their order, are
        those of one; each has P / replicas classes where P divides.

        Args:
          start_step: number of the first batch, from 0.
          steps: how many; None for no end.
          replica, replicas: which share of each batch.

        Raises:
          ValueError: P * K does not divide by `replicas`.
        """
        for inputs, labels, rows in self._dealt(start_step, steps, replica, replicas):
            for batch in rows:
                yield inputs[batch], labels[batch]

    def dataset(self, start_step: int = 0, *, steps: int | None = None, replica: int = 0, replicas: int = 1) -> tf.data.Dataset:
        """`batches` as a prefetched data set. Where the sampler fails it ends, and `raising` tells why."""
        spec, share = self.info.input, self.batch_size // replicas

        each = share * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        # Many batches a call: a call from TensorFlow into Python, or of any function there while blocks are being
        # parsed, costs more than a small batch.
        together = max(1, _CHUNK_BYTES // each)

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            try:
                for inputs, labels, rows in self._dealt(start_step, steps, replica, replicas):
                    for begin in range(0, len(rows), together):
                        some = rows[begin : begin + together]
                        yield inputs[some], labels[some]
            except Exception as error:  # raised again by `check`; TensorFlow would keep only its text
                self.error = error

        signature = (
            tf.TensorSpec((None, share, *spec.shape), tf.dtypes.as_dtype(spec.dtype)),
            tf.TensorSpec((None, share), tf.int64),
        )
        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(1).unbatch().prefetch(4)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raises the sampler's own error where `dataset()` ended early inside the block."""
        try:
            yield
        except Exception:  # whatever TensorFlow makes of a data set that ended early: nothing is swallowed
            self.check()  # raises the sampler's error, which explains it
            raise
        self.check()

    def check(self) -> None:
        """Raises the error that ended `dataset()`, if any."""
        if self.error is not None:
            raise self.error from None

    def check_groups(self, steps: int) -> None:
        """Checks from `dataset.json` alone that the blocks which are open together make up batches.

        Classes that are never drawn up to step `steps`, and what a pass leaves out, are logged as warnings.

        Raises:
          ConfigError: a whole pass makes up no batch; names `train.sampler.open_blocks`.
        """
        step, drawn = 0, np.zeros(len(self._planner.sizes), bool)
        for number in itertools.count():
            one = self._plan(number)
            if not one.batches:
                raise ConfigError(
                    f"train.sampler.open_blocks: the {self.config.open_blocks // (1 if self._planner.whole else 2)} blocks that "
                    f"are dealt together never hold {self.config.examples_per_class} examples of "
                    f"{self.config.classes_per_batch} classes",
                    f"raise train.sampler.open_blocks (there are {self._layout.num_blocks} blocks), or lower classes_per_batch "
                    "or examples_per_class",
                )
            for group in one.groups:
                drawn[group.classes] = True
            step += one.batches
            if step >= steps or drawn[self._planner.classes].all():
                break
        unused = int((~drawn[self._planner.classes]).sum())
        if unused:
            _LOG.warning("%d train classes are never drawn: raise train.sampler.open_blocks or the number of steps", unused)
        share = self._left_out()
        if self.config.weighting == "proportional" and share > 0.05:
            _LOG.warning("a pass leaves out %.1f %% of the examples: raise train.sampler.open_blocks", 100 * share)

    def summary(self) -> dict[str, Any]:
        """What was read and left out, for the record of a run.

        `left_out` is the share of examples that the first pass does not deal: with weighting `proportional` at most
        K - 1 of each class a group, and what no batch of P distinct classes can take. The other weightings repeat small
        classes and leave out parts of large ones by intention; there it is null.
        """
        return {
            "examples": int(self._planner.sizes.sum()),
            "classes": len(self._planner.classes),
            "blocks": self._layout.num_blocks,
            "steps_per_pass": self.steps_per_pass,
            "left_out": self._left_out() if self.config.weighting == "proportional" else None,
            "records_read": self._reader.read,
            "corrupt_skipped": self._reader.corrupt,
        }

    def _left_out(self) -> float:
        return self._plan(0).left_out(self.config.examples_per_class) / max(int(self._planner.sizes.sum()), 1)

    # --- groups, one after the other ---------------------------------------------------------------------------------

    def _dealt(
        self, start_step: int, steps: int | None, replica: int, replicas: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Inputs and labels of each group, and int64[batches, P * K / replicas], the rows of its batches."""
        if self.batch_size % replicas or not 0 <= replica < replicas:
            raise ValueError(f"replica {replica} of {replicas}: {self.batch_size} examples a batch")
        share = self.batch_size // replicas
        mine = slice(replica * share, (replica + 1) * share)
        end = None if steps is None else start_step + steps
        with contextlib.ExitStack() as stack:
            ahead = stack.enter_context(ThreadPoolExecutor(1, "simpipe-next-group"))
            readers = None
            if not isinstance(self._folder, LocalFolder):
                readers = stack.enter_context(ThreadPoolExecutor(_REMOTE_READERS, "simpipe-read"))
            spare: list[np.ndarray] = []
            for first, number, group, loaded in self._loaded(start_step, end, ahead, readers, spare):
                stop = group.batches if end is None else min(group.batches, end - first)
                rows = self._rows(first, number, group, loaded)[max(start_step - first, 0) : stop, mine]
                yield loaded.inputs, loaded.labels, rows
                if not self._planner.whole:
                    assert loaded.inputs.base is not None
                    spare.append(loaded.inputs.base)  # for the group after the next
                del loaded, rows

    def _loaded(
        self,
        start_step: int,
        end: int | None,
        ahead: ThreadPoolExecutor,
        readers: ThreadPoolExecutor | None,
        spare: list[np.ndarray],
    ) -> Iterator[tuple[int, int, Group, _Loaded]]:
        """(first step, pass, group, its examples) in order; the next group is being read meanwhile."""
        waiting: tuple[int, int, Group, Future[_Loaded]] | None = None
        kept: _Loaded | None = None
        try:
            for first, number, group in self._groups(start_step, end):
                if self._planner.whole:  # one group, the same in each pass: read once
                    kept = kept or self._load(group, readers, spare)
                    yield first, number, group, kept
                    continue
                future = ahead.submit(self._load, group, readers, spare)
                if waiting:
                    yield *waiting[:3], waiting[3].result()
                waiting = (first, number, group, future)
                del future
            if waiting:
                yield *waiting[:3], waiting[3].result()
        finally:
            if waiting:
                waiting[3].cancel()

    def _groups(self, start_step: int, end: int | None) -> Iterator[tuple[int, int, Group]]:
        """(first step, pass, group) of the groups with a batch in [start_step, end)."""
        step = 0
        for number in itertools.count():
            one: Pass = self._plan(number)
            if not one.batches:
                self.check_groups(1)  # tells why
            if step + one.batches <= start_step:
                step += one.batches
                continue
            for group in one.groups:
                if end is not None and step >= end:
                    return
                if group.batches and step + group.batches > start_step:
                    yield step, number, group
                step += group.batches

    def _load(self, group: Group, readers: ThreadPoolExecutor | None, spare: list[np.ndarray]) -> _Loaded:
        """Reads a group, into a spare array where there is one: new ones each time would scatter the heap."""
        layout = self._layout
        counts = layout.block_count[group.blocks]
        ends = np.cumsum(counts)
        spec = self.info.input
        most = int(layout.block_count.max()) * (self.config.open_blocks // 2)
        space = spare.pop() if spare else np.empty((max(most, int(ends[-1])), *spec.shape), spec.dtype)
        inputs = space[: int(ends[-1])]
        segments = layout.segments_of(group.blocks)
        labels = np.repeat(layout.segment_class[segments], layout.segment_count[segments])
        owners = np.repeat(self._planner.class_of[segments], layout.segment_count[segments])

        def read(block: int, begin: int, end: int) -> np.ndarray:
            shard = self._shards[int(layout.block_shard[block])]
            first = int(layout.block_first[block])
            return self._reader.labels_and_inputs(shard, first, labels[begin:end], inputs[begin:end])

        each = readers.map if readers else map
        good = np.concatenate(list(each(read, group.blocks, ends - counts, ends)))
        owners[~good] = -1
        return _Loaded(inputs, labels, owners)

    def _rows(self, first: int, number: int, group: Group, loaded: _Loaded) -> np.ndarray:
        """int64[batches, P * K]: the rows of `loaded` that make up each batch."""
        config, rng = self.config, self._planner.rng(number, group.number, SCHEDULE)
        order = np.argsort(loaded.owners, kind="stable")
        ranked = loaded.owners[order]
        begins = np.searchsorted(ranked, group.classes, side="left")
        sizes = np.searchsorted(ranked, group.classes, side="right") - begins
        draws = group.draws
        if (sizes == 0).any():  # classes all of whose records are damaged
            try:
                draws = spread(draws, sizes > 0, group.batches, rng=rng)
            except ValueError:
                raise ConfigError(
                    f"train.sampler.skip_corrupt: {int((sizes == 0).sum())} classes of a group lost all their records, "
                    f"and too few are left for {config.classes_per_batch} classes a batch",
                    "restore the shards, or lower train.sampler.classes_per_batch",
                ) from None
        near = self._near(first, group)
        hard = config.hard_classes
        about = {} if near is None or hard is None else {"neighbors": near, "share": hard.share, "bundle": hard.bundle}
        chosen = schedule(draws, group.batches, classes_per_batch=config.classes_per_batch, rng=rng, **about)
        rng = self._planner.rng(number, group.number, DEAL)
        rows = deal(chosen, sizes, examples_per_class=config.examples_per_class, rng=rng)
        # `deal` numbers rows class after class; here they lie in the order of blocks.
        starts = np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
        return order[rows + starts[rows]]

    def _near(self, first: int, group: Group) -> np.ndarray | None:
        """The neighbors in force at step `first`, as places in `group.classes`: int64[c, m]."""
        in_force = [neighbors for step, neighbors in self._neighbors if step <= first]
        if not in_force or in_force[-1] is None:
            return None
        named = in_force[-1][group.classes]
        place = np.searchsorted(group.classes, named).clip(0, len(group.classes) - 1)
        return np.where((named >= 0) & (group.classes[place] == named), place, -1)


@dataclass
class _Loaded:
    """Examples of a group: inputs, class indexes, and the class that each counts as (-1: not drawn)."""

    inputs: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
