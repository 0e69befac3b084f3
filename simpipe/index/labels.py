"""Labels as users give them (integers of any width, strings) and as an index holds them (strings)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from simpipe.errors import QueryError

LabelKind = Literal["int", "string"]


def encode_labels(labels: Any, n: int) -> tuple[np.ndarray, LabelKind | None]:
    """Labels as strings.

    Args:
      labels: n integers, floats that are whole numbers, strings or bytes, as list, array or tensor of shape [n] or
        [n, 1]; None for no labels. Single labels of None stay None.
      n: how many there must be.

    Returns:
      object[n] of str or None; and the kind, None where no item has a label.

    Raises:
      QueryError: another number of labels, mixed kinds, or a label that is neither number nor text.
    """
    if labels is None:
        return np.full(n, None, object), None
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n,):
        raise QueryError(f"labels have shape {array.shape}, there are {n} examples", "give one label an example")
    if array.dtype.kind in "iub":
        return (array.astype(np.int64) if array.dtype.kind == "b" else array).astype(str).astype(object), "int"
    if array.dtype.kind == "f":
        if not (array == np.floor(array)).all():
            raise QueryError("labels are fractions", "give whole numbers or strings")
        return array.astype(np.int64).astype(str).astype(object), "int"
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8").astype(object), "string"
    if array.dtype.kind == "U":
        return array.astype(object), "string"
    if array.dtype.kind == "O":
        return _encode_objects(array)
    raise QueryError(f"labels have dtype {array.dtype}", "give whole numbers or strings")


def _encode_objects(array: np.ndarray) -> tuple[np.ndarray, LabelKind | None]:
    present = np.array([value is not None for value in array], bool)
    out = np.full(len(array), None, object)
    if not present.any():
        return out, None
    kinds = {type(value) for value in array[present]}
    if all(issubclass(kind, (int, float, np.number)) for kind in kinds):
        if any(int(value) != value for value in array[present]):
            raise QueryError("labels are fractions", "give whole numbers or strings")
        out[present] = [str(int(value)) for value in array[present]]
        return out, "int"
    if all(issubclass(kind, (str, bytes)) for kind in kinds):
        out[present] = [value.decode() if isinstance(value, bytes) else str(value) for value in array[present]]
        return out, "string"
    raise QueryError(
        f"labels mix {', '.join(sorted(kind.__name__ for kind in kinds))}", "give whole numbers or strings, not both"
    )


def decode_labels(labels: np.ndarray, kind: LabelKind | None, missing: Any = None) -> list[Any]:
    """Strings of an index, object[n], as the user's labels: a list of int or str, `missing` where there is none."""
    distinct: dict[str | None, Any] = {name: int(name) if kind == "int" else name for name in set(labels.tolist()) - {None}}
    distinct[None] = missing
    return [distinct[name] for name in labels.tolist()]
