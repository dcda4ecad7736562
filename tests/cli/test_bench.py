"""`vitrail bench`: a table for people, one object for programs, and clear refusals."""

import json

import pytest

from vitrail.cli import main
from vitrail.cli.bench import _described  # pyright: ignore[reportPrivateUsage]

QUICK = ["--seconds", "0.05", "--device", "cpu"]


def test_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "digits", "--batch-size", "4", "--json", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch_size"] == 4
    assert found["training"]["images_per_second"] > 0
    assert abs(sum(found["fractions"].values()) - 1) < 1e-9


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "Ti/16", "--batch-size", "1", *QUICK]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("training", "inference", "GFLOP/s", "data wait", "backward", "MiB"))


def test_shipped_weights_are_measured_too() -> None:
    config, num_labels = _described("builtin:cifar100")
    assert (config.data.image_size, num_labels) == ((32, 32), 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "is not a recipe, a size, a run directory or a model file"),
        (["digits", "--batch-size", "0"], "--batch-size must be positive"),
        (["digits", "--seconds", "0"], "--seconds must be positive"),
        (["digits", "--device", "cuda:99"], "not available here"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
