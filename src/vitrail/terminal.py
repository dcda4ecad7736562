"""The only code that writes for people: messages on standard error, the answer on standard output.

What is written may hold a stranger's text anywhere: the name of a file or class, a server's answer. So everything is
given as lines, and a line stays one line of printable characters (`vitrail.errors.shown`): what breaks a line, moves
the cursor or changes a colour in it is not ours. Our own colours are added after that, on a terminal alone, and not
where NO_COLOR is set (https://no-color.org).
"""

import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from vitrail.errors import VitrailError, shown

LONGEST_LINE = 10_000
_RED, _BOLD = 31, 1
_MOST_TRACEBACK_LINES = 200


class Heading(str):
    """A line that stands out on a terminal."""

    __slots__ = ()


def say(text: str | VitrailError, *, prefix: str = "vitrail: ") -> None:
    """One line on standard error; an error has the lines of its message, the first of them in red on a terminal."""
    first, *more = str(text).split("\n") if isinstance(text, VitrailError) else [text]
    _write(sys.stderr, [prefix + first, *more], _RED if isinstance(text, VitrailError) else 0)


def say_lines(lines: Iterable[str]) -> None:
    """Lines on standard error, as they are and at once: those of a log."""
    _write(sys.stderr, lines)


def say_fault(error: BaseException) -> None:
    """The traceback of an internal error, indented, so that no message in it can pass for one of ours."""
    lines = [line for entry in traceback.format_exception(error) for line in entry.rstrip("\n").split("\n")]
    if len(lines) > _MOST_TRACEBACK_LINES:
        half = _MOST_TRACEBACK_LINES // 2
        lines[half:-half] = [f"... {len(lines) - 2 * half} lines ..."]
    _write(sys.stderr, [f"  {line}" for line in lines])
    _write(sys.stderr, ["vitrail: internal error; please report it with the lines above."], _RED)


def answer(lines: Iterable[str]) -> None:
    """The answer for people, on standard output."""
    _write(sys.stdout, lines)


def answer_json(values: dict[str, Any]) -> None:
    """The answer for programs: one JSON object on one line, every text in it whole.

    Letters of any language stand as they are where the output takes UTF-8; what would do something to a terminal is
    escaped as JSON does it.
    """
    takes_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(values, allow_nan=False, ensure_ascii=not takes_utf8)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def columns(most: int = 112) -> int:
    """Characters that fit into a line of the answer: those of the terminal, at most `most`; elsewhere `most`."""
    return min(most, shutil.get_terminal_size().columns if is_terminal(sys.stdout) else most)


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at a stream."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none, or closed
        return False


def _write(stream: Any, lines: Iterable[str], first: int = 0) -> None:
    """Write lines at once, headings in bold and the first one in the colour `first`, where colours are wanted."""
    if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer characters than a name has
        stream.reconfigure(errors="backslashreplace")
    coloured = is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    written = ""
    for line in lines:
        code = (first if first and not written else _BOLD if isinstance(line, Heading) else 0) if coloured else 0
        text = shown(line, LONGEST_LINE)
        written += f"\x1b[{code}m{text}\x1b[0m\n" if code else f"{text}\n"
    stream.write(written)
    stream.flush()
