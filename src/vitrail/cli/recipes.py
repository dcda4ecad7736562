"""List the named recipes: what they do, on which hardware, how long, with which score."""

import argparse
import dataclasses
import textwrap

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.terminal import Heading, columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none: the list takes no arguments."""


def run(args: argparse.Namespace) -> Answer:
    """List every recipe with what its docstring states."""
    described = [recipes.describe(name) for name in recipes.names()]
    blocks: list[str] = []
    for recipe in described:
        lines: list[str] = [Heading(f"{recipe.name}: {recipe.what}")]
        for word in ("command", "hardware", "time", "expected", "source"):
            lines += textwrap.wrap(f"  {word:<9} {getattr(recipe, word)}", columns(), subsequent_indent=" " * 12)
        blocks += ["", *lines] if blocks else lines
    return Answer(blocks, {"recipes": [dataclasses.asdict(recipe) for recipe in described]})
