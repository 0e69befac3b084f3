"""Filters on Arrow columns: which rows fit, and whether any can, by statistics of a column.

A null fits no condition but `null`, and NaN counts as missing; dates and times come as whole numbers (`filters.plain_array`). A
value is rounded to the column's type before it is compared, so that 9.99 finds the float32 that was 9.99. Text is compared by
code points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.index.filters import Condition, Filter, Kind, Scalar, kind_of

_FEW = 256  # distinct values of a column that its statistics list
_COMPARE = {"gt": "greater", "gte": "greater_equal", "lt": "less", "lte": "less_equal"}


@dataclass(frozen=True)
class ColumnStats:
    """What a column of one partition holds.

    Attributes:
      rows, missing: how many there are, and of these nulls or NaN.
      low, high: least and largest value that is there; None without any.
      distinct: all values, where there are few.
    """

    rows: int
    missing: int
    low: Any = None
    high: Any = None
    distinct: pa.Array | None = None


def fits(asked: Filter, columns: Mapping[str, pa.Array], rows: int) -> np.ndarray:
    """Which rows fit a filter that was checked (`Filter.check`): bool[rows].

    Args:
      columns: an Arrow array of `rows` values for each column that the filter names.
    """
    out = np.ones(rows, bool)
    for condition in asked.conditions:
        out &= mask_of(condition, columns[condition.column])
    return out


def mask_of(condition: Condition, column: pa.Array) -> np.ndarray:
    """Which rows fit a condition: bool[n]."""
    if pa.types.is_dictionary(column.type):
        # One value more at the end: that of codes that are missing.
        of_values = np.append(mask_of(condition, column.dictionary), None in condition.values)
        return of_values[_numpy(column.indices.fill_null(len(column.dictionary)))]
    kind = kind_of(column.type)
    assert kind is not None, "checked before"
    if kind == "float":
        return _mask_floats(condition, _numpy(column))
    wanted = [value for value in condition.values if value is not None]
    if condition.operator == "prefix":
        found = pc.starts_with(column, wanted[0])
    elif condition.operator in _COMPARE:
        found = _compared(condition.operator, wanted[0], column, kind)
    else:
        members = [typed for value in wanted if (typed := _typed(value, column.type, kind)) is not None]
        found = pc.is_in(column, value_set=pa.array(members, column.type), skip_nulls=True) if members else None
    mask = np.zeros(len(column), bool) if found is None else _numpy(pc.fill_null(found, False))
    return mask | _numpy(column.is_null()) if None in condition.values else mask


def missing_of(column: pa.Array) -> np.ndarray:
    """bool[n]: nulls and NaN."""
    return mask_of(Condition("", "is", None), column)


def stats_of(column: pa.Array) -> ColumnStats:
    """Statistics of a column."""
    if pa.types.is_dictionary(column.type):
        used = np.zeros(len(column.dictionary) + 1, bool)
        used[_numpy(column.indices.fill_null(len(column.dictionary)))] = True
        there = column.dictionary.filter(pa.array(used[:-1]))
        missing = column.null_count
    else:
        there = column.filter(pa.array(~missing_of(column)))
        missing = len(column) - len(there)
    if not len(there):
        return ColumnStats(len(column), missing)
    ends = pc.min_max(there)
    low, high = ends["min"], ends["max"]
    few = pc.unique(there.slice(0, 4 * _FEW))
    few = pc.unique(there) if len(few) <= _FEW else few
    return ColumnStats(len(column), missing, low.as_py(), high.as_py(), few if len(few) <= _FEW else None)


def may_fit(condition: Condition, stats: ColumnStats, type_: pa.DataType) -> bool:
    """Whether a column of these statistics may hold a row that fits; False only where none does."""
    if None in condition.values and stats.missing:
        return True
    if stats.low is None:
        return False
    if stats.distinct is not None:
        return bool(mask_of(condition, stats.distinct).any())
    wanted = [value for value in condition.values if value is not None]
    if not wanted:
        return False
    kind = kind_of(type_)
    assert kind is not None
    low, high = stats.low, stats.high
    if condition.operator == "prefix":
        length = len(str(wanted[0]))
        return low[:length] <= wanted[0] <= high[:length]
    compared = [_comparable(value, type_, kind) for value in wanted]
    if condition.operator == "gt":
        return high > compared[0]
    if condition.operator == "gte":
        return high >= compared[0]
    if condition.operator == "lt":
        return low < compared[0]
    if condition.operator == "lte":
        return low <= compared[0]
    return any(low <= value <= high for value in compared)


def _typed(value: Scalar, type_: pa.DataType, kind: Kind) -> Any:
    """A value as the column has it, exactly; None where no row can equal it."""
    if kind != "integer":
        return value
    assert isinstance(value, (int, float))
    low, high = _limits(type_)
    return int(value) if int(value) == value and low <= value <= high else None


def _comparable(value: Scalar, type_: pa.DataType, kind: Kind) -> Any:
    """A value that compares with statistics as Python does."""
    if kind == "float":
        return float(_rounded(value, type_.to_pandas_dtype()))
    return value


def _compared(operator: str, value: Scalar, column: pa.Array, kind: Kind) -> pa.Array | None:
    """`column <operator> value`; None: nowhere."""
    if kind == "integer":
        assert isinstance(value, (int, float))
        low, high = _limits(column.type)
        # To a bound that the type can hold: x > 2.5 is x >= 3, x < 2.5 is x <= 2.
        if operator in ("gt", "gte"):
            bound = math.floor(value) + 1 if operator == "gt" else math.ceil(value)
            operator, bound, nowhere = "gte", max(bound, low), bound > high
        else:
            bound = math.ceil(value) - 1 if operator == "lt" else math.floor(value)
            operator, bound, nowhere = "lte", min(bound, high), bound < low
        if nowhere:
            return None
        value = bound
    return getattr(pc, _COMPARE[operator])(column, pa.scalar(value, column.type))


def _mask_floats(condition: Condition, values: np.ndarray) -> np.ndarray:
    """Of float[n] with NaN where there is none; NaN compares with nothing."""
    wanted = [_rounded(value, values.dtype.type) for value in condition.values if value is not None]
    if condition.operator in _COMPARE:
        return getattr(np, _COMPARE[condition.operator])(values, wanted[0])
    mask = np.isin(values, np.array(wanted, values.dtype)) if wanted else np.zeros(len(values), bool)
    return mask | np.isnan(values) if None in condition.values else mask


def _rounded(value: Any, dtype: Any) -> Any:
    try:
        exact = float(value)
    except OverflowError:  # a whole number beyond all floats
        exact = math.inf if value > 0 else -math.inf
    with np.errstate(over="ignore"):
        return np.dtype(dtype).type(exact)


def _limits(type_: pa.DataType) -> tuple[int, int]:
    about = np.iinfo(type_.to_pandas_dtype())
    return int(about.min), int(about.max)


def _numpy(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)
