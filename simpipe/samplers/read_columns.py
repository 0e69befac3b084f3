"""A finite `tf.data.Dataset` read into arrays, wanted classes only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from simpipe.samplers.arguments import SamplerError, as_class_list, as_labels

_BLOCK = 256


def read_columns(
    dataset: tf.data.Dataset, *, label_of: Callable[[Any], Any], class_list: Iterable[Any] | None = None
) -> tuple[Any, np.ndarray]:
    """Reads every component of the elements into one array.

    Args:
      dataset: finite, of known cardinality; its elements have equal shapes.
      label_of: picks the label from an element.
      class_list: classes to keep; the others are not held in memory. None for all.

    Returns:
      arrays [n, ...] in the structure of an element, and labels int64[n] or str[n].

    Raises:
      SamplerError: the data set is infinite, of unknown size, or empty, or its elements differ in shape.
    """
    total = int(dataset.cardinality())
    if total == tf.data.INFINITE_CARDINALITY:
        raise SamplerError("the data set is infinite", "give a finite one: without repeat(), or with take(n)")
    if total == tf.data.UNKNOWN_CARDINALITY:
        cure = "tell it with ds.apply(tf.data.experimental.assert_cardinality(n))"
        raise SamplerError("the number of elements of the data set is unknown", cure)
    # Filled in place: joining blocks at the end would take the memory twice. Pages that stay empty take none.
    columns: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    done = 0
    for block in _blocks(dataset):
        label = as_labels(_numpy(label_of(block)), name="the label")
        parts = [_numpy(part) for part in tf.nest.flatten(block)]
        if class_list is not None:
            keep = np.isin(label, as_class_list(class_list, label))
            label, parts = label[keep], [part[keep] for part in parts]
        if not columns:
            columns = [np.empty((total, *part.shape[1:]), part.dtype) for part in parts]
        for column, part in zip(columns, parts, strict=True):
            if column.shape[1:] != part.shape[1:]:
                raise _shapes_differ(f"{column.shape[1:]} and {part.shape[1:]}")
            column[done : done + len(part)] = part
        labels.append(label)
        done += len(label)
    if not done:
        raise SamplerError("the data set has no examples of the wanted classes", "give other data, or another class_list")
    return tf.nest.pack_sequence_as(dataset.element_spec, [column[:done] for column in columns]), np.concatenate(labels)


def _blocks(dataset: tf.data.Dataset) -> Iterable[Any]:
    try:
        yield from dataset.batch(_BLOCK).prefetch(1)
    except tf.errors.InvalidArgumentError as error:
        # Two wordings: shapes of another rank, or of another size.
        found = re.search(
            r"(?:batch tensors with different shapes|[Nn]umber of elements does not match)[^\[]*(\[.*\])", error.message
        )
        if found:
            raise _shapes_differ(found[1].split(" [Op:")[0]) from None
        raise


def _shapes_differ(found: str) -> SamplerError:
    return SamplerError(f"elements of the data set differ in shape: {found}", "map them to one shape, such as by resizing")


def _numpy(value: Any) -> np.ndarray:
    if not isinstance(value, tf.Tensor):
        raise SamplerError(f"the data set holds a {type(value).__name__}", "map it to dense tensors of one shape")
    return value.numpy()
