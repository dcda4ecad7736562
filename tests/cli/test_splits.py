"""Which split chooses and which one is measured, as a user with images of his own meets them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_commands import FAST, vitrail_json
from vitrail import data
from vitrail.cli import main
from vitrail.cli.train import verdict
from vitrail.run import Baseline, Determinism, RunResult, Score
from vitrail.selftest.tiny import tiny_run

SMALL = [
    *FAST,
    "--data.channels",
    "L",
    "--data.image-size",
    "8",
    "--schedule.epochs",
    "2",
    "--compute.compile",
    "False",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 digits in train, 30 each in val and test."""
    root = tmp_path_factory.mktemp("images")
    digits = data.load(tiny_run().data, ("test",))["test"]
    for i in range(180):
        split = "train" if i < 120 else "val" if i < 150 else "test"
        folder = root / split / f"digit {digits.classes[digits.labels[i]]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, 0]).save(folder / f"{i}.png")
    return root


def test_val_chooses_and_test_is_measured_once(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(["train", "digits", "--data", str(images), "--run", str(run), *SMALL]) == 0
    captured = capsys.readouterr()
    assert "has a val split: the best epoch is chosen there" in captured.err
    assert "measured on 30 images of the val split, the best model then once on 30 of the test split" in captured.err
    assert "on the test split, which chose nothing" in captured.out
    assert "few images: 95 % interval" in captured.out
    stored = json.loads((run / "evaluation.json").read_text())
    assert (stored["split"], stored["test"]["split"]) == ("val", "test")
    again = vitrail_json(capsys, "eval", str(run))
    assert (again["split"], again["num_correct"]) == ("test", stored["test"]["num_correct"])


def test_the_training_split_of_a_run_is_what_it_trained_on(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    vitrail_json(capsys, "train", "digits", "--data", str(images / "train"), "--run", run, *SMALL)
    counts = [vitrail_json(capsys, "eval", run, "--split", split)["num_examples"] for split in ("train", "val", "all")]
    assert counts[0] + counts[1] == counts[2] == 120


def test_who_asks_for_the_test_split_gets_it(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    args = ["--data", str(images), "--run", str(tmp_path / "run"), *SMALL, "--evaluation.split", "test"]
    result = vitrail_json(capsys, "train", "digits", *args)
    assert (result["evaluation"]["split"], "test" in result["evaluation"]) == ("test", False)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["evaluation"]["test_best"] is False


@pytest.mark.parametrize("recipe", ["linear-probe", "knn", "lora", "finetune"])
def test_a_recipe_that_starts_from_weights_asks_for_them(capsys: pytest.CaptureFixture[str], recipe: str) -> None:
    assert main(["train", recipe, "--data", "digits"]) == 2
    assert f"vitrail finetune WEIGHTS --data SPEC --recipe {recipe}" in capsys.readouterr().err


def test_neighbours_that_voted_say_that_they_cannot_predict(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "knn")
    args = ["finetune", "builtin:cifar100", "--recipe", "knn", "--data", str(images), "--run", run]
    assert main(args) == 0
    assert "This run cannot predict" in capsys.readouterr().out
    (image, *_) = sorted((images / "test").rglob("*.png"))
    assert main(["predict", run, str(image)]) == 2
    assert "--recipe linear-probe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (25, ""),
        (20, "did not beat k-NN (0.6667 against 0.7000, a difference that 30 images cannot tell from chance)"),
        (16, "did not beat k-NN (0.5333 against 0.7000, a difference that 30 images cannot tell from chance)"),
        (5, "did not beat k-NN (0.1667 against 0.7000)"),
    ],
)
def test_the_answer_says_whether_the_baselines_were_beaten(right: int, said: str) -> None:
    evaluation = {"split": "val", "num_correct": right, "num_examples": 30, "accuracy": right / 30}
    score = Score(epoch=2, accuracy=right / 30, loss=1.0)
    result = RunResult(
        run=Path("r"), model=Path("m"), epochs=3, steps=3, num_examples_seen=90, train_seconds=1.0,
        images_per_second=90.0, final=score, best=score, evaluation=evaluation,
        baseline=Baseline(linear=0.6, knn=0.7, num_train=100, num_examples=30, split="val"),
        deterministic=Determinism(
            order_and_augmentation=True, weights=True, same="", reasons=[], other_number_of_processes=[]
        ),
    )  # fmt: skip
    lines = verdict(result)
    text = " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 112
    assert "linear probe 0.6000, k-NN 0.7000" in text
    assert said in text
    assert ("did not beat" in text) == bool(said)
