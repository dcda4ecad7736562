"""The settings of a run by name: "optim.lr", or "lr" alone where a single section has such a field."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, cast

from vitrail.config.run import RunConfig
from vitrail.config.strict_json import typed
from vitrail.errors import ConfigError, nearest

_NOT_SET_BY_NAME = {"recipe", "optim.lr_width"}
"""What a recipe alone decides: finetune scales the recipe's rate by lr_width before any setting is read."""


@functools.cache
def setting_types() -> dict[str, Any]:
    """Every setting by its dotted name, with its type."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(RunConfig).items():
        if dataclasses.is_dataclass(kind):
            inner = typing.get_type_hints(kind)
            found.update({f"{name}.{field.name}": inner[field.name] for field in dataclasses.fields(kind)})
        else:
            found[name] = kind
    return {name: kind for name, kind in found.items() if name not in _NOT_SET_BY_NAME}


def as_flag(field: str) -> str:
    """How a field is spelt on the command line."""
    return "--" + field.replace("_", "-")


def full_name(flag: str) -> str | None:
    """The field that `--section.field`, or the last part of it alone, means: "schedule.epochs"; None: no field.

    Raises:
        ConfigError: fields of several sections have this name.
    """
    name = flag.removeprefix("--").replace("-", "_")
    fields = setting_types()
    if name in fields:
        return name
    found = [field for field in fields if field.rpartition(".")[2] == name]
    if len(found) > 1:
        raise ConfigError(f"{flag} is a setting of several sections.", expected=" or ".join(map(as_flag, found)))
    return found[0] if found else None


def changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The same run with other values, of the right types, for some fields: {"schedule.epochs": 3, "seed": 1}."""
    changes: dict[str, dict[str, Any]] = {}
    for field, value in values.items():
        section, _, name = field.rpartition(".")
        changes.setdefault(section, {})[name] = value
    asked = changes.get("schedule", {})
    if "epochs" in asked:
        asked.setdefault("steps", 0)  # whoever asks for epochs means them, also where a recipe counts steps
    sections = {name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items() if name}
    return dataclasses.replace(config, **changes.get("", {}), **sections)


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same run with other settings, as a program gives them.

    Args:
        config: a recipe's, or an earlier run's.
        settings: values by name, as {"epochs": 3, "data.image_size": (288, 512)}.
    Raises:
        ConfigError: an unknown name, a value of another type, or one out of range.
    """
    types, values = setting_types(), dict[str, Any]()
    for name, value in settings.items():
        field = full_name(name)
        if field is None:
            near = nearest(name, [*types, *(field.rpartition(".")[2] for field in types)])
            raise ConfigError(f"There is no setting {name!r}.", do=f"Did you mean {near!r}?" if near else None)
        values[field] = typed(types[field], list(value) if isinstance(value, tuple) else value, field)
    return changed(config, values)


def with_data(config: RunConfig, spec: str | None, root: str | None) -> RunConfig:
    """The same run on other data, or looked for elsewhere."""
    given = {"data.spec": spec, "data.root": root}
    return changed(config, {field: value for field, value in given.items() if value is not None})


def flat_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, as optim.lr, from what `to_json` gives."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flat_settings(cast(Any, value), f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat
