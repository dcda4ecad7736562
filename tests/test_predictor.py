"""Prediction agrees with evaluation, for every way of giving an image."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail import data
from vitrail.data import ImageSet
from vitrail.errors import ConfigError, ImageError, InputError
from vitrail.predictor import ImageLike, Prediction, Predictor
from vitrail.selftest.tiny import tiny_run
from vitrail.training import evaluate

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
    expected = evaluate(model, first, card.preprocessing, batch_size=10)
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


def open_binary(path: Path) -> io.BufferedReader:
    return path.open("rb")


def same(one: Prediction, other: Prediction) -> bool:
    """Equal but for last bits: the rows of a batch are computed by kernels of different widths."""
    probabilities = [ranked.probability for ranked in other.top]
    return [r.label for r in one.top] == [r.label for r in other.top] and [
        r.probability for r in one.top
    ] == pytest.approx(probabilities, abs=1e-6)


def test_every_form_of_an_image_gives_the_same(run: Path, tmp_path: Path) -> None:
    predictor, pixels = Predictor(run), np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    with open_binary(path) as file, Image.open(path) as opened:
        forms: list[ImageLike] = [
            *(path, str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes()), file),
            *(opened, pixels, pixels / 255, (pixels / 255).astype(np.float32), tensor, tensor / 255),
            *((tensor / 255).requires_grad_(), np.dstack([pixels, np.full((8, 8), 255, np.uint8)])),
        ]
        first, *others = predictor(forms)
    assert all(same(other, first) for other in others)
    assert [p.path for p in predictor([path, path.read_bytes(), pixels])] == [str(path), "bytes", "ndarray"]
    batch = predictor(np.stack([pixels, pixels]))
    assert all(same(p, first) for p in (*batch, *predictor(torch.stack([tensor, tensor]))))


def test_one_channel(run: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    forms = [grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None], np.dstack([grey] * 3)]
    first, *others = Predictor(run)(forms)
    assert all(same(other, first) for other in others)


def test_nothing_is_nothing(run: Path) -> None:
    assert Predictor(run)([]) == []
    assert list(Predictor(run).stream([])) == []


@pytest.mark.unchecked
@pytest.mark.parametrize("image", [None, 7, {"a": 1}, object(), [None], [Path("a"), 7]])
def test_what_is_no_image_is_an_input_error(run: Path, image: Any) -> None:
    with pytest.raises(InputError, match="This is not an image"):
        Predictor(run)([image] if isinstance(image, dict) else image)


def test_files_that_cannot_be_read_are_errors_of_one_line(run: Path, tmp_path: Path) -> None:
    good = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    good.save(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "b.jpg")
    with open_binary(tmp_path / "a.png") as closed:
        pass
    gone = Image.open(tmp_path / "a.png")
    gone.close()
    cut = Image.open(io.BytesIO((tmp_path / "b.jpg").read_bytes()[:900]))
    bad: list[ImageLike] = [closed, gone, cut, b"", b"text", "https://example.org/a.png", tmp_path, str(tmp_path / "c")]
    for image, result in zip(bad, Predictor(run).stream(bad), strict=True):
        assert isinstance(result, ImageError), image
        assert "\n" not in str(result)
    with (tmp_path / "a.png").open(encoding="latin-1") as text, pytest.raises(InputError, match='open.path, "rb"'):
        Predictor(run)(io.StringIO(text.read()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.int64),
        np.zeros((8, 8), bool),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.full((8, 8, 3), 255.0),
        np.full((8, 8, 3), np.nan),
        torch.randn(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(8),
    ],
)
def test_arrays_whose_meaning_nothing_says(run: Path, image: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(InputError, match="uint8, or floating-point in .0, 1."):
        Predictor(run)(image)


def test_wrong_sizes_and_devices(run: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of the patch"):
        Predictor(run, image_size=9)
    with pytest.raises(ConfigError, match="not available here"):
        Predictor(run, device="cuda:7")


def test_another_input_size(run: Path, digits: ImageSet) -> None:
    predictor = Predictor(run, image_size=(16, 8))
    assert predictor.preprocessing.image_size == (16, 8)
    assert len(predictor(digits.images[0, 0])) == 1
