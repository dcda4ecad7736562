"""What the documents show runs: Python blocks are executed, commands are parsed, examples are run."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from vitrail import recipes
from vitrail.cli import parsed
from vitrail.cli.settings import apply_settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    """Every command line of ours in a code block, and those that recipes state."""
    found = [recipes.describe(name).command for name in recipes.names()]
    for path in DOCUMENTS:
        for _, block in BLOCK.findall(path.read_text(encoding="utf-8")):
            for line in block.splitlines():
                words = re.split(r"\s#", line)[0].removeprefix(".venv/bin/").strip()
                if words.startswith("vitrail "):
                    found.append(words)
    return found


def test_there_are_commands_in_the_documents() -> None:
    assert len(_commands()) > 10


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_one_that_the_program_takes(command: str) -> None:
    args = parsed(shlex.split(command.split(" > ", maxsplit=1)[0])[1:])
    if args.verb == "train":
        name = "digits" if args.recipe is None and args.resume and args.run else args.recipe  # --resume takes the run's
        assert name in recipes.names()
        apply_settings(recipes.get(name), args.settings, "vitrail")
    else:
        assert not args.settings


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [
        code for language, code in BLOCK.findall(DOCUMENTS[0].read_text(encoding="utf-8")) if language == "python"
    ]
    assert blocks
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([2, 10])" in capsys.readouterr().out


def test_the_example_writes_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_images.py", str(tmp_path / "images")])
    runpy.run_path(str(ROOT / "examples" / "demo_images.py"), run_name="__main__")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) == 10
    assert all(re.fullmatch(r"digit-\d-\d+\.png", name) for name in names), names
