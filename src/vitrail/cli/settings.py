"""The settings of a run on the command line: `--section.field VALUE`, over a recipe's own values, through tyro."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from vitrail.config import RunConfig
from vitrail.errors import ConfigError


def split_settings(words: list[str]) -> tuple[list[str], list[str]]:
    """Part `--section.field VALUE ...` and `--seed N` from a verb's own arguments.

    Returns:
        The verb's arguments, and the settings.
    """
    own: list[str] = []
    settings: list[str] = []
    into = own
    for word in words:
        if word.startswith("--"):
            name = word.split("=", 1)[0]
            into = settings if "." in name or name == "--seed" else own
        into.append(word)
    return own, settings


def apply_settings(config: RunConfig, settings: list[str], prog: str) -> RunConfig:
    """Override fields of a configuration.

    A misspelt field or a value out of range ends the program with status 2 and a message that names the nearest one.
    """
    import tyro

    with contextlib.redirect_stdout(sys.stderr):
        return tyro.cli(RunConfig, default=config, args=settings, prog=prog, config=(tyro.conf.FlagConversionOff,))


def settings_help(config: RunConfig, prog: str) -> str:
    """What every setting means, with this configuration's values."""
    import tyro

    return str(tyro.extras.get_parser(RunConfig, default=config, prog=prog).format_help())


def with_data(config: RunConfig, spec: str | None, root: str | None) -> RunConfig:
    """The same run on other data, or looked for elsewhere."""
    changes: dict[str, Any] = {}
    if spec is not None:
        changes["spec"] = spec
    if root is not None:
        changes["root"] = root
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes)) if changes else config


def size_option(values: Sequence[int] | None) -> int | tuple[int, int] | None:
    """`--image-size PX` or `--image-size HEIGHT WIDTH` as an image size. Raises ConfigError for any other count."""
    if not values:
        return None
    if len(values) > 2 or min(values) < 1:
        raise ConfigError("--image-size has a wrong value.", got=list(values), expected="one side, or height and width")
    return values[0] if len(values) == 1 else (values[0], values[1])
