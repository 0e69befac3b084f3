"""The base of samplers that Keras asks for batches by number."""

from __future__ import annotations

import abc
import logging
import threading
from collections.abc import Callable
from typing import Any

import keras

from simpipe.samplers.arguments import SamplerError

_LOG = logging.getLogger(__name__)

Augmenter = Callable[[Any, Any, int, bool], Any]
Batch = tuple[Any, Any]


class Sampler(keras.utils.PyDataset, abc.ABC):
    """Batches of `classes_per_batch` classes with `examples_per_class_per_batch` examples each.

    `model.fit(sampler)` and `validation_data=sampler` take it as it is. Subclasses write `_get_examples`.

    An augmenter is called as `augmenter(x, y, num_augmentations_per_example, is_warmup)` with a batch, and returns
    one of:

    - `(x, y)`: a batch, of any size;
    - two views `[view1, view2]`: the batch is `(view1, view2)`, which contrastive models train on;
    - any other number of views: the batch is `((view1, view2, view3, ...), y)`.

    Args:
      classes_per_batch: P, 1 or more.
      examples_per_class_per_batch: K, 1 or more.
      num_augmentations_per_example: handed to the augmenter.
      steps_per_epoch: batches an epoch.
      augmenter: see above; None for none.
      warmup: epochs during which the augmenter is told `is_warmup=True`; 0 or less for none.
      **kwargs: `workers`, `use_multiprocessing`, `max_queue_size`, as in `keras.utils.PyDataset`.

    Raises:
      SamplerError: a number is below 1.
    """

    def __init__(
        self,
        classes_per_batch: int,
        examples_per_class_per_batch: int = 2,
        num_augmentations_per_example: int = 1,
        steps_per_epoch: int = 1000,
        augmenter: Augmenter | None = None,
        warmup: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        numbers = {
            "classes_per_batch": classes_per_batch,
            "examples_per_class_per_batch": examples_per_class_per_batch,
            "steps_per_epoch": steps_per_epoch,
        }
        wrong = [f"{name}={value}" for name, value in numbers.items() if value < 1]
        if wrong:
            raise SamplerError(f"{', '.join(wrong)}: below 1", "give 1 or more")
        self.epoch = 0
        self.classes_per_batch = classes_per_batch
        self.examples_per_class_per_batch = examples_per_class_per_batch
        self.num_augmentations_per_example = num_augmentations_per_example
        self.steps_per_epoch = steps_per_epoch
        self.augmenter = augmenter
        self.warmup = warmup
        self._asked_length: int | None = None

    @property
    def batch_size(self) -> int:
        """Examples of a batch before augmentation."""
        return self.classes_per_batch * self.examples_per_class_per_batch

    @property
    def is_warmup(self) -> bool:
        return self.epoch < self.warmup

    @abc.abstractmethod
    def _get_examples(self, batch_id: int, num_classes: int, examples_per_class: int) -> Batch:
        """The batch before augmentation: x [P * K, ...] and y [P * K].

        Args:
          batch_id: number of the batch in the epoch.
          num_classes: P.
          examples_per_class: K.
        """

    def generate_batch(self, batch_id: int) -> Batch:
        """Batch `batch_id` of this epoch, augmented."""
        x, y = self._get_examples(batch_id, self.classes_per_batch, self.examples_per_class_per_batch)
        return self._augment(x, y)

    def _augment(self, x: Any, y: Any) -> Batch:
        if self.augmenter is None:
            return x, y
        made = self.augmenter(x, y, self.num_augmentations_per_example, self.is_warmup)
        if not isinstance(made, (tuple, list)) or len(made) == 0:
            raise SamplerError(f"the augmenter returned a {type(made).__name__}", "return (x, y), or a list of views")
        if len(made) == 2:
            return made[0], made[1]
        return (made[0] if len(made) == 1 else tuple(made)), y

    def __len__(self) -> int:
        return self.steps_per_epoch

    @property
    def num_batches(self) -> int:
        self._asked_length = threading.get_ident()
        return len(self)

    def __getitem__(self, index: int) -> Batch:
        if self._asked_length == threading.get_ident():
            self._asked_length = None
        return self.generate_batch(index)

    def on_epoch_begin(self) -> None:
        self._asked_length = None

    def on_epoch_end(self) -> None:
        """Counts the epoch; Keras calls it."""
        # Before every fit and evaluate Keras ends an epoch that never ran (`EpochIterator.reset`), just after it asked for
        # the number of batches. Were it counted, warm-up would end too early.
        reset, self._asked_length = self._asked_length == threading.get_ident(), None
        if reset:
            return
        warm = self.is_warmup
        self.epoch += 1
        if warm and not self.is_warmup:
            _LOG.info("warm-up is over after %d epochs", self.epoch)
