"""What a verb answers, for people and for programs, and how tables look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The result of a verb: text for people, JSON values for programs.

    Without values the answer was given by a process that this one started, which ended with `status`.
    """

    text: str
    values: dict[str, Any] | None
    status: int = 0


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align cells in columns: numbers to the right, everything else to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )
