"""Prediction agrees with evaluation, for every way of giving an image."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail import data
from vitrail.data import ImageSet
from vitrail.errors import ConfigError, ImageError, InputError
from vitrail.predict import Prediction, Predictor
from vitrail.selftest.tiny import tiny_run

PROBABILITY_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predict") / "run"
    vitrail.train(tiny_run(schedule={"epochs": 12}, optim={"lr": 5e-3}), path)
    return path


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return data.load(tiny_run().data, ("test",))["test"]


def test_files_are_predicted_as_evaluated(run: Path, digits: ImageSet, tmp_path: Path) -> None:
    predictor = Predictor(run)
    paths: list[Path] = []
    for i in range(100):
        paths.append(tmp_path / f"{i:03d}.png")
        Image.fromarray(digits.images[i, 0]).save(paths[-1])
    predicted = [p.label for p in predictor(paths)]
    model, card = vitrail.load(run)
    cut = {name: getattr(digits, name)[:100] for name in ("images", "labels", "ids", "names")}
    first = dataclasses.replace(digits, **cut)
    expected = vitrail.evaluate(model, first, card.preprocessing, batch_size=10)
    right = sum(label == digits.classes[i] for label, i in zip(predicted, digits.labels[:100], strict=True))
    assert right == expected.num_correct
    assert right > 30


def test_paths_images_and_arrays_give_the_same(run: Path, digits: ImageSet, tmp_path: Path) -> None:
    predictor = Predictor(run)
    pixels = digits.images[0, 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, np.stack([pixels] * 3, -1)]
    for prediction in predictor(forms)[1:] + predictor(forms[2]):
        for ours, first in zip(prediction.top, predictor(forms[0])[0].top, strict=True):
            assert ours.label == first.label
            assert ours.probability == pytest.approx(first.probability, abs=PROBABILITY_TOLERANCE)


def test_probabilities_are_ranked_and_sum_to_one(run: Path, digits: ImageSet) -> None:
    (prediction,) = Predictor(run)(digits.images[0, 0], top=100)
    values = [ranked.probability for ranked in prediction.top]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1.0, abs=1e-5)
    assert (prediction.label, prediction.probability) == (prediction.top[0].label, values[0])


def test_an_unreadable_file_among_others(run: Path, digits: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("not a picture")
    good = Image.fromarray(digits.images[0, 0])
    results = list(Predictor(run).stream([good, tmp_path / "b.png", good], batch_size=2))
    assert [type(r) for r in results] == [Prediction, ImageError, Prediction]
    assert str(results[1]).startswith(str(tmp_path / "b.png"))
    with pytest.raises(ImageError):
        Predictor(run)([tmp_path / "b.png"])


def test_wrong_arrays_and_sizes(run: Path) -> None:
    with pytest.raises(InputError, match="uint8"):
        Predictor(run)(np.zeros((8, 8), np.float32))
    with pytest.raises(ConfigError, match="multiple of the patch"):
        Predictor(run, image_size=9)
    with pytest.raises(ConfigError, match="not available here"):
        Predictor(run, device="cuda:7")


def test_another_input_size(run: Path, digits: ImageSet) -> None:
    predictor = Predictor(run, image_size=(16, 8))
    assert predictor.preprocessing.image_size == (16, 8)
    assert len(predictor(digits.images[0, 0])) == 1
