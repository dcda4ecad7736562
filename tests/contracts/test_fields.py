"""Every setting of a run is listed in fields.txt, so that a new one is a visible difference.

After a deliberate change: .venv/bin/python tests/contracts/test_fields.py > tests/contracts/fields.txt
"""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).with_name("fields.txt")


def fields(config: Any, prefix: str = "") -> Iterator[str]:
    """One line a setting: dotted name, type, default."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from fields(value, name + ".")
        else:
            hint = hints[field.name]
            kind = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
            yield f"{name}: {kind.removeprefix('typing.')} = {value!r}"


def test_the_settings_are_the_listed_ones() -> None:
    from vitrail.config import RunConfig

    assert list(fields(RunConfig())) == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("section", ["RunConfig", "ViTConfig", "Preprocessing"])
def test_every_setting_has_its_help(section: str) -> None:
    """A string stands under each field: it is the help on the command line."""
    import vitrail.config

    pending, seen = [getattr(vitrail.config, section)], 0
    while pending:
        kind = pending.pop()
        pending += [hint for hint in typing.get_type_hints(kind).values() if dataclasses.is_dataclass(hint)]
        for owner in (k for k in kind.__mro__ if dataclasses.is_dataclass(k)):
            body = ast.parse(inspect.getsource(owner)).body[0]
            assert isinstance(body, ast.ClassDef)
            for statement, below in zip(body.body, [*body.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and not nested(statement):
                    seen += 1
                    has_help = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                    assert has_help, f"{owner.__name__}.{ast.unparse(statement.target)} has no docstring"
    assert seen > 5


def nested(statement: ast.AnnAssign) -> bool:
    """Whether a field is a section of its own, described by its class."""
    return ast.unparse(statement.annotation).endswith("Config")


if __name__ == "__main__":
    from vitrail.config import RunConfig

    print(*fields(RunConfig()), sep="\n")
