"""List the named recipes: what they do, on which hardware, how long, with which score."""

import argparse
import dataclasses
import textwrap

from vitrail import recipes
from vitrail.cli.answer import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none: the list takes no arguments."""


def run(args: argparse.Namespace) -> Answer:
    """List every recipe with what its docstring states."""
    described = [recipes.describe(name) for name in recipes.names()]
    blocks: list[str] = []
    for recipe in described:
        lines = [f"{recipe.name}: {recipe.what}"]
        for word in ("command", "hardware", "time", "expected", "source"):
            text = textwrap.fill(getattr(recipe, word), 96, subsequent_indent=" " * 12)
            lines += f"  {word:<9} {text}".splitlines()
        blocks += ["", *lines] if blocks else lines
    return Answer(blocks, {"recipes": [dataclasses.asdict(recipe) for recipe in described]})
