"""Which serialized records make up each batch, over groups of shards."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe.errors import SourceError
from simpipe.samplers.arguments import SamplerError, listing
from simpipe.samplers.plan import VisitPlan, plan_pass
from simpipe.samplers.record_groups import RecordGroup, read_group
from simpipe.samplers.record_parser import RecordParser

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RecordBatches:
    """Batches of P classes with K serialized records each, group of shards after group.

    Args:
      paths: the shards.
      compression: None, "GZIP" or "ZLIB".
      parser: tells the labels.
      classes_per_batch: P.
      examples_per_class: K.
      shards_per_group: shards in memory together.
      passes: over the shards; -1 for no end.
      seed: of the batches.
      read_ahead: whether the next group is read while batches are drawn from one.

    Raises:
      SourceError: a shard cannot be read, or a class has fewer than K records while all shards are one group.
      SamplerError: a group has fewer than P classes with K records.
    """

    paths: Sequence[str]
    compression: str | None
    parser: RecordParser
    classes_per_batch: int
    examples_per_class: int
    shards_per_group: int
    passes: int
    seed: int
    read_ahead: bool

    def __post_init__(self) -> None:
        self._iterations = itertools.count()
        self._warned: set[Any] = set()
        # A single group stays for every iteration; of several, the first serves the first visit.
        self._single = len(self.paths) <= self.shards_per_group
        self._held: tuple[tuple[int, ...], RecordGroup] | None = None
        for _, shards, group in self._groups(0, 1):
            self._held = shards, group
            return
        raise self._too_few_classes(len(self.paths))

    def batches(self) -> Iterator[np.ndarray]:
        """bytes[P * K], a batch at a time."""
        iteration = next(self._iterations)
        if self._single:
            assert self._held is not None
            yield from self._deal(self._held[1], (iteration,), self.passes)
            return
        groups = self._groups(iteration, self.passes)
        with ThreadPoolExecutor(1) as pool:
            entry = next(groups, None)
            while entry:
                reading = pool.submit(next, groups, None) if self.read_ahead else None
                yield from self._deal(entry[2], entry[0], 1)
                entry = None  # before the next one is read
                entry = reading.result() if reading else next(groups, None)

    def _groups(self, iteration: int, passes: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], RecordGroup]]:
        """(visit, shards, group); a group of too few classes goes together with the one that follows."""
        behind: tuple[int, ...] = ()
        for place, planned in self._visits(iteration, passes):
            shards = tuple(sorted({*behind, *planned}))
            loaded = [self._load(shards)]
            if self._drawable(loaded[0], len(shards)) >= self.classes_per_batch:
                behind = ()
                yield place, shards, loaded.pop()  # nothing here holds on to it
            elif len(shards) == len(self.paths):
                raise self._too_few_classes(len(shards))
            else:
                behind = shards

    def _visits(self, iteration: int, passes: int) -> Iterator[tuple[tuple[int, int, int], tuple[int, ...]]]:
        """((iteration, pass, visit), shards). Lengths are not known before a shard is read: all count the same."""
        for number in itertools.count() if passes < 0 else range(passes):
            visits = plan_pass(
                [1] * len(self.paths), open_shards=self.shards_per_group, batch=1, seed=self.seed, number=iteration << 32 | number
            )
            yield from (((iteration, number, place), visit.shards) for place, visit in enumerate(visits))

    def _load(self, shards: tuple[int, ...]) -> RecordGroup:
        held, self._held = self._held, None
        if held and held[0] == shards:
            return held[1]
        return read_group([self.paths[shard] for shard in shards], self.compression, self.parser.labels)

    def _drawable(self, group: RecordGroup, shards: int) -> int:
        """How many classes have K records; the others are an error in a single group, else logged once."""
        classes, counts = np.unique(group.labels, return_counts=True)
        few = counts < self.examples_per_class
        if few.any() and self._single:
            small = [f"{name} ({count})" for name, count in zip(classes[few].tolist(), counts[few], strict=True)]
            raise SourceError(
                f"{len(small)} classes have fewer than example_per_class = {self.examples_per_class} examples: {listing(small)}",
                "lower example_per_class, or write more examples; y of deserialization_fn must be the label",
            )
        new = sorted(set(classes[few].tolist()) - self._warned)
        self._warned.update(new)
        if new:
            _LOG.warning(
                "%d classes have fewer than %d examples in %d shards read together, and are left out there: %s",
                len(new),
                self.examples_per_class,
                shards,
                listing(new),
            )
        return len(classes) - int(few.sum())

    def _too_few_classes(self, shards: int) -> SamplerError:
        return SamplerError(
            f"all {shards} shards hold {self.examples_per_class} examples of fewer than {self.classes_per_batch} classes",
            "lower batch_size, or write examples of more classes",
        )

    def _deal(self, group: RecordGroup, visit: tuple[int, ...], passes: int) -> Iterator[np.ndarray]:
        plan = VisitPlan(
            group.labels,
            classes_per_batch=self.classes_per_batch,
            examples_per_class=self.examples_per_class,
            seed=(self.seed, len(visit), *visit),
        )
        steps = (
            None if passes < 0 else passes * max(1, round(len(group.labels) / (self.classes_per_batch * self.examples_per_class)))
        )
        for rows in itertools.islice(plan.batches(), steps):
            yield group.records[rows]
