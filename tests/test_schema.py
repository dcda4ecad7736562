"""What is read of JSON that others wrote: of its kind and in its range, or one error."""

import math
from typing import Any

import pytest

from vitrail.errors import RunError, WeightsError
from vitrail.schema import ANYTHING, FLAG, TEXT, Kind, Schema, by_name, checked, many, number, record, whole

FINITE = number(-math.inf, math.inf)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (whole(0, 5), [0, 5], [-1, 6, True, 1.0, "1", None, [], 10**400]),
        (number(0, 1), [0, 1, 0.5], [-0.1, 2, 10**400, True, float("nan"), float("inf"), "0.5", None]),
        (FINITE, [0, -1e299, 10**200], [float("nan"), float("inf"), 10**400]),
        (FLAG, [True, False], [0, 1, None, "true"]),
        (TEXT, ["", "x" * 10_000], ["x" * 10_001, 1, None, []]),
        (many(whole(0, 9), 1, 2), [[0], [1, 2]], [[], [1, 2, 3], [10], (1,), "1", {}]),
        (by_name(TEXT, 2), [{}, {"a": "b"}], [{"a": 1}, {"a": "", "b": "", "c": ""}, [], None]),
        (record(a=TEXT), [{"a": ""}, {"a": "", "b": 3}], [{}, {"a": None}, {"b": ""}, [], "a"]),
        (ANYTHING, [None, 1, [], {}], []),
    ],
)
def test_kinds(kind: Kind, right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not kind.fits(value)] == []
    assert [value for value in wrong if kind.fits(value)] == []


SCHEMA: Schema = {"size": whole(1, 9), "inner": {"name": TEXT}}


def test_what_the_schema_does_not_name_is_left_out() -> None:
    assert checked({"size": 3, "other": object, "inner": {"name": "x", "y": 1}}, SCHEMA, "f", RunError) == {
        "size": 3,
        "inner": {"name": "x"},
    }
    assert checked({}, SCHEMA, "f", RunError) == {}


def test_null_is_a_value_or_none_as_it_is_asked_for() -> None:
    assert checked({"size": None}, SCHEMA, "f", RunError, null=True) == {}
    with pytest.raises(RunError, match=r"f: size has a wrong value\.\n  Got None; expected an integer from 1 to 9\."):
        checked({"size": None}, SCHEMA, "f", RunError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0, "inner": {"name": ""}}, "f: size has a wrong value"),
        ({"inner": {"name": ""}}, "f: size has a wrong value.\n  Got nothing"),
        ({"size": 1, "inner": {}}, "f: inner: name has a wrong value"),
        ({"size": 1, "inner": 3}, "f: inner: is not a JSON object"),
        ({"size": 1}, "f: inner: is not a JSON object"),
        ([], "f: is not a JSON object"),
    ],
)
def test_what_is_needed_is_named(values: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        checked(values, SCHEMA, "f", WeightsError, needed=True)
