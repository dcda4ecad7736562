"""Values of settings as words of a command line: which words a type takes, and the words that give a value.

A size is one number or HEIGHTxWIDTH, a list is its numbers with commas or spaces between them, a switch takes no word.
"""

import argparse
import types
import typing
from typing import Any

from vitrail.config.checks import pair
from vitrail.errors import shell_word

OFF = "--no-"
_SWITCH = ("true", "false")
"""What may stand after a switch, in place of --x and --no-x."""
ONE_WORD = "Height and width are one word: --image-size 288x512."
MEAN_OVER_MIRROR = "each answer is the mean over an image and its mirror image (--views mirror)"
_NONE = "none"
_MANY = 1000
SIZE = int | tuple[int, int]


def add_size_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Declare --image-size, as an option of a verb."""
    parser.add_argument(
        "--image-size", type=_size, metavar="SIZE", help=f"{meaning}, as 384 or 288x512 (height x width)"
    )


def add_views_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Declare --views, as an option of a verb."""
    parser.add_argument(
        "--views", choices=("single", "mirror"), default="single", help=f"mirror: {meaning} (default: single)"
    )


def _size(word: str) -> int | tuple[int, int]:
    try:
        found = typed(SIZE, [word])
        if min(pair(found)) > 0:
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} is not {expected(SIZE, '')}")


def is_number(word: str) -> bool:
    """Whether a word is a number, a negative one too."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def taken(kind: Any, rest: list[str]) -> list[str]:
    """Take the words of a value of this type off the front of `rest`. A switch and an empty list need none."""
    most, word = _most_words(kind), rest[0] if rest else "--"
    if kind is bool:
        return [rest.pop(0)] if word.lower() in _SWITCH else [_SWITCH[0]]
    if most == _MANY and word.lower() != _NONE and not any(map(is_number, word.split(","))):
        return [_NONE]
    if word.startswith("--"):
        return []
    words = [rest.pop(0)]
    while len(words) < most and rest and is_number(rest[0]) and all(map(is_number, words)):
        words.append(rest.pop(0))
    return words


def _most_words(kind: Any) -> int:
    """How many words a value of this type may have."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return _MANY if inner[1:] == (...,) else len(inner)
    return max(map(_most_words, _options(kind))) if len(_options(kind)) > 1 else 1


def typed(kind: Any, words: list[str]) -> Any:
    """Words as a value of a type. Raises ValueError when they are none."""
    for option in _options(kind):
        inner = typing.get_args(option)
        try:
            if typing.get_origin(option) is tuple:
                return _listed(inner, words, is_size=_is_size(kind))
            (word,) = words
            if typing.get_origin(option) is typing.Literal and word in inner:
                return word
            if option is bool:
                return {"true": True, "false": False}[word.lower()]
            if option is types.NoneType and word.lower() == _NONE:
                return None
            if option in (int, float, str):
                return option(word)
        except (ValueError, KeyError):
            continue
    raise ValueError


def _listed(inner: tuple[Any, ...], words: list[str], *, is_size: bool) -> tuple[Any, ...]:
    is_free = inner[1:] == (...,)
    if len(words) == 1:
        (word,) = words
        words = [] if is_free and word.lower() == _NONE else word.lower().split("x") if is_size else word.split(",")
    each = [inner[0]] * len(words) if is_free else list(inner)
    return tuple(typed(one, [word]) for one, word in zip(each, words, strict=True))


def written(value: object, kind: Any) -> str:
    """A value as one word of a shell, which `typed` takes. Not of a switch."""
    if isinstance(value, tuple):
        return ("x" if _is_size(kind) else ",").join(map(str, typing.cast(tuple[object, ...], value))) or _NONE
    return _NONE if value is None else shell_word(value)


def expected(kind: Any, flag: str) -> str:
    """What may be given to a flag of this type."""
    inner = typing.get_args(kind)
    if kind is bool:
        return f"{flag} or {OFF}{flag.removeprefix('--')}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(inner)}"
    if _is_size(kind):
        return "a size: 384, or 288x512 (height x width)"
    if typing.get_origin(kind) is tuple:
        number = "integer" if inner[0] is int else "number"
        return f"{number}s, or none" if inner[1:] == (...,) else f"{len(inner)} {number}s"
    if len(_options(kind)) > 1:
        return " or ".join(expected(option, flag) for option in _options(kind))
    return {int: "an integer", float: "a number", str: "text", types.NoneType: _NONE}[kind]


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type there is."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _is_size(kind: Any) -> bool:
    return kind == SIZE
