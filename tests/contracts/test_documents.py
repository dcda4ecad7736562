"""What the documents show runs: Python blocks are executed, commands are parsed, examples are run."""

import argparse
import ast
import dataclasses
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitrail
from tests.support.folders import image_folder
from tests.support.random_vit import random_vit
from tests.support.reference_vit import ReferenceViT
from vitrail import recipes
from vitrail.cli import _parsers, main, parsed
from vitrail.cli.settings import apply_settings, is_setting
from vitrail.config import Preprocessing, RunConfig

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


INLINE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"(?:^|\s)(?:\.venv/bin/|-m )?vitrail(?= [a-z])")
TOP_LEVEL = ("--help", "--version", "--json", "--print-completion")
NOT_OURS = {"--x", "--no-x", "--section.field", "--smoke", "--signal", "--requeue", "--pretrained-path"}


def _blocks(path: Path) -> Iterator[str]:
    """The lines of the code blocks of a document; one that ends with a backslash goes on in the next."""
    for language, block in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language != "python":
            yield from block.replace("\\\n", " ").splitlines()


def _commands() -> list[str]:
    """Every command line of ours in a code block, and those that recipes state."""
    found = [recipes.describe(name).command for name in recipes.names()]
    for line in (line for path in DOCUMENTS for line in _blocks(path)):
        words = re.split(r"\s#", line)[0]
        if begin := PROGRAM.search(words):
            # What a shell would fill in ($resume, $(...)) is left out, and so are where the output goes and an "&".
            ours = re.split(r" > | \$\(|\"\]", words[begin.end() :])[0]
            found.append("vitrail " + re.sub(r" \$\w+$", "", ours.strip().removesuffix(" &")))
    return found


def _inline() -> list[tuple[str, str]]:
    """What stands between backticks in the prose, and the document it stands in."""
    return [
        (path.name, code)
        for path in DOCUMENTS
        if path.name != "LOG.md"  # a log keeps the commands of its day
        for code in INLINE.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
    ]


def test_there_are_commands_in_the_documents() -> None:
    assert len(_commands()) > 50
    assert len([code for _, code in _inline() if code.startswith("vitrail ")]) > 20


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_one_that_the_program_takes(command: str) -> None:
    args = parsed(shlex.split(command)[1:])
    if args.verb == "train":
        name = "digits" if args.recipe is None and args.resume and args.run else args.recipe  # --resume takes the run's
        assert name in recipes.names()
        apply_settings(recipes.get(name), args.settings, "vitrail")
    elif args.verb == "finetune":
        apply_settings(recipes.get(args.recipe or "finetune"), args.settings, "vitrail")
    else:
        assert not args.settings


def _is_known(flag: str, verbs: Iterable[argparse.ArgumentParser]) -> bool:
    """Whether a flag is an option of one of the verbs, or a setting."""
    return is_setting(flag) or any(flag in verb._option_string_actions for verb in verbs)


def _unknown_in(code: str, verbs: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Commands, options and settings of a piece of prose that the program does not have."""
    named = re.match(r"(?:\.venv/bin/)?vitrail ([a-z]+)", code)
    flags = [flag for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code) if flag not in NOT_OURS]
    if named and named[1] == "help":
        return []
    if named and named[1] not in verbs:
        return [named[1]]
    if "pip " in code or (not named and PROGRAM.search(code)):  # a command of another program
        flags = []
    if code.startswith("vitrail --"):
        flags = [flag for flag in flags if flag not in TOP_LEVEL]
    unknown = [flag for flag in flags if not _is_known(flag, [verbs[named[1]]] if named else verbs.values())]
    sections = "|".join(field.name for field in dataclasses.fields(RunConfig) if field.name not in ("recipe", "seed"))
    setting = re.fullmatch(rf"((?:{sections})\.[a-z][a-z_-]*)(?:[= ].*)?", code)
    if setting and not setting[1].endswith((".py", ".safetensors", ".json")) and not is_setting(setting[1]):
        unknown.append(setting[1])
    return unknown


def test_every_option_and_setting_in_the_prose_is_there() -> None:
    _, verbs = _parsers()
    assert [(document, code, unknown) for document, code in _inline() if (unknown := _unknown_in(code, verbs))] == []
    assert _unknown_in("vitrail trian", verbs) == ["trian"]
    assert _unknown_in("vitrail eval RUN --rnu x", verbs) == ["--rnu"]
    assert _unknown_in("optim.learning-rate 1", verbs) == ["optim.learning-rate"]


def test_modules_that_the_documents_name_are_there() -> None:
    folders = (ROOT, ROOT / "src" / "vitrail")
    documents = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *DOCUMENTS]
    named = {
        (path.name, code)
        for path in documents
        if path.name != "LOG.md"
        for code in INLINE.findall(path.read_text(encoding="utf-8"))
        if re.fullmatch(r"[a-z_/]+\.py", code)
    }
    assert len(named) > 50
    assert sorted((name, code) for name, code in named if not any((folder / code).exists() for folder in folders)) == []


def test_what_the_documents_install_is_what_the_extras_hold() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    packages = {"vitrail"} | {
        re.split(r"[>=<\[]", one)[0] for name, held in extras.items() if name != "dev" for one in held
    }
    installed = [(name, code) for name, code in _inline() if "pip install" in code]
    assert len(installed) > 5
    for document, code in installed:
        assert re.match(r"pip install ((-e '|')\.\[[a-z,]+\]'$|[a-z])", code), f"{document}: {code}"
        named = code.removeprefix("pip install ")
        folder = re.fullmatch(r"(?:-e '|')\.\[([a-z,]+)\]'", named)
        assert set(folder[1].split(",")) <= set(extras) if folder else set(named.split()) <= packages, (document, code)


def test_the_python_of_the_documents_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [
        (path.name, code)
        for path in DOCUMENTS
        for language, code in BLOCK.findall(path.read_text(encoding="utf-8"))
        if language == "python" and path.name != "tutorial.md"  # whose blocks follow each other: test_docs.py
    ]
    expected = {"README.md", "README.zh-CN.md", "from-the-tutorial.md", "model-file.md"}
    assert expected <= {name for name, _ in blocks}
    model = random_vit(num_labels=2)
    preprocessing = Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    card = vitrail.Card(geometry=model.config, classes=("cat", "dog"), preprocessing=preprocessing)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    vitrail.save(tmp_path / "runs" / "demo" / "best.safetensors", model, card)
    monkeypatch.chdir(tmp_path)
    _tutorial_checkpoint()
    found: dict[str, dict[str, Any]] = {}
    for name, code in {
        ast.dump(ast.parse(code)): (name, code) for name, code in reversed(blocks)
    }.values():  # once each
        variables: dict[str, Any] = {}
        exec(compile(code, name, "exec"), variables)
        found[name] = {**found.get(name, {}), **variables}
    assert "torch.Size([2, 10])" in capsys.readouterr().out
    assert found["from-the-tutorial.md"]["card"].classes[3] == "cat"
    assert found["model-file.md"]["about"]["classes"] == ["cat", "dog"]
    assert set(found["model-file.md"]["names"]) == set(model.state_dict())


def _tutorial_checkpoint() -> None:
    """best_model.pth, a small model saved as the tutorial saves its best one."""
    torch.manual_seed(0)
    model = ReferenceViT()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    model(torch.randn(2, 3, 224, 224)).sum().backward()
    optimizer.step()
    state = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({"epoch": 79, **state, "accuracy": 79.7}, "best_model.pth")


def test_the_tutorials_checkpoint_comes_along(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _tutorial_checkpoint()
    image_folder(tmp_path / "photos", {"cat": 12, "dog": 12})
    Image.new("RGB", (40, 30), "green").save("photo.png")
    document = ROOT / "docs" / "from-the-tutorial.md"
    commands = [line.split(" #")[0] for line in _blocks(document) if re.search(r"best_model\.pth|mine\.saf", line)]
    assert [shlex.split(command)[1] for command in commands] == ["inspect", "convert", "predict", "finetune"]
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, "--min-steps", "0", "--epochs", "1"] if words[0] == "finetune" else words) == 0, command
    printed = capsys.readouterr().out
    shown = re.search(r"^family .*?^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert [line for line in shown[0].splitlines()[:-1] if line not in printed] == []
    assert (tmp_path / "runs" / "mine2" / "best.safetensors").exists()


def test_the_example_writes_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_images.py", str(tmp_path / "images")])
    runpy.run_path(str(ROOT / "examples" / "demo_images.py"), run_name="__main__")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) == 10
    assert all(re.fullmatch(r"digit-\d-\d+\.png", name) for name in names), names
