"""Each command, once, from start to end, as a user types it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vitrail import data
from vitrail.cli import _VERBS, main  # pyright: ignore[reportPrivateUsage]
from vitrail.selftest.tiny import tiny_run

SMALL = ["--epochs", "1", "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2"]
LINES = {
    "recipes": "recipes",
    "data info": "data info digits",
    "data check": "data check digits",
    "data check near": "data check images --near --gallery page.html --write-manifest clean.csv",
    "data pack": "data pack digits packed --channels L",
    "data download": "data download cifar10 --data-root root",
    "train": "train digits --run run",
    "pretrain": "pretrain --data images --run encoder --image-size 16 --data.batch-size 4",
    "eval": "eval run",
    "predict": "predict run images",
    "predict many": "predict run images -o many --what embedding",
    "calibrate": "calibrate run --split test",
    "report": "report run",
    "compare": "compare run run",
    "track": "track run --to csv",
    "explain": "explain run images",
    "export": "export run --images images",
    "inspect": "inspect run",
    "convert": "convert builtin:cifar100 out --to huggingface",
    "finetune": "finetune builtin:cifar100 --data images --run tuned --recipe knn",
    "bench": "bench digits --seconds 0.05 --batch-size 4 --device cpu",
    "selftest": "selftest",
}


def test_the_list_is_whole() -> None:
    endless = {"serve"}  # tests/serving/test_process.py
    assert {line.partition(" ")[0] for line in LINES} | endless == set(_VERBS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a data set of ten images of two classes, and a folder of a named set."""
    folder = tmp_path_factory.mktemp("verbs")
    digits = data.load(tiny_run().data, ("test",))["test"]
    for number in range(40):
        label = int(digits.labels[number])
        if label < 2:
            (folder / "images" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[number, 0]).save(folder / "images" / str(label) / f"{number}.png")
    (folder / "root" / "cifar10").mkdir(parents=True)
    for split in ("train", "test"):
        (folder / "root" / "cifar10" / f"{split}-00000-of-00001.parquet").touch()
    assert main(["train", "digits", "--run", str(folder / "run"), *SMALL]) == 0
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "selftest" else ()) for name in LINES]
)
def test_a_verb_does_its_work(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    words = LINES[name].split()
    if name == "train":  # its run is there already, and others stand on it
        words = ["train", "digits", "--run", str(tmp_path / "run"), *SMALL]
    if name == "pretrain":
        words += SMALL
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    answer = json.loads(capsys.readouterr().out)
    assert answer
    assert answer.get("errors", []) == []
