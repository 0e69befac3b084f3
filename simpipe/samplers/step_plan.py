"""The batch of any step, for samplers that are asked by number. NumPy only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from simpipe.samplers.plan import CHUNK, VisitPlan


class StepPlan:
    """A `VisitPlan` that answers in any order and from many threads: the rows of a step follow from (seed, step) alone.

    Steps are planned up to the one asked for and kept until `forget`; asking for a forgotten one plans from the start.

    Args:
      labels: int64[n], the class of each row.
      classes_per_batch: P.
      examples_per_class: K.
      seed: numbers that name the plan.
      repeat_small: see `VisitPlan`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        classes_per_batch: int,
        examples_per_class: int,
        seed: Sequence[int],
        repeat_small: bool = False,
    ) -> None:
        self._labels = labels
        self._arguments: dict[str, Any] = {
            "classes_per_batch": classes_per_batch,
            "examples_per_class": examples_per_class,
            "seed": tuple(seed),
            "repeat_small": repeat_small,
        }
        self._lock = threading.Lock()
        self._restart()

    def rows(self, step: int) -> np.ndarray:
        """int64[P * K], K after K."""
        number, place = divmod(step, CHUNK)
        with self._lock:
            if number < self._first:
                self._restart()
            while number >= self._first + len(self._chunks):
                self._chunks.append(self._plan.chunk())
            return self._chunks[number - self._first][place]

    def forget(self, before: int) -> None:
        """Plans up to step `before`, and lets go of the steps that lie before it."""
        self.rows(before)
        with self._lock:
            while self._first < before // CHUNK:
                self._chunks.popleft()
                self._first += 1

    def _restart(self) -> None:
        self._plan = VisitPlan(self._labels, **self._arguments)
        self._chunks: deque[np.ndarray] = deque()
        self._first = 0  # number of the first chunk kept

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes get a copy; a lock cannot travel.
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
