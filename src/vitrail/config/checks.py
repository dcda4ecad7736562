"""Range checks shared by the settings: they raise or stay silent, they never change a value."""

import math
import re
from collections.abc import Iterable

from vitrail.errors import ConfigError


def flag(name: str) -> str:
    """The command-line spelling of a field: `data.batch_size` becomes `--data.batch-size`."""
    return "--" + name.replace("_", "-")


def require(condition: bool, name: str, got: object, expected: str, do: str | None = None) -> None:
    """Raise ConfigError naming the full field unless `condition` holds."""
    if not condition:
        raise ConfigError(
            f"{name.replace('_', '-')} is out of range.",
            got=got,
            expected=expected,
            do=do or f"Change {flag(name)}.",
        )


def require_positive(name: str, value: float) -> None:
    """The value is finite and greater than zero."""
    require(0 < value < math.inf, name, value, "a number greater than 0")


def require_at_most(name: str, value: float, most: float) -> None:
    """The value is no larger than what memory and time are planned for: a file could ask for anything."""
    short = value if abs(value) < 1e15 else f"{value:.3g}" if isinstance(value, float) else _rounded(value)
    require(value <= most, name, short, f"at most {most}")


def require_name(name: str, value: str) -> None:
    """The value can be the name of a folder and leads to no other one; empty is allowed."""
    right = not value or (re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value) and value not in (".", ".."))
    require(bool(right), name, repr(value), "letters, digits, '.', '_' and '-', and not '.' or '..'")


def require_not_negative(name: str, value: float) -> None:
    """The value is finite and zero or greater."""
    require(0 <= value < math.inf, name, value, "a number of at least 0")


def require_seed(name: str, value: int) -> None:
    """The value is what every generator takes for a seed."""
    require(0 <= value < 2**63, name, value, "an integer in [0, 2**63)")


def require_fraction(name: str, value: float) -> None:
    """The value lies in [0, 1)."""
    require(0 <= value < 1, name, value, "a fraction in [0, 1)")


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """A side or `(height, width)` as `(height, width)`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _rounded(value: int) -> str:
    """An integer that may be too long to be written out, or for a float."""
    return f"about {'-' if value < 0 else ''}1e{math.log10(abs(value)):.0f}"


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes without repetition, in label order.

    The first of several equal names stays; each later one becomes "name (index)", with its label as the index, as
    ImageNet's two cranes become "crane" and "crane (517)".
    """
    given = list(names)
    originals, taken, result = set(given), set[str](), list[str]()
    for index, name in enumerate(given):
        unique = name
        while unique in taken or (unique != name and unique in originals):
            unique = f"{unique} ({index})"
        taken.add(unique)
        result.append(unique)
    return tuple(result)
