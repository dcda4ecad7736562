"""The settings of a run on the command line: `--section.field VALUE`, over a recipe's own values.

The names, types and help are those of `RunConfig`. A name that only one section has may stand alone: `--epochs 2`.
"""

import argparse
import ast
import functools
import inspect
import itertools
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from vitrail.cli.values import OFF, expected, taken, typed, written
from vitrail.config import RunConfig
from vitrail.config.settings import as_flag, changed, full_name
from vitrail.config.settings import setting_types as _fields
from vitrail.errors import ConfigError, nearest
from vitrail.terminal import Heading, columns

_HABITS = {
    "arch": "the recipe's name: vitrail train RECIPE",
    "bs": "--data.batch-size",
    "batch": "--data.batch-size",
    "checkpoint": "--init WEIGHTS, or --resume",
    "config": "--from",
    "data-dir": "--data",
    "data-path": "--data",
    "dataset": "--data",
    "ema": "--optim.ema-decay",
    "gpus": "--nproc",
    "img-size": "--data.image-size",
    "input-size": "--data.image-size",
    "learning-rate": "--optim.lr",
    "lr-width": "--optim.lr (the rate itself)",
    "num-epochs": "--schedule.epochs",
    "opt": "--optim.name",
    "optimizer": "--optim.name",
    "out": "--run",
    "output": "--run",
    "output-dir": "--run",
    "pretrained": "--init WEIGHTS, or vitrail finetune WEIGHTS",
    "recipe": "the recipe's name alone: vitrail train RECIPE",
    "resolution": "--data.image-size",
    "save-dir": "--run",
    "scheduler": "--schedule.shape",
    "size": "--data.image-size",
    "wd": "--optim.weight-decay",
}
"""What other programs call it -> what it is called here."""
_NOT_NEEDED = dict.fromkeys(
    ("workers", "num-workers"),
    "There is nothing to set: images are decoded once, by as many threads as there are cores.",
)


def is_setting(flag: str) -> bool:
    """Whether a flag is the name of a setting, or of several; --no-x: of a switch."""
    name = flag.removeprefix("--").replace("-", "_")
    off = flag.removeprefix(OFF).replace("-", "_") if flag.startswith(OFF) else ""
    return any(
        name in (field, field.rpartition(".")[2]) or (kind is bool and off in (field, field.rpartition(".")[2]))
        for field, kind in _fields().items()
    )


def hint(flag: str, own: Sequence[str] = ()) -> str:
    """What an unknown flag may have meant, of a verb's `own` flags and of the settings; empty when nothing is near."""
    leaf = flag.removeprefix("--").rpartition(".")[2].replace("_", "-")
    if leaf in _NOT_NEEDED:
        return _NOT_NEEDED[leaf]
    if leaf in _HABITS:
        return f"Here it is {_HABITS[leaf]}."
    fields = _fields()
    same = [as_flag(field) for field in fields if field.rpartition(".")[2] == leaf.replace("-", "_")]
    if same:
        return f"Did you mean {' or '.join(same)}?"
    names = {**{as_flag(field.rpartition(".")[2]): as_flag(field) for field in fields}, **{name: name for name in own}}
    names |= {as_flag(field): as_flag(field) for field in fields}
    near = nearest(flag, names, 0.7)
    return f"Did you mean {names[near]}?" if near else ""


def take_setting(words: list[str]) -> tuple[str, list[str]] | None:
    """Take a setting and its value off the front of a command line: `--x VALUE`, `--x=VALUE`, `--x` or `--no-x`.

    Returns:
        The field and the words of its value, none where it is missing; None: no setting stands there, nothing is taken.
    Raises:
        ConfigError: fields of several sections have this name.
    """
    flag, given, value = words[0].partition("=")
    field, is_off = full_name(flag), False
    if not field and flag.startswith(OFF) and not given:
        field, is_off = full_name("--" + flag.removeprefix(OFF)), True
    if not field or (is_off and _fields()[field] is not bool):
        return None
    words.pop(0)
    if is_off or given:
        return field, ["false" if is_off else value]
    return field, taken(_fields()[field], words)


def apply_settings(config: RunConfig, settings: Sequence[str], prog: str) -> RunConfig:
    """Override fields of a configuration.

    Args:
        config: a recipe's, or an earlier run's.
        settings: flags and their values, as typed.
        prog: the command, as messages name it.
    Raises:
        ConfigError: an unknown field, a value of another type, or one out of range.
    """
    changes: dict[str, Any] = {}
    rest = list(settings)
    while rest:
        if (found := take_setting(rest)) is None:
            flag = rest[0].partition("=")[0]
            raise ConfigError(f"There is no setting {flag}.", do=f"{hint(flag)} See: {prog} --settings".strip())
        field, words = found
        try:
            changes[field] = typed(_fields()[field], words)
        except ValueError:
            raise ConfigError(
                f"{as_flag(field)} {'has a wrong value' if words else 'needs a value'}.",
                got=" ".join(map(repr, words)) or None,
                expected=expected(_fields()[field], as_flag(field)),
                do=f"See: {prog} --settings",
            ) from None
    return changed(config, changes)


def settings_help(config: RunConfig) -> list[str]:
    """Every setting as it is typed, with this configuration's value, and what it means."""
    lines = textwrap.wrap(
        "Settings of the run, as they are typed. A name that only one section has may stand alone: --epochs 2. "
        "A switch is turned on by --x and off by --no-x.",
        columns(),
    )
    told = ""
    for field, kind in _fields().items():
        section, _, name = field.rpartition(".")
        part = getattr(config, section) if section else config
        if section != told:
            lines += ["", Heading(f"{section}: {(type(part).__doc__ or '').splitlines()[0]}")]
            told = section
        lines.append(Heading(f"  {_line(field, getattr(part, name))}"))
        help_text = f"{_help_of(type(part))[name]} ({expected(kind, as_flag(field))})"
        lines += textwrap.wrap(help_text, columns(), initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _line(field: str, value: object) -> str:
    """A setting as a shell takes it."""
    flag, kind = as_flag(field), _fields()[field]
    if kind is bool:
        return flag if value else f"{OFF}{flag.removeprefix('--')}"
    word = written(value, kind)
    return f"{flag}={word}" if str(value).startswith("--") else f"{flag} {word}"


def values_of_settings() -> dict[str, list[str] | None]:
    """For a shell that completes: every setting as it is typed, with the values it may have; None: it takes none."""
    found: dict[str, list[str] | None] = {}
    for field, kind in _fields().items():
        flag = as_flag(field)
        if kind is bool:
            found |= {flag: None, OFF + flag.removeprefix("--"): None}
        else:
            found[flag] = list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []
    return found


@functools.cache
def _help_of(section: type) -> dict[str, str]:
    """The string that stands under each field of a section."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    body = typing.cast(ast.ClassDef, tree).body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def check_said_once(args: argparse.Namespace) -> None:
    """Raise ConfigError where an option and the setting that it is short for are both given."""
    for option, field in {
        "data": "data.spec",
        "data_root": "data.root",
        "init": "init.weights",
        "head": "init.head",
    }.items():
        given = [word for word in args.settings if word.partition("=")[0] == as_flag(field)]
        if given and getattr(args, option, None) is not None:
            raise ConfigError(f"{as_flag(option)} and {as_flag(field)} are the same setting.", do="Give one of them.")
