"""The settings of a run on the command line: `--section.field VALUE`, over a recipe's own values.

The names, types and help are those of `RunConfig`. A name that only one section has may stand alone: `--epochs 2`.
"""

import ast
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any

from vitrail.config import RunConfig
from vitrail.config.settings import as_flag, changed, full_name
from vitrail.config.settings import setting_types as _fields
from vitrail.errors import ConfigError, nearest

_HABITS = {
    "arch": "the recipe's name: vitrail train RECIPE",
    "bs": "--data.batch-size",
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
    """Whether a flag is the name of a setting, or of several."""
    name = flag.removeprefix("--").replace("-", "_")
    return any(name in (field, field.rpartition(".")[2]) for field in _fields())


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


def taken_values(field: str, rest: list[str]) -> list[str]:
    """Take the values of a setting off the words that follow its name: one, or as many numbers as its type holds."""
    kind = _fields()[field]
    taken: list[str] = []
    while rest and len(taken) < _most_values(kind) and (is_number(rest[0]) if taken else not rest[0].startswith("--")):
        if not taken and _may_be_empty(kind) and not is_number(rest[0]):
            break
        taken.append(rest.pop(0))
    return taken


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
        flag, given, value = rest.pop(0).partition("=")
        field = full_name(flag)
        if field is None:
            raise ConfigError(f"There is no setting {flag}.", do=f"{hint(flag)} See: {prog} --settings".strip())
        words = [value] if given else taken_values(field, rest)
        if not given and not words and _fields()[field] is bool:
            words = ["True"]
        try:
            changes[field] = _typed(_fields()[field], words)
        except ValueError:
            raise ConfigError(
                f"{as_flag(field)} {'has a wrong value' if words else 'needs a value'}.",
                got=" ".join(map(repr, words)) or None,
                expected=_expected(_fields()[field]),
                do=f"See: {prog} --settings",
            ) from None
    return changed(config, changes)


def settings_help(config: RunConfig) -> list[str]:
    """Every setting with this configuration's value and what it means."""
    lines = ["Settings, with the values of this run. A name that one section alone has may stand alone: --epochs 2"]
    told = ""
    for field, kind in _fields().items():
        section, _, name = field.rpartition(".")
        part = getattr(config, section) if section else config
        if section != told:
            lines += ["", f"{section}: {(type(part).__doc__ or '').splitlines()[0]}"]
            told = section
        value = getattr(part, name)
        values = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        lines.append(f"  {as_flag(field)} {values}".rstrip())
        lines += textwrap.wrap(f"{_help_of(type(part))[name]} ({_expected(kind)})", 104, initial_indent=" " * 8,
                               subsequent_indent=" " * 8)  # fmt: skip
    return lines


def is_number(word: str) -> bool:
    """Whether a word is a number, a negative one too."""
    try:
        float(word)
    except ValueError:
        return False
    return True


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


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type there is."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _may_be_empty(kind: Any) -> bool:
    return typing.get_args(kind)[1:] == (...,)


def _most_values(kind: Any) -> int:
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return 1000 if inner[1:] == (...,) else len(inner)
    return max(map(_most_values, _options(kind))) if len(_options(kind)) > 1 else 1


def _typed(kind: Any, words: list[str]) -> Any:
    """Words as a value of a type. Raises ValueError when they are none."""
    for option in _options(kind):
        inner = typing.get_args(option)
        try:
            if typing.get_origin(option) is tuple:
                each = [inner[0]] * len(words) if inner[1:] == (...,) else list(inner)
                return tuple(_typed(one, [word]) for one, word in zip(each, words, strict=True))
            (word,) = words
            if typing.get_origin(option) is typing.Literal and word in inner:
                return word
            if option is bool:
                return {"true": True, "false": False}[word.lower()]
            if option is types.NoneType and word.lower() == "none":
                return None
            if option in (int, float, str):
                return option(word)
        except (ValueError, KeyError):
            continue
    raise ValueError


def _expected(kind: Any) -> str:
    """A type in words."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(inner)}"
    if typing.get_origin(kind) is tuple:
        number = "integer" if inner[0] is int else "number"
        return f"{number}s" if inner[1:] == (...,) else f"{len(inner)} {number}s"
    if len(_options(kind)) > 1:
        return " or ".join(_expected(option) for option in _options(kind))
    return {bool: "True or False", int: "an integer", float: "a number", str: "a text", types.NoneType: "none"}[kind]


def size_option(values: Sequence[int] | None) -> int | tuple[int, int] | None:
    """`--image-size PX` or `--image-size HEIGHT WIDTH` as an image size. Raises ConfigError for any other count."""
    if not values:
        return None
    if len(values) > 2 or min(values) < 1:
        raise ConfigError("--image-size has a wrong value.", got=list(values), expected="one side, or height and width")
    return values[0] if len(values) == 1 else (values[0], values[1])
