"""What a verb answers, for people and for programs, and how tables look."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.errors import LONGEST_PART, shown
from vitrail.terminal import LONGEST_LINE, Heading, columns

_GAP = 2
_LEAST = 20
"""Characters of a column, at least, into which long cells are folded."""


@dataclass(frozen=True)
class Answer:
    """The result of a verb: lines for people, JSON values for programs.

    A line break within a line is a stranger's, and is shown as an escape. Without values the answer was given by a
    process that this one started, which ended with `status`.
    """

    lines: list[str]
    values: dict[str, Any] | None
    status: int = 0


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table, cells aligned in columns: numbers to the right, everything else to the left.

    On a terminal that is too narrow the last column is folded, if it is text.
    """
    cells = [[shown(cell, LONGEST_PART) for cell in row] for row in rows]
    titles = [shown(title) for title in header]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    room = columns(LONGEST_LINE) - sum(widths[:-1]) - _GAP * (len(widths) - 1)
    if not right[-1] and _LEAST <= room < widths[-1]:
        widths[-1] = room
        cells = [part for row in cells for part in _folded(row, room)]

    def line(row: Sequence[str]) -> str:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        aligned = (gap + cell if r else cell + gap for cell, gap, r in zip(row, gaps, right, strict=True))
        return (" " * _GAP).join(aligned).rstrip()

    return [Heading(line(titles)), line(["-" * width for width in widths]), *map(line, cells)]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese, Japanese and Korean characters take two, accents none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _folded(row: list[str], room: int) -> list[list[str]]:
    """A row whose last cell goes on in further rows, where it is longer than `room`."""
    first, *more = textwrap.wrap(row[-1], room) or [""]
    return [[*row[:-1], first], *([""] * (len(row) - 1) + [part] for part in more)]
