"""The grammar of filters: which items may be neighbors, by their metadata columns and label.

A JSON object; all of its columns must fit:

    {"country": "de"}                       equal to a string, number or bool; null: is missing
    {"price": {"gte": 10, "lt": 20}}        a range: gt, gte, lt, lte
    {"brand": {"in": ["a", "b"]}}           one of a set
    {"name": {"prefix": "ab"}}              text that begins so
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from simpipe.errors import QueryError

Scalar = str | int | float | bool | None
Operator = Literal["is", "in", "prefix", "gt", "gte", "lt", "lte"]
Kind = Literal["integer", "float", "boolean", "text", "date", "time"]

LABEL = "label"
RANGES = ("gt", "gte", "lt", "lte")
_OPERATORS = (*RANGES, "in", "prefix")
_EXAMPLE = (
    'write such as {"country": "de", "price": {"gte": 10, "lt": 20}, "brand": {"in": ["a", "b"]}, "name": {"prefix": "ab"}}'
)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_SAID: Mapping[Kind, str] = {
    "integer": "whole numbers",
    "float": "numbers",
    "boolean": "true or false",
    "text": "text",
    "date": "dates (text such as 2026-01-31)",
    "time": "times (text such as 2026-01-31T12:00:00)",
}
# Data sets of examples keep true and false as 1 and 0, so a column of whole numbers takes both.
_TAKES: Mapping[Kind, tuple[type, ...]] = {
    "integer": (int, float, bool),
    "float": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "date": (str,),
    "time": (str,),
}


@dataclass(frozen=True)
class Condition:
    """What one column has to fulfil.

    Attributes:
      value: of `in` a tuple; None: missing.
    """

    column: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]

    @property
    def values(self) -> tuple[Scalar, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


@dataclass(frozen=True)
class Filter:
    """All conditions must hold; none: every item fits. Equal filters are equal, in whatever order they were written."""

    conditions: tuple[Condition, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.column for each in self.conditions))

    def check(self, types: Mapping[str, pa.DataType], title: str) -> None:
        """Refuses what the columns cannot be asked.

        Args:
          types: Arrow type of each column that there is. title: what has these columns, for messages.

        Raises:
          QueryError: no such column, an operator or a value that does not suit its type; names what there is.
        """
        for each in self.conditions:
            if each.column not in types:
                known = ", ".join(f"{name} ({_about(kind)})" for name, kind in types.items())
                raise QueryError(f"filter: {title} has no column {each.column!r}", f"there are: {known or 'none'}")
            _check(each, types[each.column])

    def plain(self, types: Mapping[str, pa.DataType]) -> Filter:
        """The same for columns of `plain_array`: dates and times as microseconds. It has been checked."""
        return Filter(tuple(_plain(each, kind_of(types[each.column])) for each in self.conditions))


def parse_filter(given: Any) -> Filter:
    """A filter from what JSON holds.

    Raises:
      QueryError: another form than the grammar says; names the column and the operator.
    """
    if isinstance(given, Filter):
        return given
    if not isinstance(given, Mapping):
        raise QueryError(f"filter: a {_type_of(given)}, not an object of columns", _EXAMPLE)
    found = [condition for column, asked in given.items() for condition in _conditions(column, asked)]
    return Filter(tuple(sorted(found, key=lambda each: (each.column, each.operator))))


def read_filter(text: str) -> Filter:
    """A filter from JSON text; see `parse_filter`.

    Raises:
      QueryError: no JSON, or another form than the grammar says.
    """
    try:
        given = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise QueryError(f"filter: no JSON ({error})", _EXAMPLE) from None
    return parse_filter(given)


def kind_of(kind: pa.DataType) -> Kind | None:
    """What a column of an Arrow type holds, for filters; None: such columns cannot be asked."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_date(kind):
        return "date"
    return "time" if pa.types.is_timestamp(kind) else None


def microseconds(text: str, kind: Kind) -> int | None:
    """A date or time in ISO 8601, without a zone in UTC, as microseconds since 1970; None where it is none."""
    try:
        if kind == "date":
            return (date.fromisoformat(text) - _EPOCH.date()) // _MICROSECOND
        found = datetime.fromisoformat(text)
    except ValueError:  # the caller says what is wrong, and where
        return None
    return ((found if found.tzinfo is not None else found.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def plain_array(column: pa.Array) -> pa.Array:
    """A column as masks take it: dates and times as int64 microseconds since 1970, all else as it is."""
    if not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)):
        return column
    return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())


def _conditions(column: Any, asked: Any) -> Iterator[Condition]:
    if not isinstance(column, str):
        raise QueryError(f"filter: column {column!r} is not a string", _EXAMPLE)
    if not isinstance(asked, Mapping):
        yield Condition(column, "is", _scalar(column, "", asked))
        return
    if not asked:
        raise QueryError(f"filter: column {column!r}: no operator", f"there are: {', '.join(_OPERATORS)}")
    for operator, value in asked.items():
        if operator not in _OPERATORS:
            raise QueryError(f"filter: column {column!r}: no operator {operator!r}", f"there are: {', '.join(_OPERATORS)}")
        if operator == "in":
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise QueryError(f"filter: column {column!r}: `in` takes a list, not a {_type_of(value)}", _EXAMPLE)
            members = (_scalar(column, "in", member) for member in value)
            yield Condition(column, "in", tuple(dict.fromkeys(sorted(members, key=repr))))
            continue
        value = _scalar(column, operator, value)
        if value is None:
            cure = f'ask for missing values with {{"{column}": null}}'
            raise QueryError(f"filter: column {column!r}: `{operator}` takes no null", cure)
        if operator == "prefix" and not isinstance(value, str):
            raise QueryError(f"filter: column {column!r}: `prefix` takes text, not a {_type_of(value)}", _EXAMPLE)
        yield Condition(column, operator, value)


def _scalar(column: str, operator: str, value: Any) -> Scalar:
    at = f" `{operator}`:" if operator else ""
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise QueryError(f"filter: column {column!r}:{at} a {_type_of(value)} is no value", _EXAMPLE)
    if isinstance(value, float) and not math.isfinite(value):
        raise QueryError(f"filter: column {column!r}:{at} {value} is no number to compare with", "give a finite number")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which no column can hold
            raise QueryError(f"filter: column {column!r}:{at} text that is not Unicode", "give valid UTF-8") from None
    return value


def _check(condition: Condition, type_: pa.DataType) -> None:
    kind, at = kind_of(type_), f"filter: column {condition.column!r}"
    if kind is None:
        raise QueryError(
            f"{at} holds {type_}, which filters cannot ask", "filter by columns of text, numbers, bools, dates or times"
        )
    operator = condition.operator
    if (operator == "prefix" and kind != "text") or (operator in RANGES and kind == "boolean"):
        raise QueryError(f"{at} holds {_SAID[kind]} ({type_}): `{operator}` does not suit it", _cure(kind))
    for value in condition.values:
        if value is None:
            continue
        good = isinstance(value, _TAKES[kind]) and (kind == "boolean" or not isinstance(value, bool) or kind == "integer")
        if good and isinstance(value, str) and kind in ("date", "time"):
            good = microseconds(value, kind) is not None
        if not good:
            where = "" if operator == "is" else f" `{operator}`:"
            shown = json.dumps(value, ensure_ascii=False)
            raise QueryError(
                f"{at}:{where} {shown} is a {_type_of(value)}, the column holds {_SAID[kind]} ({type_})", _cure(kind)
            )


def _plain(condition: Condition, kind: Kind | None) -> Condition:
    if kind not in ("date", "time"):
        return condition
    values = tuple(microseconds(value, kind) if isinstance(value, str) else None for value in condition.values)
    return replace(condition, value=values if isinstance(condition.value, tuple) else values[0])


def _cure(kind: Kind) -> str:
    if kind == "text":
        return "give strings: equal, in, prefix, or a range"
    return "give true or false" if kind == "boolean" else f"give {_SAID[kind]}: equal, in, or a range"


def _about(type_: pa.DataType) -> str:
    kind = kind_of(type_)
    return f"{type_}, not for filters" if kind is None else kind


def _type_of(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "list", dict: "object", type(None): "null"}
    return names.get(type(value), type(value).__name__)
