"""Honest confidence: the temperature of a run, "unknown", and both through every engine and file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import vitrail
from tests.run.test_predictions import made
from tests.support.headers import card_of, change_card
from vitrail import weights
from vitrail.cli import main
from vitrail.errors import ConfigError, InputError, WeightsError
from vitrail.predictor import Predictor
from vitrail.run import RunDir, read_predictions
from vitrail.runtime import EngineOptions
from vitrail.selftest.tiny import tiny_run
from vitrail.training import evaluate, train
from vitrail.training.calibration import calibration_of, unknown_of
from vitrail.training.transfer.probe import features
from vitrail.weights.calibration import Calibration, Unknown

VAL = {"evaluation": {"split": "val", "test_best": False}, "data": {"batch_size": 128, "validation_fraction": 0.3}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A digits model whose temperature is found at the end of its run."""
    run_dir = RunDir(tmp_path_factory.mktemp("calibration") / "run")
    train(tiny_run(**VAL, schedule={"epochs": 12}), run_dir.path)
    return run_dir


@pytest.fixture(scope="module")
def rejecting(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rejecting") / "model.safetensors"
    vitrail.calibrate(run.path, reject=0.1, out=path)
    return path


def _test_digits(card: vitrail.Card | None = None) -> vitrail.ImageSet:
    return vitrail.load_data("digits", ("test",), card=card)["test"]


def test_training_finds_it_on_the_val_split(run: RunDir) -> None:
    card = weights.read_card(run.best_path)
    found = card.calibration
    assert found is not None
    assert found.split == "val"
    assert found.temperature < 0.95  # label smoothing and mixing make a model too modest
    assert found.ece_before is not None
    assert found.ece_after is not None
    assert found.ece_after < found.ece_before
    again = vitrail.calibrate(run.path, out=run.path / "other.safetensors")
    (run.path / "other.safetensors").unlink()
    assert again == found
    assert Predictor(run.path).temperature == found.temperature


def test_none_from_the_test_split(tmp_path: Path) -> None:
    train(tiny_run(schedule={"epochs": 1}), tmp_path / "run")
    assert weights.read_card(tmp_path / "run").calibration is None
    assert Predictor(tmp_path / "run").temperature == 1.0


def test_logits_three_times_as_large_get_three_times_the_temperature(run: RunDir, tmp_path: Path) -> None:
    model, card = vitrail.load(run.path)
    assert card.calibration
    with torch.no_grad():
        model.head.weight.mul_(3)  # type: ignore[operator]
        model.head.bias.mul_(3)  # type: ignore[operator]
    vitrail.save(tmp_path / "sharp.safetensors", model, replace(card, calibration=None))
    found = vitrail.calibrate(tmp_path / "sharp.safetensors")
    assert found.temperature == pytest.approx(3 * card.calibration.temperature, rel=0.02)
    assert found.ece_after == pytest.approx(card.calibration.ece_after, abs=2e-3)
    digits = _test_digits(card).images[:50, 0]
    before, after = (Predictor(path)(list(digits)) for path in (run.path, tmp_path / "sharp.safetensors"))
    assert [p.label for p in before] == [p.label for p in after]
    assert [p.probability for p in before] == pytest.approx([p.probability for p in after], abs=0.01)


def test_one_with_the_reason_where_nothing_can_be_fitted() -> None:
    few = calibration_of(made(20))
    assert (few.temperature, few.reason) == (1.0, "20 validation images are too few, at least 200 are needed")
    right = made(300)
    assert right.logits is not None
    right = replace(right, labels=right.logits.argmax(1).astype(np.int32))
    assert calibration_of(right).temperature == 1.0
    assert "no validation image is wrong" in calibration_of(right).reason
    single = made(300, num_labels=1)
    assert "a single class" in calibration_of(single).reason
    assert "no logits" in calibration_of(replace(made(300), logits=None)).reason


def test_unknown_keeps_its_budget_and_refuses_noise(rejecting: Path) -> None:
    predictor = Predictor(rejecting)
    test = _test_digits(predictor.card)
    known = predictor(list(test.images[:, 0]), top=1)
    share = np.mean([p.is_unknown for p in known])
    assert 0.02 < share < 0.2
    assert all((p.label == "unknown") == p.is_unknown for p in known)
    noise = np.random.default_rng(0).integers(0, 256, (200, *test.images.shape[2:]), dtype=np.uint8)
    assert np.mean([p.is_unknown for p in predictor(list(noise))]) > 0.5  # of a model with 16 features


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_agree_about_both(rejecting: Path, engine: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    ours = Predictor(rejecting, options=EngineOptions(engine="torch"))
    theirs = Predictor(rejecting, options=EngineOptions(engine=engine))  # type: ignore[arg-type]
    images = _test_digits(ours.card).images[:100, 0]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    for mine, other in zip(ours([*images, *noise]), theirs([*images, *noise]), strict=True):
        assert other.probability == pytest.approx(mine.probability, abs=1e-5)
        assert other.distance == pytest.approx(mine.distance, rel=1e-4)
        assert other.is_unknown == mine.is_unknown
    assert theirs.chosen(1).engine == engine


def test_it_travels_with_the_file_until_the_classifier_changes(rejecting: Path, tmp_path: Path) -> None:
    assert main(["convert", str(rejecting), "--to", "vitrail", str(tmp_path / "copy.safetensors")]) == 0
    card = weights.read_card(rejecting)
    assert card.calibration
    assert card.calibration.unknown
    assert weights.read_card(tmp_path / "copy.safetensors").calibration == card.calibration
    image = np.zeros((16, 16), np.uint8)
    assert Predictor(tmp_path / "copy.safetensors")(image) == Predictor(rejecting)(image)
    assert weights.stored_parameters(rejecting) == weights.num_parameters(card.geometry)
    model, other = vitrail.load(rejecting, num_labels=3)
    assert other.calibration is None
    assert model.mahalanobis is None
    vitrail.save(tmp_path / "three.safetensors", model, other)


def test_a_file_that_lacks_its_tensors_is_refused(rejecting: Path, tmp_path: Path) -> None:
    model, card = vitrail.load(rejecting)
    model.mahalanobis = None
    vitrail.save(tmp_path / "bare.safetensors", model, card)
    with pytest.raises(WeightsError, match=r"tensor unknown\.means does not fit"):
        vitrail.load(tmp_path / "bare.safetensors")
    tensors = safetensors.torch.load_file(rejecting)
    with safetensors.safe_open(rejecting, "pt") as file:
        metadata = file.metadata()
    tensors["unknown.whiten"] = torch.zeros(3, 3)
    safetensors.torch.save_file(tensors, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(WeightsError):
        vitrail.load(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "values", [{"temperature": 0.01}, {"temperature": 1e9}, {"unknown": {"reject": 2.0, "min_probability": 0.5}}]
)
def test_a_card_out_of_range_is_refused(run: RunDir, tmp_path: Path, values: dict[str, object]) -> None:
    path = Path(shutil.copy(run.best_path, tmp_path / "odd.safetensors"))
    described = card_of(path)
    described["calibration"] |= values
    change_card(path, described)
    with pytest.raises(WeightsError, match="its description is damaged"):
        weights.read_card(path)


def test_wrong_shares_and_too_few_images(run: RunDir) -> None:
    found = read_predictions(run.predictions_path("val"))
    rows = np.zeros((len(found), 4), np.float32)
    for reject in (0.0, -1.0, 0.6):
        with pytest.raises(ConfigError, match="reject is out of range"):
            unknown_of(found, rows, 1.0, reject)
    with pytest.raises(ConfigError, match="too few images to tell the unknown by"):
        unknown_of(made(20), rows[:20], 1.0, 0.05)
    with pytest.raises(ConfigError, match="thresholds of unknown are out of range"):
        Unknown(reject=0.1, min_probability=2.0, max_distance=1.0)
    with pytest.raises(ConfigError, match="temperature is out of range"):
        Calibration(temperature=0.0, reason="", split="val", num_images=1)
    with pytest.raises(ConfigError, match="no file of yours"):
        vitrail.calibrate("builtin:cifar100", "digits")


def test_the_command(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["calibrate", str(run.path), "--reject", "0.1", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert found["unknown"]["reject"] == 0.1
    assert main(["calibrate", str(run.path), "--reject", "0.7"]) == 2
    assert main(["calibrate", "builtin:cifar100", "--data", "digits"]) == 2
    assert "Add --out FILE.safetensors" in capsys.readouterr().err
    digit = _test_digits().images[0, 0]
    Image.fromarray(digit).save(tmp_path / "digit.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "noise.png")
    assert main(["predict", str(out), str(tmp_path / "digit.png"), str(tmp_path / "noise.png"), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert [a["label"] == "unknown" for a in answers] == [a["is_unknown"] for a in answers]
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "answers unknown to strange images (10% false alarms)" in shown
    assert answers[1]["is_unknown"]
    assert answers[1]["distance"] > answers[0]["distance"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unknown_on_photographs(cifar_root: Path) -> None:
    """CIFAR-100: thresholds from 2,000 test images, measured on 2,000 others, on noise and on digits."""
    model, card = vitrail.load("builtin:cifar100-conv")
    test = vitrail.load_data("cifar100", ("test",), card=card, data_root=str(cifar_root))["test"]
    order = np.random.default_rng(0).permutation(len(test))
    fitted, fresh = (_part(test, np.sort(order[at : at + 2000])) for at in (0, 2000))
    answers = evaluate(model, fitted, card.preprocessing, batch_size=250).predictions
    assert answers is not None
    found = calibration_of(answers)
    rows = features(model, fitted, card.preprocessing, batch_size=250).rows
    unknown, model.mahalanobis = unknown_of(answers, rows, found.temperature, 0.05)
    predictor = Predictor((model, replace(card, calibration=replace(found, unknown=unknown))))

    def refused(images: list[np.ndarray]) -> float:
        return float(np.mean([p.is_unknown for p in predictor(images, top=1)]))

    draw = np.random.default_rng(1)
    noise = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2000)]
    digits = [np.asarray(Image.fromarray(one[0]).resize((32, 32))) for one in _test_digits().images]
    shares = {
        "fresh": refused([image.transpose(1, 2, 0) for image in fresh.images]),
        "noise": refused(noise),
        "digits": refused([np.repeat(digit[..., None], 3, 2) for digit in digits]),
    }
    print(found, shares)
    assert 0.04 <= shares["fresh"] <= 0.06, shares
    assert shares["noise"] >= 0.99, shares
    assert shares["digits"] > 0.1, shares


def _part(image_set: vitrail.ImageSet, chosen: np.ndarray) -> vitrail.ImageSet:
    fields = {name: getattr(image_set, name)[chosen] for name in ("images", "labels", "ids")}
    return replace(image_set, names=[image_set.names[int(i)] for i in chosen], **fields)


def test_images_it_was_trained_on_are_refused(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was trained on most of these images"):
        vitrail.calibrate(run.path, split="all", out=tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="was trained on most of these images"):
        vitrail.calibrate(run.path, "digits", split="all", out=tmp_path / "m.safetensors")
    train(tiny_run(schedule={"epochs": 1}), tmp_path / "whole")  # measured on test, so that nothing was held out
    with pytest.raises(InputError, match="was trained on most of these images"):
        vitrail.calibrate(tmp_path / "whole", out=tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_unknown_stays_until_it_is_taken_back(rejecting: Path, tmp_path: Path) -> None:
    again = vitrail.calibrate(rejecting, out=tmp_path / "again.safetensors")
    assert again.unknown
    assert again.unknown.reject == 0.1
    assert vitrail.calibrate(rejecting, reject=0.0, out=tmp_path / "none.safetensors").unknown is None


def test_thresholds_hold_for_images_that_were_not_fitted() -> None:
    """Few images of many features: their own distances would be much too small."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(100, 300)).astype(np.float32)
    unknown, found = unknown_of(made(100), rows, 1.0, 0.2)
    fresh = torch.from_numpy(draw.normal(size=(2000, 300)).astype(np.float32)) @ found.whiten.T
    assert 0.03 < float((found.distances(fresh) > unknown.max_distance).float().mean()) < 0.2
