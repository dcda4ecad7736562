"""The words of a command line, in any order: a verb's own options, settings of a run, and what stands by itself."""

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from vitrail.cli.settings import as_flag, full_name, hint, is_number, is_setting, taken_values
from vitrail.errors import ConfigError, nearest

_FOR_ALL = ("--json",)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours, in their form."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{_verb(self)}: {message}", do=f"See: {self.prog} --help")


def verb_first(words: Sequence[str], verbs: Iterable[str]) -> list[str]:
    """A command line as VERB ...: options that all verbs take may stand before it; `help VERB` is `VERB --help`.

    Raises:
        ConfigError: there is no such verb; names one that is near.
    """
    before = list(itertools.takewhile(_FOR_ALL.__contains__, words))
    rest = list(words[len(before) :])
    if rest and rest[0] == "help":
        rest = [*rest[1:2], "--help"]
    if not rest or rest[0].startswith("-"):
        return rest
    if rest[0] not in verbs:
        near = nearest(rest[0], verbs)
        raise ConfigError(
            f"There is no command {rest[0]!r}.",
            expected=f"one of {', '.join(verbs)}",
            do=f"Did you mean: vitrail {near}?" if near else "See: vitrail --help",
        )
    return [rest[0], *before, *rest[1:]]


def understood(words: Sequence[str], parser: Parser, *, takes_settings: bool) -> argparse.Namespace:
    """What a verb's arguments say, with the settings among them as `settings`, under their full names.

    Options, settings and the others may come in any order.

    Raises:
        ConfigError: an unknown option, with what it may have meant; a missing or wrong value; an empty word.
    """
    options: dict[str, argparse.Action] = parser._option_string_actions
    own: list[str] = []
    alone: list[str] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, given, value = word.partition("=")
        if word == "--":
            alone += rest
            break
        if not word.startswith("-") or is_number(word):
            alone.append(word)
        elif flag in options:
            values = [value] if given else _values_of(options[flag], rest)
            if "" in values:
                _refuse_empty(flag)
            own += [word] if given else [flag, *values]
        elif takes_settings and (field := full_name(flag)):
            settings += [f"{as_flag(field)}={value}"] if given else [as_flag(field), *taken_values(field, rest)]
        else:
            _refuse(flag, parser, options, takes_settings=takes_settings)
    if "" in alone:
        names = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
        _refuse_empty(names[min(alone.index(""), len(names) - 1)] if names else "an argument")
    # What stands alone comes first, so that no option with several values takes it; a path that begins with a hyphen
    # needs a mark before it.
    marked = any(word.startswith("-") and not is_number(word) for word in alone)
    args, over = parser.parse_known_args([*own, "--", *alone] if marked else [*alone, *own])
    if over:
        spec = "Images to learn from or to measure on are given with --data." if "--data" in options else ""
        raise ConfigError(
            f"{_verb(parser)} takes no further argument.", got=over[0], do=spec or f"See: {parser.prog} --help"
        )
    args.settings = settings
    return args


def _values_of(action: argparse.Action, rest: list[str]) -> list[str]:
    """Take an option's values off the words that follow it: none, one, or as many as are numbers."""
    if action.nargs == 0 or not rest or rest[0].startswith("--"):
        return []
    values = [rest.pop(0)]
    while action.nargs == "+" and rest and is_number(rest[0]):
        values.append(rest.pop(0))
    return values


def _refuse_empty(name: str) -> NoReturn:
    raise ConfigError(
        f"{name} is empty.",
        expected="a name, a path or a value",
        do="In a script: is the variable set that it is from?",
    )


def _refuse(flag: str, parser: Parser, options: Mapping[str, object], *, takes_settings: bool) -> NoReturn:
    """Raise ConfigError for an option that there is not, naming what it may have meant."""
    if takes_settings:
        meant = hint(flag, [name for name in options if name.startswith("--")])
        listed = f"See: {parser.prog} --help, and {parser.prog} --settings for the settings of the run."
    else:
        near = nearest(flag, options, 0.7)
        meant = f"Did you mean {near}?" if near else ""
        listed = f"See: {parser.prog} --help"
        if not near and is_setting(flag):
            raise ConfigError(f"{_verb(parser)} takes no settings of a run.", got=flag, do=listed)
    raise ConfigError(f"{_verb(parser)} has no option {flag}.", do=f"{meant} {listed}" if meant else listed)


def _verb(parser: Parser) -> str:
    return parser.prog.removeprefix("vitrail ")
