"""Class-balanced batches of a finite `tf.data.Dataset`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.samplers.arguments import SamplerError, check_batch, draw_seed, select_rows, warn_small_classes
from simpipe.samplers.plan import CHUNK, VisitPlan
from simpipe.samplers.read_columns import read_columns


def TFDataSampler(
    ds: tf.data.Dataset,
    classes_per_batch: int = 2,
    examples_per_class_per_batch: int = 2,
    class_list: Sequence[Any] | None = None,
    total_examples_per_class: int | None = None,
    augmenter: Callable[..., Any] | None = None,
    load_fn: Callable[..., Any] | None = None,
    warmup: int = 0,
    label_output: int | str | None = None,
    *,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Endless batches of exactly P classes with K examples each.

    Classes are drawn uniformly; a class deals its examples in shuffled order and shuffles anew when all were dealt. A batch
    repeats an example only where a class has fewer than K; such classes are logged once. `ds` is read into memory before
    the function returns, the wanted classes only; give paths and a `load_fn` where examples are large.

    Args:
      ds: finite, of known cardinality, with elements `(x, y, ...)` of equal shapes.
      classes_per_batch: P.
      examples_per_class_per_batch: K.
      class_list: classes to keep; None for all.
      total_examples_per_class: at most so many examples of each class, drawn without replacement; None for all.
      augmenter: called with the components of one example, after `load_fn`; returns an example.
      load_fn: called with the components of one example; returns an example.
      warmup: so many examples come first without `augmenter`.
      label_output: position or key of the label where y is a tuple or a dictionary; None where y is the label.
      seed: the same seed gives the same batches; each new iteration of the data set goes on with other ones. None draws anew.

    Returns:
      batches in the structure of an example, P * K of each component, K after K.

    Raises:
      SamplerError: `ds` is infinite, of unknown cardinality or without labels, P is larger than the number of classes, or a
        class of `class_list` has no examples.
    """
    columns, labels = read_columns(ds, label_of=lambda element: label_of(element, label_output), class_list=class_list)
    number = draw_seed(seed)
    rng = np.random.default_rng([number, 0])
    chosen = select_rows(labels, class_list=class_list, per_class=total_examples_per_class, rng=rng)
    classes, numbers, counts = np.unique(labels[chosen], return_inverse=True, return_counts=True)
    check_batch(counts, classes_per_batch=classes_per_batch, examples_per_class=examples_per_class_per_batch)
    warn_small_classes(classes, counts, examples_per_class_per_batch)

    tensors = tf.nest.map_structure(tf.convert_to_tensor, columns)
    batch = classes_per_batch * examples_per_class_per_batch
    iterations = itertools.count()

    def chunks() -> Iterator[np.ndarray]:
        plan = VisitPlan(
            numbers,
            classes_per_batch=classes_per_batch,
            examples_per_class=examples_per_class_per_batch,
            seed=(number, 1, next(iterations)),
            repeat_small=True,
        )
        while True:
            yield chosen[plan.chunk()]

    # Whole chunks cross from Python, not single batches.
    rows: Any = tf.data.Dataset.from_generator(chunks, output_signature=tf.TensorSpec((CHUNK, batch), tf.int64)).unbatch()

    def gather(picked: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, picked), tensors)

    if load_fn is None and augmenter is None:
        return rows.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    examples = _apply(rows.unbatch().map(gather), load_fn, augmenter, warmup)
    return examples.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def label_of(element: Any, label_output: int | str | None) -> Any:
    """The label of an element `(x, y, ...)`: y, or `y[label_output]`.

    Raises:
      SamplerError: the element has no such part.
    """
    if not isinstance(element, tuple) or len(element) < 2:
        raise SamplerError(f"an example is a {type(element).__name__}, not a tuple (x, y)", "make examples of the form (x, y)")
    if label_output is None:
        return element[1]
    try:
        return element[1][label_output]
    except (KeyError, IndexError, TypeError, ValueError):
        raise SamplerError(f"y has no part {label_output!r}: {element[1]}", "give a position or key of y") from None


def _apply(
    examples: tf.data.Dataset, load_fn: Callable[..., Any] | None, augmenter: Callable[..., Any] | None, warmup: int
) -> tf.data.Dataset:
    if load_fn is not None:
        examples = examples.map(load_fn, num_parallel_calls=tf.data.AUTOTUNE)
    if augmenter is None:
        return examples
    if warmup <= 0:
        return examples.map(augmenter, num_parallel_calls=tf.data.AUTOTUNE)

    def after_warmup(place: tf.Tensor, example: Any) -> Any:
        return tf.cond(place < warmup, lambda: example, lambda: augmenter(*example))

    return examples.enumerate().map(after_warmup, num_parallel_calls=tf.data.AUTOTUNE)
