"""Held-out classes: which they are, how well an encoder retrieves among them, and when that is good enough to stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe.config.models import EarlyStopping
from simpipe.data.examples import DatasetInfo, resolve_classes
from simpipe.errors import ConfigError
from simpipe.retrieval_metrics import MapAtK, PrecisionAtK, RecallAtK
from simpipe.samplers.class_reader import read_classes
from simpipe.training.nearest import nearest_others, row_blocks

_FIELD = "train.early_stopping.held_out"
_STREAM = 0x4E1D


def choose_held_out(info: DatasetInfo, settings: EarlyStopping, *, seed: int, classes_per_batch: int) -> tuple[str, ...]:
    """The train classes that are measured and not learned from.

    Args:
      info: of the examples.
      settings: names, or a share of the train classes.
      seed: of the choice.
      classes_per_batch: how many others a batch needs; 1 where labels are not used.

    Raises:
      ConfigError: a named class is no train class, fewer than two classes have two examples to compare, or too few
        classes are left to learn from.
    """
    counts = info.class_counts.get("train", {})
    if isinstance(settings.held_out, tuple):
        chosen = resolve_classes(settings.held_out, list(info.train_classes), _FIELD)
    else:
        able = [name for name in info.train_classes if counts.get(name, 0) > 1]
        number = min(max(2, round(settings.held_out * len(info.train_classes))), len(able))
        places = np.random.default_rng([seed, _STREAM]).choice(len(able), number, replace=False)
        chosen = [able[place] for place in sorted(places.tolist())]
    if sum(counts.get(name, 0) > 1 for name in chosen) < 2:
        raise ConfigError(
            f"{_FIELD}: fewer than two of its {len(chosen)} classes have two examples in the train split",
            "hold out classes with more examples",
        )
    left = len(info.train_classes) - len(chosen)
    if left < classes_per_batch:
        raise ConfigError(
            f"{_FIELD}: {len(chosen)} of {len(info.train_classes)} train classes are held out; a batch needs {classes_per_batch} "
            f"others, {left} are left",
            f"hold out fewer classes, or lower train.sampler.classes_per_batch to {max(left, 1)}",
        )
    return tuple(chosen)


def measure(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every example asks among all others; the mean over those whose class has another example.

    Args:
      embeddings: float32[n, dim], rows of length one.
      labels: int64[n].

    Returns:
      `recall_at_1`, `recall_at_5`, `r_precision` and `map_at_r` (Musgrave et al. 2020); NaN where no class has two examples.
    """
    _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    asking = np.flatnonzero(sizes[which] > 1)
    deep = min(max(5, int(sizes.max(initial=1)) - 1), max(len(labels) - 1, 1))
    of_class = {str(label): int(size) for label, size in enumerate(sizes)}
    by_size: dict[str, Any] = {"k": deep, "r": of_class, "clip_at_r": True, "drop_closest_lookup": True}
    metrics = {
        "recall_at_1": RecallAtK(k=1),
        "recall_at_5": RecallAtK(k=5),
        "r_precision": PrecisionAtK(**by_size),
        "map_at_r": MapAtK(**by_size),
    }
    sums = dict.fromkeys(metrics, 0.0)
    for rows in row_blocks(asking, len(labels)):
        relevant = which[nearest_others(embeddings, rows, deep)] == which[rows][:, None]
        for name, metric in metrics.items():
            sums[name] += metric.of(which[rows], relevant, None) * len(rows)
    return {name: value / len(asking) if len(asking) else float("nan") for name, value in sums.items()}


def verdict(values: Sequence[float], patience: int | None) -> tuple[int, bool]:
    """(place of the best value, the first of equal ones; whether `patience` later ones brought nothing better)."""
    best = int(np.argmax(values))
    return best, patience is not None and len(values) - 1 - best >= patience


class HeldOut:
    """Examples of the held-out classes, in memory from the first measurement on."""

    def __init__(self, folder: str | Path, info: DatasetInfo, names: Sequence[str], *, at_most: int, seed: int) -> None:
        self._folder, self._info, self._at_most, self._seed = folder, info, at_most, seed
        place = {name: index for index, name in enumerate(info.class_names)}
        self._classes = [place[name] for name in names]
        self._examples: tuple[np.ndarray, np.ndarray] | None = None

    def measure(self, encoder: Any) -> dict[str, float]:
        """See `measure`; `encoder.encode` makes the embeddings."""
        if self._examples is None:
            self._examples = read_classes(self._folder, self._info, self._classes, at_most=self._at_most, seed=self._seed)
        inputs, labels = self._examples
        return measure(encoder.encode(inputs), labels)
