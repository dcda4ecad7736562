"""What the Tab key offers, asked of a real shell."""

import os
import pty
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from vitrail import recipes
from vitrail.cli import _VERBS, main
from vitrail.cli.completion import NAMED_DATA, SHELLS
from vitrail.cli.settings import _fields, as_flag
from vitrail.data.sources.named import NAMED_SETS

ASK = """
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_vitrail
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        with pytest.MonkeyPatch.context() as patch, (folder / shell).open("w") as file:
            patch.setattr("sys.stdout", file)
            with pytest.raises(SystemExit) as end:
                main(["--print-completion", shell])
            assert end.value.code == 0
    return folder


def offered(scripts: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    command = f"set -u; source {scripts / 'bash'}; {ASK}"
    done = subprocess.run(
        ["bash", "--norc", "-c", command, "bash", "vitrail", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_and_their_options(scripts: Path) -> None:
    assert offered(scripts, "") == [*_VERBS, "help"]
    assert offered(scripts, "tra") == [verb for verb in _VERBS if verb.startswith("tra")]
    assert offered(scripts, "--json", "pre") == ["pretrain", "predict"]
    assert offered(scripts, "help", "con") == ["convert"]
    assert offered(scripts, "--print-completion", "") == list(SHELLS)
    assert offered(scripts, "eval", "m", "--d") == ["--data", "--data-root", "--device"]
    assert "--merge" not in offered(scripts, "bench", "--")


def test_recipes_and_data_sets(scripts: Path) -> None:
    assert offered(scripts, "train", "") == recipes.from_scratch()
    assert offered(scripts, "pretrain", "") == recipes.without_labels()
    assert offered(scripts, "train", "--resume", "dig") == ["digits"]
    assert offered(scripts, "finetune", "w", "--recipe", "lin") == ["linear-probe"]
    assert set(NAMED_DATA) == set(NAMED_SETS)
    assert offered(scripts, "train", "digits", "--data", "cifar") == ["cifar10", "cifar100"]
    assert offered(scripts, "data", "") == ["info", "check", "download", "pack", "index", "simulate", *NAMED_DATA]


@pytest.mark.parametrize("verb", ["train", "pretrain", "finetune"])
def test_every_setting_and_its_values(scripts: Path, verb: str) -> None:
    flags = offered(scripts, verb, "x", "--")
    assert {as_flag(field) for field in _fields()} <= set(flags)
    assert "--no-data.fast-decoding" in flags
    assert offered(scripts, verb, "x", "--optim.na") == ["--optim.name"]
    assert offered(scripts, verb, "x", "--epo") == ["--epochs"]
    assert offered(scripts, verb, "x", "--no-compute.com") == ["--no-compute.compile"]
    assert offered(scripts, verb, "x", "--no-compi") == ["--no-compile"]
    assert "--epochs" not in flags
    for words in (["--optim.name", ""], ["--name", ""], ["--optim.name", "=", ""], ["--optim.name", "="]):
        assert offered(scripts, verb, "x", *words) == ["adam", "adamw", "sgd", "muon"], words
    assert offered(scripts, verb, "x", "--compile", "--no-compute.com") == ["--no-compute.compile"]


def test_a_free_value_is_left_to_the_names_of_files(scripts: Path) -> None:
    for words in (["train", "--run"], ["train", "--epochs"], ["train", "--data.root"], ["eval"], ["predict", "m"]):
        assert offered(scripts, *words, "") == [], words
    assert offered(scripts, "train", "--compile", "") == recipes.from_scratch()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("vitrail tra", "vitrail train "),
        ("vitrail finetune w --recipe lin", "--recipe linear-probe "),
        ("vitrail train digits --optim.na", "--optim.name "),
        ("vitrail train --epo", "--epochs "),
    ],
)
def test_zsh(scripts: Path, typed: str, wanted: str) -> None:
    assert wanted in on_a_terminal(["zsh", "-f", "-i"], [f"source {scripts / 'zsh'}\n", f"{typed}\t"])


def on_a_terminal(command: list[str], lines: list[str]) -> str:
    """What a program shows on a terminal where these lines are typed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], command, {**os.environ, "TERM": "dumb"})
    shown = ""
    try:
        for line in ["", *lines]:
            os.write(terminal, line.encode())
            while select.select([terminal], [], [], 2.0)[0]:
                shown += os.read(terminal, 1 << 16).decode()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return shown.replace("\b", "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(scripts: Path) -> None:
    for line, wanted in {
        "vitrail pre": "predict",
        "vitrail train dig": "digits",
        "vitrail train --optim.na": "--optim.name",
        "vitrail train --optim.name mu": "muon",
        "vitrail eval m --spl": "--split",
    }.items():
        command = f"source {scripts / 'fish'}; complete -C {line!r}"
        done = subprocess.run(["fish", "-N", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert wanted in {one.split("\t")[0] for one in done.stdout.splitlines()}, (line, done.stdout, done.stderr)
