"""Class values as users pass them (numbers, strings, NumPy and TensorFlow scalars, None) and the names to show for them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from simpipe.errors import ConfigError

NO_LABEL = "no label"


def plain(value: Any) -> Any:
    """A class value as int, str, or None: scalars and bytes unpacked, whole floats as int, NaN as None."""
    if value is None or isinstance(value, (str, int)):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    array = np.asarray(value)
    return plain(array.item()) if array.size == 1 and array.dtype != object else str(value)


def display_name(value: Any, class_mapping: Mapping[Any, Any] | Sequence[Any] | None = None) -> str:
    """The name of a class: from the mapping where it has one, else the value itself; `NO_LABEL` for None.

    Args:
      value: any class value.
      class_mapping: dict class -> name, or a sequence of names by class number. Negative numbers have no place in a sequence.
    """
    value = plain(value)
    if isinstance(class_mapping, Mapping):
        if value in class_mapping:
            return str(plain(class_mapping[value]))
    elif class_mapping is not None and isinstance(value, int) and 0 <= value < len(class_mapping):
        return str(plain(class_mapping[value]))
    return NO_LABEL if value is None else str(value)


def value_list(values: Any, what: str) -> list[Hashable]:
    """Class values [n] or [n, 1] (list, array, tensor) as a list; raises ConfigError for other shapes, and for fractions.

    Args:
      what: the argument's name, for the message.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
            array = np.empty(len(values), object)  # keeps the numbers of a list that holds strings too
            array[:] = list(values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what}: not a list of class values ({error})", "pass one number or string per example") from None
    if array.ndim == 2 and array.size == len(array):
        array = array.ravel()
    if array.ndim != 1:
        raise ConfigError(f"{what}: shape {array.shape}, expected [n]", "pass one number or string per example")
    if array.dtype.kind == "f" and not (np.isnan(array) | (array == np.floor(array))).all():
        raise ConfigError(f"{what}: holds fractions", "pass classes (the output of model.match), not probabilities")
    return array.tolist()


def encode(values: list[Hashable]) -> tuple[list[Any], np.ndarray]:
    """Sorts class values, negative numbers first, then numbers, strings, None.

    Returns:
      classes: the distinct values as `plain` gives them.
      codes: int64[n]: the place of each value in `classes`.
    """
    plain_of = {value: plain(value) for value in dict.fromkeys(values)}
    classes = sort_values(plain_of.values())
    place = {value: i for i, value in enumerate(classes)}
    code_of = {value: place[known] for value, known in plain_of.items()}
    return classes, np.fromiter(map(code_of.__getitem__, values), np.int64, len(values))


def sort_values(values: Any) -> list[Any]:
    """Distinct plain values: numbers, then strings, then None."""
    return sorted(set(values), key=lambda value: (_rank(value), value if value is not None else 0))


def _rank(value: Any) -> int:
    return 2 if value is None else 1 if isinstance(value, str) else 0
