"""What is read of JSON that others wrote: each setting of its kind and in its range.

In: a JSON value and a schema. Out: the settings that the schema names; or one error, which names the setting. What
reads them afterwards need not ask again. A whole dataclass of ours is read by `config.from_json`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vitrail.errors import VitrailError, shown

_LONGEST_TEXT = 10_000
_MOST = 10_000_000
_LARGEST = sys.float_info.max  # an integer may be larger, and NaN is no smaller


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is in words, and how it is told."""

    words: str
    fits: Callable[[Any], bool]


Schema = Mapping[str, "Kind | Schema"]


def whole(least: int = 0, most: int = _MOST) -> Kind:
    """An integer within bounds; true and false are none."""
    return Kind(f"an integer from {least} to {most:,}", lambda v: type(v) is int and least <= v <= most)


def number(least: float, most: float, words: str = "") -> Kind:
    """An integer or fraction within bounds."""

    def fits(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) <= _LARGEST and least <= value <= most

    return Kind(words or f"a number from {least:g} to {most:g}", fits)


def many(one: Kind, least: int = 0, most: int = _MOST) -> Kind:
    """A list of one kind."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and least <= len(cast(list[Any], value)) <= most and all(map(one.fits, value))

    return Kind(f"a list, each {one.words}", fits)


def by_name(one: Kind, most: int = _MOST) -> Kind:
    """An object of any names."""

    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(found := cast(dict[str, Any], value)) <= most
            and all(map(one.fits, found.values()))
        )

    return Kind(f"an object, each value {one.words}", fits)


def record(**fields: Kind) -> Kind:
    """An object that has each of these fields, and may have more."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(
            name in value and kind.fits(cast(dict[str, Any], value)[name]) for name, kind in fields.items()
        )

    return Kind(f"an object with {', '.join(fields)}", fits)


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("a text", lambda v: isinstance(v, str) and len(v) <= _LONGEST_TEXT)
ANYTHING = Kind("anything", lambda _: True)


def checked(
    values: Any, schema: Schema, where: str, error: type[VitrailError], *, needed: bool = False, null: bool = False
) -> dict[str, Any]:
    """The values that `schema` knows.

    Args:
        values: a JSON value.
        where: what messages call it.
        error: what is raised.
        needed: each setting of the schema has to be there.
        null: null counts as a setting that is not there, as in the files of other libraries.
    Raises:
        VitrailError: of the kind `error`: no object, a setting is missing or is of another kind or beyond its range.
    """
    if not isinstance(values, dict):
        raise error(f"{where}: is not a JSON object.", got=shown(values), expected="an object")
    found: dict[str, Any] = {}
    for name, kind in schema.items():
        value = cast(dict[str, Any], values).get(name)
        if (value is None and null) or (name not in values and not needed):
            continue
        if not isinstance(kind, Kind):
            found[name] = checked(value, kind, f"{where}: {name}", error, needed=needed, null=null)
        elif kind.fits(value):
            found[name] = value
        else:
            got = shown(value) if name in values else "nothing"
            raise error(f"{where}: {name} has a wrong value.", got=got, expected=kind.words)
    return found
