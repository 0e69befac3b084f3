"""A subset of arrays with at most N examples of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simpipe.samplers.arguments import SamplerError, as_labels, draw_seed, select_rows


def select_examples(
    x: Any,
    y: Any,
    class_list: Sequence[Any] | None = None,
    num_examples_per_class: int | None = None,
    *,
    seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws at most `num_examples_per_class` examples of each class without replacement, in random order.

    Args:
      x: examples [n, ...]: an array, a tensor, or a list.
      y: labels [n] or [n, 1]: integers or strings.
      class_list: classes to keep; None for all.
      num_examples_per_class: None for all examples.
      seed: the same seed draws the same examples in the same order; None draws anew.

    Returns:
      x [m, ...] as a NumPy array, and labels int64[m] or str[m].

    Raises:
      SamplerError: a class of `class_list` has no examples, or the arguments do not fit together.
    """
    examples, labels = as_examples(x), as_labels(y)
    check_lengths(examples, labels)
    rng = np.random.default_rng(draw_seed(seed))
    rows = select_rows(labels, class_list=class_list, per_class=num_examples_per_class, rng=rng)
    return examples[rows], labels[rows]


def as_examples(x: Any) -> np.ndarray:
    """`x` as one array, without a copy where it is one; of objects where its examples differ in shape."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, (list, tuple)):
        if x and hasattr(x[0], "__array__"):
            x = [np.asarray(example) for example in x]  # one conversion a tensor, not one an element
        try:
            return np.asarray(x)
        except ValueError:  # shapes differ
            examples = np.empty(len(x), object)
            examples[:] = x
            return examples
    return np.asarray(x)


def check_lengths(x: np.ndarray, y: np.ndarray) -> None:
    """Checks that there are examples, and one label each.

    Raises:
      SamplerError: they differ in number, or there are none.
    """
    if len(x) != len(y):
        raise SamplerError(f"x has {len(x)} examples, y has {len(y)} labels", "give one label an example")
    if not len(x):
        raise SamplerError("x has no examples", "give at least one example")
