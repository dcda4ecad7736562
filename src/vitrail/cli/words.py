"""The words of a command line, in any order: a verb's own options, settings of a run, and what stands by itself."""

import argparse
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from vitrail.cli.settings import as_flag, hint, is_setting, take_setting
from vitrail.cli.values import OFF, ONE_WORD, is_number
from vitrail.errors import ConfigError, nearest, shell_word

_FOR_ALL = ("--json",)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours, in their form."""

    def add_argument(self, *names: str, **how: Any) -> argparse.Action:
        """Declare an argument; a switch --x has --no-x beside it."""
        action = super().add_argument(*names, **how)
        if how.get("action") == "store_true":
            off = OFF + names[0].removeprefix("--")
            super().add_argument(off, dest=action.dest, action="store_false", default=False, help=argparse.SUPPRESS)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        verb = "" if self.prog == "vitrail" else f"{_verb(self)}: "
        raise ConfigError(f"{verb}{message}", do=f"See: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise ConfigError for a value that is none of those an option takes, naming one that is near."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = nearest(str(value), choices)
        raise ConfigError(
            f"{'/'.join(action.option_strings) or action.metavar or action.dest} does not take this value.",
            got=repr(value),
            expected=f"one of {', '.join(choices)}",
            do=f"Did you mean {near}?" if near else f"See: {self.prog} --help",
        )


class Help(argparse.HelpFormatter):
    """The paragraphs of a description, as wide as the terminal is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


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
            values = [value] if given else _value_of(options[flag], rest)
            if "" in values:
                _refuse_empty(flag)
            own += [word] if given else [flag, *values]
        elif takes_settings and (found := take_setting(after := [word, *rest])):
            rest, flag = after, as_flag(found[0])
            settings += [f"{flag}={found[1][0]}"] if len(found[1]) == 1 else [flag, *found[1]]
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
        spec = "Images to train or evaluate on are given with --data." if "--data" in options else ""
        spec += " A path with spaces needs quotes." if spec and len(over) + len(alone) > 2 else ""
        do = ONE_WORD if is_number(over[0]) and "--image-size" in options else spec or f"See: {parser.prog} --help"
        raise ConfigError(f"{_verb(parser)} takes no further argument.", got=over[0], do=do)
    args.settings = settings
    return args


def _value_of(action: argparse.Action, rest: list[str]) -> list[str]:
    """Take the values of an option off the words that follow it: none or one, so that a name beside it is left alone;
    or several where it takes several.
    """
    if action.nargs == "+":
        values = list(itertools.takewhile(lambda word: not word.startswith("--"), rest))
        del rest[: len(values)]
        return values
    return [] if action.nargs == 0 or not rest or rest[0].startswith("--") else [rest.pop(0)]


def _refuse_empty(name: str) -> NoReturn:
    raise ConfigError(
        f"{name} is empty.",
        expected="a name, a path or a value",
        do="In a script: is the variable set that it comes from?",
    )


def _refuse(flag: str, parser: Parser, options: Mapping[str, object], *, takes_settings: bool) -> NoReturn:
    """Raise ConfigError for an option that there is not, naming what it may have meant."""
    if os.path.lexists(flag):
        raise ConfigError(
            f"{_verb(parser)} has no option {flag}.", do=f"For the file of that name: {shell_word('./' + flag)}"
        )
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
