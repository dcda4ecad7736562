"""The only code that writes for people: messages on standard error, the answer on standard output.

What is written may hold a stranger's text anywhere: the name of a file or class, a server's answer. So everything is
given as lines, and a line stays one line of printable characters (`vitrail.errors.shown`): what breaks a line, moves
the cursor or changes a colour in it is not ours.
"""

import io
import json
import shutil
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from vitrail.errors import VitrailError, shown

LONGEST_LINE = 10_000
_MOST_TRACEBACK_LINES = 200


def say(text: str | VitrailError, *, prefix: str = "vitrail: ") -> None:
    """One line on standard error; an error has the lines of its message."""
    first, *more = str(text).split("\n") if isinstance(text, VitrailError) else [text]
    _write(sys.stderr, [prefix + first, *more])


def say_fault(error: BaseException) -> None:
    """The traceback of a fault of ours, indented, so that no message in it can pass for one of ours."""
    lines = [line for entry in traceback.format_exception(error) for line in entry.rstrip("\n").split("\n")]
    if len(lines) > _MOST_TRACEBACK_LINES:
        half = _MOST_TRACEBACK_LINES // 2
        lines[half:-half] = [f"... {len(lines) - 2 * half} lines ..."]
    _write(sys.stderr, [f"  {line}" for line in lines])
    say("this is a fault of vitrail's; please report it with the lines above.")


def answer(lines: Iterable[str]) -> None:
    """The answer for people, on standard output."""
    _write(sys.stdout, lines)


def answer_json(values: dict[str, Any]) -> None:
    """The answer for programs: one JSON object on one line, every text in it whole and escaped as JSON does it."""
    sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")
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


def _write(stream: Any, lines: Iterable[str]) -> None:
    if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer characters than a name has
        stream.reconfigure(errors="backslashreplace")
    stream.write("".join(f"{shown(line, LONGEST_LINE)}\n" for line in lines))
    stream.flush()
