"""The grammar of filters, and masks on Arrow columns against what Python says of each value."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.errors import QueryError
from simpipe.index.filters import Condition, parse_filter, plain_array, read_filter
from simpipe.index.masks import fits, mask_of, may_fit, stats_of

TYPES = {"n": pa.int64(), "x": pa.float32(), "s": pa.string(), "b": pa.bool_(), "t": pa.timestamp("us"), "v": pa.list_(pa.int8())}


def test_conditions_in_any_order_are_the_same_filter():
    one = parse_filter({"s": {"in": ["b", "a", "b"]}, "n": {"gte": 1, "lt": 9}})
    other = parse_filter({"n": {"lt": 9, "gte": 1}, "s": {"in": ["a", "b"]}})
    assert one == other
    assert hash(one) == hash(other)
    assert one.columns == ("n", "s")
    assert parse_filter({}).conditions == ()
    assert parse_filter({"s": None}).conditions == (Condition("s", "is", None),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1], "a list, not an object"),
        ({"n": [1]}, "column 'n': a list is no value"),
        ({"n": {}}, "column 'n': no operator"),
        ({"n": {"above": 1}}, "no operator 'above'"),
        ({"n": {"in": "ab"}}, "`in` takes a list, not a string"),
        ({"n": {"gt": None}}, "`gt` takes no null"),
        ({"n": {"gt": math.nan}}, "nan is no number"),
        ({"s": {"prefix": 3}}, "`prefix` takes text, not a number"),
        ({"s": "\ud800"}, "not Unicode"),
        ({"n": {"gt": {"gt": 1}}}, "a object is no value"),
    ],
)
def test_another_form_is_refused(given, words):
    with pytest.raises(QueryError, match="filter: ") as caught:
        parse_filter(given)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"m": 1}, "release 7 has no column 'm'"),
        ({"n": "1"}, "column 'n': \"1\" is a string, the column holds whole numbers (int64)"),
        ({"s": {"in": ["a", 1]}}, "column 's': `in`: 1 is a number, the column holds text"),
        ({"x": True}, "column 'x': true is a bool"),
        ({"b": 1}, "column 'b': 1 is a number, the column holds true or false"),
        ({"b": {"lt": True}}, "`lt` does not suit it"),
        ({"n": {"prefix": "1"}}, "`prefix` does not suit it"),
        ({"t": "yesterday"}, "the column holds times"),
        ({"v": 1}, "column 'v' holds list"),
    ],
)
def test_what_does_not_suit_a_column_is_refused(given, words):
    with pytest.raises(QueryError, match="filter: ") as caught:
        parse_filter(given).check(TYPES, "release 7")
    assert words in caught.value.message
    assert caught.value.cure


def test_an_unknown_column_lists_those_that_there_are():
    with pytest.raises(QueryError) as caught:
        parse_filter({"m": 1}).check(TYPES, "release 7")
    assert "n (integer), x (float), s (text), b (boolean), t (time)" in caught.value.cure


def test_json_text():
    assert read_filter('{"n": {"lt": 3}}') == parse_filter({"n": {"lt": 3}})
    for text in ("{", "[" * 100_000):
        with pytest.raises(QueryError, match="no JSON"):
            read_filter(text)


INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.text(st.sampled_from("aäb日🙂"), max_size=3)
VALUES: dict[str, tuple[pa.DataType, Any]] = {
    "integer": (pa.int64(), INTEGERS),
    "small": (pa.int8(), st.integers(-3, 3)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float": (pa.float64(), st.one_of(st.integers(-3, 3).map(float), st.floats())),
    "single": (pa.float32(), st.one_of(st.integers(-3, 3).map(float), st.floats(width=32))),
    "boolean": (pa.bool_(), st.booleans()),
    "text": (pa.large_string(), TEXTS),
    "coded": (pa.dictionary(pa.int32(), pa.large_string()), TEXTS),
}
NUMBERS = st.one_of(
    st.integers(-4, 4), st.sampled_from([-1.5, 0.0, 0.5, 2.5, 1e30, -1e30, 2**53 + 1, 10**400, -(10**400), 2**63])
)
RANGES = {"gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b, "lte": lambda a, b: a <= b}


def says(operator: str, value: Any, asked: Any, kind: str) -> bool:
    """What Python says of one value."""
    missing = value is None or value != value
    if operator in ("is", "in"):
        members = asked if operator == "in" else (asked,)
        return any(missing if member is None else not missing and value == rounded(member, kind) for member in members)
    if missing:
        return False
    return value.startswith(asked) if operator == "prefix" else RANGES[operator](value, rounded(asked, kind))


def rounded(value: Any, kind: str) -> Any:
    if kind not in ("float", "single"):
        return value
    try:
        exact = float(value)
    except OverflowError:
        exact = math.inf if value > 0 else -math.inf
    with np.errstate(over="ignore"):
        return float(np.float32(exact)) if kind == "single" else exact


@st.composite
def conditions(draw) -> tuple[str, list[Any], Condition]:
    kind = draw(st.sampled_from(sorted(VALUES)))
    values = draw(st.lists(st.one_of(st.none(), VALUES[kind][1]), max_size=12))
    asked = {"boolean": st.booleans(), "text": TEXTS, "coded": TEXTS}.get(kind, NUMBERS)
    there = (
        [value for value in values if value is not None and value == value and abs(value) != math.inf]
        if kind
        not in (
            "boolean",
            "text",
            "coded",
        )
        else [value for value in values if value is not None]
    )
    asked = st.one_of(asked, st.sampled_from(there)) if there else asked
    operator = draw(
        st.sampled_from(["is", "in", *([] if kind == "boolean" else RANGES), *(["prefix"] if kind in ("text", "coded") else [])])
    )
    if operator == "in":
        value = tuple(draw(st.lists(st.one_of(st.none(), asked), max_size=4)))
    else:
        value = draw(st.one_of(st.none(), asked) if operator == "is" else asked)
    return kind, values, Condition("c", operator, value)


@given(conditions())
@settings(max_examples=400, deadline=None)
def test_masks_are_what_python_says(case):
    kind, values, condition = case
    column = pa.array(values, VALUES[kind][0])
    wanted = [says(condition.operator, value, condition.value, kind) for value in column.to_pylist()]
    assert mask_of(condition, column).tolist() == wanted
    stats = stats_of(column)
    assert stats.missing == sum(value is None or value != value for value in column.to_pylist())
    assert may_fit(condition, stats, column.type) or not any(wanted)
    wide = type(stats)(stats.rows, stats.missing, stats.low, stats.high)  # without the distinct values
    assert may_fit(condition, wide, column.type) or not any(wanted)


@given(
    st.lists(st.one_of(st.none(), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))), max_size=8),
    st.sampled_from([None, "UTC"]),
)
@settings(max_examples=50, deadline=None)
def test_times_compare_as_times(values, zone):
    column = pa.array(values, pa.timestamp("us", tz=zone))
    at = datetime(2000, 1, 1, 12, tzinfo=UTC)
    for text in ("2000-01-01T12:00:00", "2000-01-01T14:00:00+02:00"):
        asked = parse_filter({"t": {"lt": text}})
        asked.check({"t": column.type}, "it")
        mask = fits(asked.plain({"t": column.type}), {"t": plain_array(column)}, len(column))
        assert mask.tolist() == [value is not None and value.replace(tzinfo=UTC) < at for value in values]


def test_all_conditions_must_hold():
    columns = {"n": pa.array([1, 2, 3, None]), "s": pa.array(["a", "b", None, "a"], pa.large_string())}
    asked = parse_filter(json.loads('{"n": {"gte": 1}, "s": {"in": ["a", null]}}'))
    assert fits(asked, columns, 4).tolist() == [True, False, True, False]
    assert fits(parse_filter({}), columns, 4).all()


def test_a_bool_asks_whole_numbers_as_data_sets_keep_them():
    asked = parse_filter({"n": True})
    asked.check({"n": pa.int64()}, "it")
    assert fits(asked, {"n": pa.array([0, 1, None])}, 3).tolist() == [False, True, False]
