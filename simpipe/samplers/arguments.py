"""What samplers are given: labels, class lists, counts and seeds, checked. NumPy only."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from simpipe.errors import ConfigError

_LOG = logging.getLogger(__name__)
_KINDS = {"i": "integers", "U": "strings"}


class SamplerError(ConfigError, ValueError):
    """A sampler cannot work as configured. A ValueError too, as TF Similarity raises."""


def draw_seed(seed: int | None) -> int:
    """`seed`, or a random one from Python's `random`, which `keras.utils.set_random_seed` makes repeatable.

    Raises:
      SamplerError: the seed is negative.
    """
    if seed is None:
        return random.getrandbits(63)
    if seed < 0:
        raise SamplerError(f"seed is {seed}", "give a seed of 0 or more, or None for another order each time")
    return int(seed)


def as_labels(y: Any, *, name: str = "y") -> np.ndarray:
    """Labels as int64[n] or str[n].

    Args:
      y: [n] or [n, 1]: integers of any width, Booleans, whole floats, str, or UTF-8 bytes.
      name: what messages call it.

    Raises:
      SamplerError: another shape or kind, or an integer beyond 64 bits.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise SamplerError(f"{name} has shape {labels.shape}", "give one label an example: [n] or [n, 1]")
    if labels.dtype.kind == "O":
        labels = _from_objects(labels, name)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        return labels
    kind = labels.dtype.kind
    fits = kind in "bi" or (kind == "u" and not (labels > np.uint64(2**63 - 1)).any())
    if not fits and not (kind == "f" and (np.isfinite(labels) & (labels == np.floor(labels)) & (np.abs(labels) < 2.0**63)).all()):
        raise SamplerError(f"{name} holds {labels.dtype} values that are no labels", "give integers of 64 bits, or strings")
    return labels.astype(np.int64, copy=False)


def _from_objects(labels: np.ndarray, name: str) -> np.ndarray:
    types = set(map(type, labels.tolist()))
    if types <= {bytes}:
        return labels.astype("S")
    if all(issubclass(kind, str) for kind in types):
        return labels.astype("U")
    if all(issubclass(kind, (int, np.integer)) for kind in types):
        return labels.astype(np.int64)
    listed = sorted(kind.__name__ for kind in types)
    raise SamplerError(f"{name} holds values of type {', '.join(listed)}", "give integers or strings, not both")


def as_class_list(class_list: Iterable[Any], labels: np.ndarray) -> np.ndarray:
    """The distinct classes of `class_list`, sorted, of the kind of `labels`.

    Raises:
      SamplerError: the list is empty, or holds strings where the labels are integers or the reverse.
    """
    wanted = np.unique(as_labels(list(class_list), name="class_list"))
    if not len(wanted):
        raise SamplerError("class_list is empty", "name the classes to keep, or None for all")
    if wanted.dtype.kind != labels.dtype.kind:
        raise SamplerError(
            f"class_list holds {_KINDS[wanted.dtype.kind]}, the labels are {_KINDS[labels.dtype.kind]}",
            "name the classes as the labels do",
        )
    return wanted


def select_rows(
    labels: np.ndarray, *, class_list: Iterable[Any] | None, per_class: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the wanted classes in random order, at most `per_class` of each, drawn without replacement.

    Args:
      labels: int64[n] or str[n].
      class_list: classes to keep; None for all.
      per_class: None for all examples.
      rng: draws rows and order.

    Returns:
      int64[m].

    Raises:
      SamplerError: a class of the list has no examples, or `per_class` is below 1.
    """
    if per_class is not None and per_class < 1:
        raise SamplerError(f"{per_class} examples a class are asked for", "give 1 or more, or None for all")
    rows = rng.permutation(len(labels))
    if class_list is not None:
        wanted = as_class_list(class_list, labels)
        rows = rows[np.isin(labels[rows], wanted)]
        missing = np.setdiff1d(wanted, labels[rows])
        if len(missing):
            raise SamplerError(
                f"{len(missing)} classes of class_list have no examples: {listing(missing)}",
                "take them out of class_list, or add examples of them",
            )
    if per_class is None:
        return rows
    _, number = np.unique(labels[rows], return_inverse=True)
    order = np.argsort(number, kind="stable")
    grouped = number[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return rows[rank < per_class]


def check_batch(counts: np.ndarray, *, classes_per_batch: int, examples_per_class: int) -> None:
    """Checks that batches of P classes with K examples each can be drawn from classes of `counts` examples.

    Raises:
      SamplerError: P or K is below 1, or there are fewer than P classes.
    """
    if classes_per_batch < 1 or examples_per_class < 1:
        raise SamplerError(
            f"a batch of {classes_per_batch} classes with {examples_per_class} examples each is asked for", "give 1 or more"
        )
    if classes_per_batch > len(counts):
        raise SamplerError(
            f"a batch of {classes_per_batch} classes is asked for, but there are {len(counts)}",
            f"lower the number of classes a batch to at most {len(counts)}, or add examples of other classes",
        )


def warn_small_classes(classes: Sequence[Any] | np.ndarray, counts: np.ndarray, examples_per_class: int) -> None:
    """Logs once which classes have fewer than K examples, so that a batch holds some of theirs more than once."""
    small = np.flatnonzero(counts < examples_per_class)
    if len(small):
        _LOG.warning(
            "%d classes have fewer than %d examples, and a batch repeats theirs: %s",
            len(small),
            examples_per_class,
            listing([f"{name} ({count})" for name, count in zip(np.asarray(classes)[small], counts[small], strict=True)]),
        )


def listing(values: Sequence[Any] | np.ndarray, limit: int = 10) -> str:
    """The first `limit` values, and a mark where there are more."""
    return ", ".join(str(value) for value in values[:limit]) + (", …" if len(values) > limit else "")
