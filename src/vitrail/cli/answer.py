"""What a verb answers, for people and for programs, and how tables look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.errors import LONGEST_PART, shown


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
    """The lines of a table, cells aligned in columns: numbers to the right, everything else to the left."""
    cells = [[shown(cell, LONGEST_PART) for cell in row] for row in rows]
    titles = [shown(title) for title in header]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = [titles, ["-" * width for width in widths], *cells]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]
