"""Settings to JSON and back. An unknown or missing key is an error that names the nearest one."""

import dataclasses
import sys
import types
import typing
from typing import Any, TypeVar

from vitrail.config.bounds import MOST_ENTRIES
from vitrail.errors import ConfigError, nearest

T = TypeVar("T")
_LARGEST = sys.float_info.max


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as nested dicts of JSON values; tuples become lists."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_json(kind: type[T], values: object, where: str = "", *, allow_missing: bool = False) -> T:
    """Build a config dataclass from what `to_json` gave.

    Args:
        kind: the dataclass.
        values: nested dicts of JSON values.
        where: dotted name of this part, for messages.
        allow_missing: a field that was added after the file was written takes its default, which is chosen to mean
            what was done before the field existed.
    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or range.
    """
    label = where or kind.__name__
    if not isinstance(values, dict):
        raise ConfigError(f"{label} is not an object.", got=type(values).__name__, expected="a JSON object")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, kind))}
    for name in values:
        if name not in fields:
            near = nearest(name, fields)
            raise ConfigError(
                f"{label} has no field {name!r}.", expected=repr(near) if near else f"one of {', '.join(fields)}"
            )
    for name, field in fields.items():
        optional = allow_missing and not (field.default is field.default_factory is dataclasses.MISSING)
        if name not in values and not optional:
            raise ConfigError(f"{label} lacks the field {name!r}.")
    hints = typing.get_type_hints(kind)
    checked = {n: typed(hints[n], v, f"{where}.{n}" if where else n, allow_missing) for n, v in values.items()}
    return kind(**checked)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def typed(hint: Any, value: Any, where: str, allow_missing: bool = False) -> Any:
    """Check one JSON value against its annotation; lists become tuples. Raises ConfigError."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where, allow_missing=allow_missing)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return typed(option, value, where, allow_missing)
            except ConfigError:
                continue
    elif origin is typing.Literal:
        if value in options:
            return value
    elif origin is tuple and isinstance(value, list) and len(value) <= MOST_ENTRIES:
        inner = [options[0]] * len(value) if options[1:] == (...,) else list(options)
        if len(inner) == len(value):
            return tuple(typed(h, v, where, allow_missing) for h, v in zip(inner, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {name: typed(options[1], inner, f"{where}.{name}", allow_missing) for name, inner in value.items()}
    elif hint is float and type(value) in (int, float) and -_LARGEST <= typing.cast(float, value) <= _LARGEST:
        return float(typing.cast(float, value))
    elif hint is int and type(value) is int:
        if -(2**63) <= value < 2**63:
            return value
    elif hint is type(None) and value is None:
        return None
    elif isinstance(hint, type) and type(value) is hint:
        return value
    expected = (
        f"one of {', '.join(map(repr, options))}" if origin is typing.Literal else str(getattr(hint, "__name__", hint))
    )
    raise ConfigError(f"{where} has a wrong value.", got=_shown(value), expected=expected)


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "nested too deeply"
