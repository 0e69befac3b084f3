"""What one pass over the data deals: which blocks are open together, and how often each class is drawn from them.

Pure functions of the counts in `dataset.json` and of (seed, pass): nothing is read. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simpipe.config.models import SamplerConfig
from simpipe.samplers.deal import batches_of, trim
from simpipe.samplers.layout import Layout

# What a stream of random numbers is for; with (seed, pass, group) it names the stream.
ORDER, DRAWS, SCHEDULE, DEAL = range(4)


@dataclass(frozen=True)
class Group:
    """Blocks that are open together, and what is drawn from them.

    Attributes:
      number: of the group in its pass.
      blocks: int64[b].
      classes, sizes, draws: int64[c], ascending; the classes drawn, their rows in these blocks, and the draws of each.
      batches: how many batches the draws make up.
      examples: rows of drawable classes in these blocks.
    """

    number: int
    blocks: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray
    draws: np.ndarray
    batches: int
    examples: int


@dataclass(frozen=True)
class Pass:
    """One pass over the data: every block is open once."""

    number: int
    groups: tuple[Group, ...]

    @property
    def batches(self) -> int:
        return sum(group.batches for group in self.groups)

    def left_out(self, examples_per_class: int) -> int:
        """Examples that this pass does not deal, with weighting `proportional`."""
        return sum(group.examples - int(np.minimum(group.draws * examples_per_class, group.sizes).sum()) for group in self.groups)


class Planner:
    """Plans passes.

    Args:
      layout: of the shards.
      class_of: int64[s], for each segment the class that it counts as; -1 where it is not drawn.
      config: P, K, weighting, small classes, open blocks.
      seed: of the run.
    """

    def __init__(self, layout: Layout, class_of: np.ndarray, config: SamplerConfig, *, seed: int) -> None:
        self._layout, self._config, self._seed = layout, config, seed
        sizes = np.bincount(class_of[class_of >= 0], layout.segment_count[class_of >= 0], 0).astype(np.int64)
        if config.small_classes != "repeat":
            small = np.append(sizes < config.examples_per_class, False)  # and a place for -1
            class_of = np.where(small[class_of], -1, class_of)
            sizes = np.where(small[:-1], 0, sizes)
        self.class_of, self.sizes = class_of, sizes
        self._per_example = _draws_per_example(sizes, config.weighting, config.examples_per_class)

    @property
    def classes(self) -> np.ndarray:
        """int64: the classes that can be drawn."""
        return np.flatnonzero(self.sizes)

    @property
    def whole(self) -> bool:
        """Whether all blocks may be open together: then they are read once."""
        return self._layout.num_blocks <= self._config.open_blocks

    def rng(self, *where: int) -> np.random.Generator:
        """The stream of random numbers of (seed, pass, group, purpose)."""
        return np.random.default_rng([self._seed, *where])

    def plan(self, number: int) -> Pass:
        """Pass `number`, from 0."""
        return Pass(number, tuple(self._group(number, place, blocks) for place, blocks in enumerate(self._blocks(number))))

    def _blocks(self, number: int) -> list[np.ndarray]:
        """The blocks of each group. Half of the open blocks are dealt while the other half is being read."""
        layout = self._layout
        if self.whole:
            return [np.arange(layout.num_blocks)]
        rng = self.rng(number, 0, ORDER)
        # Blocks that begin with the same class come at even distances, so that a class which fills many of them is in
        # every group with about the same share.
        kind = layout.segment_class[layout.block_begin[:-1]]
        order = rng.permutation(layout.num_blocks)
        order = order[np.argsort(kind[order], kind="stable")]
        _, counts = np.unique(kind, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = (rank + rng.random(len(order))) / np.repeat(counts, counts)
        half = self._config.open_blocks // 2
        return [np.sort(part) for part in np.array_split(order[np.argsort(at)], -(-layout.num_blocks // half))]

    def _group(self, number: int, place: int, blocks: np.ndarray) -> Group:
        config, segments = self._config, self._layout.segments_of(blocks)
        owners, counts = self.class_of[segments], self._layout.segment_count[segments]
        classes, inverse = np.unique(owners, return_inverse=True)
        sizes = np.bincount(inverse, counts, len(classes)).astype(np.int64)
        classes, sizes = classes[classes >= 0], sizes[classes >= 0]
        rng = self.rng(number, place, DRAWS)
        draws = self._draws(classes, sizes, rng)
        batches = batches_of(draws, config.classes_per_batch)
        draws = trim(draws, batches, classes_per_batch=config.classes_per_batch, rng=rng)
        examples = int(sizes.sum())
        drawn = draws > 0
        return Group(place, blocks, classes[drawn], sizes[drawn], draws[drawn], batches, examples)

    def _draws(self, classes: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How often each class is to be drawn from `sizes` rows of it: int64[c]."""
        each = self._config.examples_per_class
        if self._config.weighting == "proportional":
            draws = sizes // each
        else:
            # Rounded at random, so that over many groups and passes the weights come out exactly.
            draws = np.floor(sizes * self._per_example[classes] + rng.random(len(classes))).astype(np.int64)
            draws[sizes < each] = 0
        small = self.sizes[classes] < each  # then they repeat, or they would not be here
        draws[small] = np.maximum(draws[small], 1)
        return draws


def _draws_per_example(
    sizes: np.ndarray, weighting: Literal["uniform", "sqrt", "proportional"], examples_per_class: int
) -> np.ndarray:
    """float64[c]: draws that a pass makes of a class, by each of its examples; in all as many as there are examples / K."""
    power = {"uniform": 0.0, "sqrt": 0.5, "proportional": 1.0}[weighting]
    weights = np.where(sizes > 0, np.maximum(sizes, 1.0) ** power, 0.0)
    scale = sizes.sum() / examples_per_class / max(weights.sum(), 1e-300)
    return weights * scale / np.maximum(sizes, 1)
