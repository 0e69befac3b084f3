"""Samplers over arrays in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simpipe.samplers.arguments import SamplerError, as_labels, check_batch, draw_seed, select_rows, warn_small_classes
from simpipe.samplers.sampler import Augmenter, Batch, Sampler
from simpipe.samplers.selection import as_examples, check_lengths
from simpipe.samplers.step_plan import StepPlan


def identity(x: Any) -> Any:
    return x


class _MemorySampler(Sampler):
    """What both samplers share: examples, the rows in use, and the plan of steps."""

    _x: np.ndarray
    _rows: np.ndarray  # of `_x`, in the order of `get_slice`
    _y: np.ndarray  # label of each of `_rows`
    _plan: StepPlan

    @property
    def num_examples(self) -> int:
        """Examples that batches are drawn from."""
        return len(self._rows)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self._load(self._rows[:1])[0]))

    def _load(self, rows: np.ndarray) -> Any:
        return self._x[rows]

    def _planned(self, batch_id: int) -> np.ndarray:
        """Places in `_rows` of a batch of this epoch; epochs go on where the last one ended."""
        return self._plan.rows(self.epoch * self.steps_per_epoch + batch_id)

    def _slice(self, begin: int, size: int) -> tuple[Any, np.ndarray]:
        if not 0 <= begin <= self.num_examples or size < -1:
            raise SamplerError(
                f"a slice of {size} examples from {begin} on is asked for; there are {self.num_examples} examples",
                "give a begin within the examples, and a size of 0 or more, or -1 for all that follow",
            )
        part = slice(begin, None if size < 0 else begin + size)
        return self._load(self._rows[part]), self._y[part]

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        # One epoch more is kept: Keras may still be asking for batches of the one that ended.
        self._plan.forget(max(0, self.epoch - 1) * self.steps_per_epoch)


class MultiShotMemorySampler(_MemorySampler):
    """Batches of exactly P classes with K examples each from arrays in memory.

    Classes are drawn uniformly. A class deals its examples in shuffled order and shuffles anew when all were dealt, also
    across epochs. A batch repeats an example only where a class has fewer than K; such classes are logged once. Batches of
    an epoch are numbered: `generate_batch(i)` gives the same one until the epoch ends.

    Args:
      x: examples [n, ...]: an array, a tensor, or a list; it is not copied.
      y: labels [n] or [n, 1]: integers or strings.
      load_example_fn: makes a model's input of one example of `x`, when a batch or a slice needs it.
      classes_per_batch: P.
      examples_per_class_per_batch: K.
      steps_per_epoch: batches an epoch.
      class_list: classes to keep; None for all.
      total_examples_per_class: at most so many examples of each class, drawn without replacement; None for all.
      augmenter: see `Sampler`.
      warmup: see `Sampler`.
      seed: the same seed gives the same slices and batches; None draws anew (fixed by `keras.utils.set_random_seed`).
      **kwargs: see `Sampler`.

    Attributes:
      class_list: the classes in use, sorted. Where labels are strings, a batch's y holds positions in this list, as
        losses need numbers.

    Raises:
      SamplerError: P is larger than the number of classes, a class has no examples, or lengths differ.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        load_example_fn: Callable[[Any], Any] = identity,
        classes_per_batch: int = 2,
        examples_per_class_per_batch: int = 2,
        steps_per_epoch: int = 1000,
        class_list: Sequence[Any] | None = None,
        total_examples_per_class: int | None = None,
        augmenter: Augmenter | None = None,
        warmup: int = -1,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            classes_per_batch,
            examples_per_class_per_batch=examples_per_class_per_batch,
            steps_per_epoch=steps_per_epoch,
            augmenter=augmenter,
            warmup=warmup,
            **kwargs,
        )
        self._x, labels = as_examples(x), as_labels(y)
        check_lengths(self._x, labels)
        self.load_example_fn = load_example_fn
        self.seed = draw_seed(seed)
        rng = np.random.default_rng([self.seed, 0])
        self._rows = select_rows(labels, class_list=class_list, per_class=total_examples_per_class, rng=rng)
        self._y = labels[self._rows]
        classes, numbers, counts = np.unique(self._y, return_inverse=True, return_counts=True)
        self.class_list: list[Any] = classes.tolist()
        self._targets = numbers if classes.dtype.kind == "U" else self._y
        check_batch(counts, classes_per_batch=classes_per_batch, examples_per_class=examples_per_class_per_batch)
        warn_small_classes(classes, counts, examples_per_class_per_batch)
        self._plan = StepPlan(
            numbers,
            classes_per_batch=classes_per_batch,
            examples_per_class=examples_per_class_per_batch,
            seed=(self.seed, 1),
            repeat_small=True,
        )

    def get_slice(self, begin: int = 0, size: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Examples in a random order that stays the same.

        Args:
          begin: place of the first one.
          size: how many, fewer at the end; -1 for all that follow.

        Returns:
          x [size, ...] as `load_example_fn` makes it, and labels int64[size] or str[size].

        Raises:
          SamplerError: `begin` lies outside the examples, or `size` is below -1.
        """
        return self._slice(begin, size)

    def _get_examples(self, batch_id: int, num_classes: int, examples_per_class: int) -> Batch:
        planned = self._planned(batch_id)
        return self._load(self._rows[planned]), self._targets[planned]

    def _load(self, rows: np.ndarray) -> Any:
        if self.load_example_fn is not identity:
            loaded = [np.asarray(self.load_example_fn(example)) for example in self._x[rows]]
        elif self._x.dtype != object:
            return self._x[rows]
        else:
            loaded = self._x[rows].tolist()
        try:
            return np.stack(loaded) if loaded else np.empty(0)
        except ValueError:
            shapes = sorted({np.shape(example) for example in loaded})
            raise SamplerError(
                f"examples of one batch have different shapes: {shapes[:5]}", "give a load_example_fn that makes them equal"
            ) from None


class SingleShotMemorySampler(_MemorySampler):
    """Batches of distinct examples, each its own class; positives come from the augmenter.

    All examples are dealt in shuffled order before one comes again.

    Args:
      x: examples [n, ...]; not copied.
      augmenter: makes the views; see `Sampler`.
      examples_per_batch: examples handed to the augmenter.
      num_augmentations_per_example: views it is asked for.
      steps_per_epoch: batches an epoch.
      warmup: see `Sampler`.
      seed: see `MultiShotMemorySampler`.
      **kwargs: see `Sampler`.

    Raises:
      SamplerError: `examples_per_batch` is larger than the number of examples.
    """

    def __init__(
        self,
        x: Any,
        augmenter: Augmenter,
        examples_per_batch: int,
        num_augmentations_per_example: int = 2,
        steps_per_epoch: int = 1000,
        warmup: int = -1,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            examples_per_batch,
            examples_per_class_per_batch=1,
            num_augmentations_per_example=num_augmentations_per_example,
            steps_per_epoch=steps_per_epoch,
            augmenter=augmenter,
            warmup=warmup,
            **kwargs,
        )
        self._x = as_examples(x)
        if examples_per_batch > len(self._x):
            raise SamplerError(
                f"a batch of {examples_per_batch} examples is asked for, but x has {len(self._x)}",
                f"lower examples_per_batch to at most {len(self._x)}: an example twice in a batch would be its own negative",
            )
        self.seed = draw_seed(seed)
        self._rows = self._y = np.arange(len(self._x))
        # One class of all examples, of which a batch takes so many: no example comes twice before all were dealt.
        one = np.zeros(len(self._x), np.int64)
        self._plan = StepPlan(one, classes_per_batch=1, examples_per_class=examples_per_batch, seed=(self.seed, 1))

    def get_slice(self, begin: int = 0, size: int = -1) -> Batch:
        """Examples `begin` to `begin + size` (-1 for all that follow), augmented as a batch is; y is their place in `x`.

        Raises:
          SamplerError: `begin` lies outside the examples, or `size` is below -1.
        """
        return self._augment(*self._slice(begin, size))

    def _get_examples(self, batch_id: int, num_classes: int, examples_per_class: int) -> Batch:
        planned = self._planned(batch_id)
        return self._load(planned), self._y[planned]
