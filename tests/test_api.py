"""Every public name does what it says, from a folder of images to a model and its answers."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.random_vit import random_vit
from vitrail.cli import main
from vitrail.config import InitConfig
from vitrail.selftest.tiny import TINY_MODEL, tiny_run

TINY: dict[str, Any] = {
    **{f"model.{name}": getattr(TINY_MODEL, name) for name in ("hidden_size", "num_hidden_layers")},
    "model.num_attention_heads": 2,
    "epochs": 1,
}
DIGITS = vitrail.DataConfig(spec="digits", image_size=8, channels="L", mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of three digits, without splits."""
    folder = tmp_path_factory.mktemp("photos")
    digits = vitrail.load_data(DIGITS, ("train",))["train"]
    for number in np.flatnonzero(digits.labels < 3)[:90]:
        place = folder / f"digit {digits.classes[digits.labels[number]]}"
        place.mkdir(exist_ok=True)
        Image.fromarray(digits.images[number, 0]).resize((32, 32)).convert("RGB").save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vitrail.RunResult:
    return vitrail.train("digits", tmp_path_factory.mktemp("api") / "run", settings=TINY)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> vitrail.RunResult:
    run = tmp_path_factory.mktemp("api") / "tuned"
    return vitrail.finetune("builtin:cifar100", photos, run, settings={"epochs": 1, "min_steps": 0})


def test_every_public_name_stands_in_this_file() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vitrail"
    }
    assert set(vitrail.__all__) - used == set()


# ---- train -------------------------------------------------------------------------------------------------------


def test_train_by_the_name_of_a_recipe(run: vitrail.RunResult) -> None:
    stored = json.loads((run.run / "config.json").read_text())
    assert (stored["recipe"], stored["model"]["hidden_size"], stored["schedule"]["epochs"]) == ("digits", 16, 1)
    assert run.model == run.run / "best.safetensors"
    assert run.evaluation["num_examples"] == 359


def test_train_gives_the_weights_of_the_command(run: vitrail.RunResult, tmp_path: Path) -> None:
    flags = [word for name, value in TINY.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert main(["train", "digits", "--run", str(tmp_path / "run"), *flags]) == 0
    by_command, _ = vitrail.load(tmp_path / "run" / "last.safetensors")
    for name, value in vitrail.load(run.run / "last.safetensors")[0].state_dict().items():
        assert torch.equal(value, by_command.state_dict()[name]), name


def test_train_with_a_whole_configuration_and_on(tmp_path: Path) -> None:
    config: vitrail.RunConfig = tiny_run(schedule={"epochs": 2})
    stopped = vitrail.train(config, tmp_path / "run", settings={"max_steps": 3})
    assert stopped.steps == 3
    assert vitrail.train("digits", tmp_path / "run", resume=True, settings={"max_steps": 0}).steps == 24
    with pytest.raises(vitrail.ConfigError, match="another recipe"):
        vitrail.train("cifar10", tmp_path / "run", resume=True)
    with pytest.raises(vitrail.RunError):
        vitrail.train(config, tmp_path / "run")


def test_train_on_a_folder_holds_a_part_out(photos: Path, tmp_path: Path) -> None:
    settings = {**TINY, "data.channels": "RGB", "image_size": 32, "mean": [0.5] * 3, "std": (0.5, 0.5, 0.5)}
    result = vitrail.train("digits", tmp_path / "run", data=photos, settings=settings)
    assert (result.evaluation["split"], result.evaluation["num_examples"]) == ("val", 9)
    with pytest.raises(vitrail.DataError, match="no split 'test'"):  # what is asked for is left as it is
        settings |= {"evaluation.split": "test", "data.spec": str(photos)}
        vitrail.train("digits", tmp_path / "other", settings=settings)


def test_train_starts_from_weights(run: vitrail.RunResult, tmp_path: Path) -> None:
    source = str(run.model)
    result = vitrail.train("digits", tmp_path / "run", weights=source, settings={**TINY, "max_steps": 1})
    assert json.loads((result.run / "config.json").read_text())["init"] == dataclasses.asdict(
        InitConfig(weights=source)
    )


def test_settings_that_are_wrong_are_named(tmp_path: Path) -> None:
    for settings, told in (
        ({"epochz": 1}, "Did you mean 'epochs'"),
        ({"epochs": "3"}, "schedule.epochs has a wrong value"),
        ({"optim.lr": -1.0}, "optim.lr"),
        ({"split": "all"}, "evaluation.split"),
    ):
        with pytest.raises(vitrail.ConfigError, match=told):
            vitrail.train("digits", tmp_path / "run", settings=settings)
    with pytest.raises(vitrail.ConfigError, match="starts from pretrained weights"):
        vitrail.train("finetune", tmp_path / "run")
    with pytest.raises(vitrail.DataError):
        vitrail.train("digits", tmp_path / "run", data=tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


# ---- pretrain ----------------------------------------------------------------------------------------------------


def test_pretrain_gives_the_weights_of_the_command_and_finetune_takes_them(photos: Path, tmp_path: Path) -> None:
    settings = {**TINY, "data.image_size": 16, "data.batch_size": 32}
    result = vitrail.pretrain(photos, tmp_path / "one", settings=settings)
    flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert main(["pretrain", "--data", str(photos), "--run", str(tmp_path / "two"), *flags]) == 0
    by_command, card = vitrail.load(tmp_path / "two" / "last.safetensors")
    for name, value in vitrail.load(result.run / "last.safetensors")[0].state_dict().items():
        assert torch.equal(value, by_command.state_dict()[name]), name
    assert card.classes == ()
    tuned = vitrail.finetune(str(result.run), photos, tmp_path / "tuned", settings={"epochs": 1, "min_steps": 0})
    assert vitrail.load(tuned.run)[1].classes == ("digit 0", "digit 1", "digit 2")
    with pytest.raises(vitrail.RunError, match="no answers to report on"):
        vitrail.report(result.run)


# ---- finetune ----------------------------------------------------------------------------------------------------


def test_finetune_takes_architecture_and_preprocessing_from_the_weights(tuned: vitrail.RunResult) -> None:
    _, card = vitrail.load(tuned.model)
    _, before = vitrail.load("builtin:cifar100")
    assert card.classes == ("digit 0", "digit 1", "digit 2")
    assert (card.geometry.hidden_size, card.preprocessing) == (before.geometry.hidden_size, before.preprocessing)
    assert tuned.baseline.num_examples == 9


def test_finetune_gives_the_weights_of_the_command(tuned: vitrail.RunResult, photos: Path, tmp_path: Path) -> None:
    words = ["finetune", "builtin:cifar100", "--data", str(photos), "--run", str(tmp_path / "run")]
    assert main([*words, "--epochs", "1", "--min-steps", "0"]) == 0
    ours = json.loads((tuned.run / "config.json").read_text())
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == ours
    by_command, _ = vitrail.load(tmp_path / "run" / "last.safetensors")
    for name, value in vitrail.load(tuned.run / "last.safetensors")[0].state_dict().items():
        assert torch.equal(value, by_command.state_dict()[name]), name


def test_finetune_says_what_it_does_only_when_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vitrail.finetune("builtin:cifar100", photos, tmp_path / "quiet", recipe="knn")
    assert capsys.readouterr() == ("", "")
    settings = {"epochs": 1, "min_steps": 0, "data.image_size": 16}
    vitrail.finetune("builtin:cifar100", photos, tmp_path / "run", settings=settings, progress=True)
    told = capsys.readouterr().err
    assert "settings for a small model" in told
    assert "epoch 1/1" in told
    assert vitrail.load(tmp_path / "run")[1].preprocessing.image_size == (16, 16)
    with pytest.raises(vitrail.ConfigError, match="no recipe"):
        vitrail.finetune("builtin:cifar100", photos, recipe="finetun")
    with pytest.raises(vitrail.WeightsError):
        vitrail.finetune("builtin:nothing", photos)


# ---- evaluate ----------------------------------------------------------------------------------------------------


def test_evaluate_repeats_the_figure_of_the_run(run: vitrail.RunResult) -> None:
    notes: list[str] = []
    found: vitrail.Evaluation = vitrail.evaluate(run.run, on_note=notes.append)
    assert found.to_json()["confusion"] == run.evaluation["confusion"]
    assert notes[-1].startswith("engine: torch")
    again = vitrail.evaluate(vitrail.load(run.model), "digits", batch_size=7, options=vitrail.EngineOptions())
    assert again.num_correct == found.num_correct


def test_evaluate_and_predict_take_views(run: vitrail.RunResult) -> None:
    predictor, digits = vitrail.Predictor(run.run), vitrail.load_data("digits", ("test",))["test"]
    found = vitrail.evaluate(predictor, views="mirror")
    assert found.with_mirror
    assert vitrail.evaluate(predictor).with_mirror is None
    answers = vitrail.predict(predictor, list(digits.images[:, 0]), views="mirror")
    right = sum(one.label == digits.classes[label] for one, label in zip(answers, digits.labels, strict=True))
    assert right == found.with_mirror.num_correct != found.num_correct


def test_evaluate_on_what_the_run_held_out(tuned: vitrail.RunResult, photos: Path) -> None:
    held_out = vitrail.evaluate(tuned.run)
    assert (held_out.split, held_out.num_examples) == ("val", 9)
    assert held_out.num_correct == tuned.evaluation["num_correct"]
    assert vitrail.evaluate(tuned.run, photos, split="train").num_examples == 81
    assert vitrail.evaluate(tuned.run, photos, split="all").num_examples == 90
    with pytest.raises(vitrail.DataError, match="none of the model's classes"):
        vitrail.evaluate(tuned.run, "digits")


def test_evaluate_refuses_what_has_no_accuracy() -> None:
    model = random_vit()
    preprocessing = vitrail.Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    unnamed = vitrail.Card(geometry=model.config, classes=(), preprocessing=preprocessing)
    with pytest.raises(vitrail.InputError, match="no names"):
        vitrail.evaluate((model, unnamed), "digits")
    several = dataclasses.replace(unnamed, problem_type="multi_label_classification")
    with pytest.raises(vitrail.InputError, match="yes or no"):
        vitrail.evaluate((model, several), "digits")


# ---- predict and features ----------------------------------------------------------------------------------------


def test_predict_takes_files_folders_and_pixels(tuned: vitrail.RunResult, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    found: list[vitrail.Prediction] = vitrail.predict(tuned.run, photos, top=2)
    assert [one.path for one in found] == list(map(str, files))
    first: vitrail.Ranked = found[0].top[0]
    assert (first.label, first.probability) == (found[0].label, found[0].probability)
    assert len(found[0].top) == 2
    predictor = vitrail.Predictor(tuned.run)
    mixed = vitrail.predict(predictor, [files[0], np.asarray(Image.open(files[1])), photos / "digit 2"])
    assert len(mixed) == 2 + len(list((photos / "digit 2").iterdir()))
    assert mixed[0].probability == pytest.approx(found[0].probability, abs=1e-6)
    assert mixed[1].top[0].label == found[1].label
    with pytest.raises(vitrail.InputError, match="already"):
        vitrail.predict(predictor, files, image_size=64)
    with pytest.raises(vitrail.DataError, match="no files"):
        (photos.parent / "empty").mkdir()
        vitrail.predict(predictor, photos.parent / "empty")


def test_an_image_that_cannot_be_read(tuned: vitrail.RunResult, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("hello")
    for function in (vitrail.predict, vitrail.features, vitrail.explain):
        with pytest.raises(vitrail.ImageError, match=r"broken\.png"):
            function(tuned.run, tmp_path)


def test_explain_says_of_which_class_each_map_is(tuned: vitrail.RunResult, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:2]
    found: vitrail.Explanations = vitrail.explain(tuned.run, files, out=tmp_path / "out")
    predicted = vitrail.predict(tuned.run, files)
    assert [(one.path, one.label) for one in found.items] == [(one.path, one.label) for one in predicted]
    first: vitrail.Explanation = found.items[0]
    assert first.probability == pytest.approx(predicted[0].probability, abs=1e-5)
    measured: vitrail.Faithfulness = first.faithfulness["tokens"]
    assert -1 < measured.srg < 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "explain.json", "map-00000.npy", "map-00001.npy", "sheet.png"
    }  # fmt: skip


def test_features_are_what_the_classifier_sees(tuned: vitrail.RunResult, photos: Path) -> None:
    rows = vitrail.features(tuned.run, photos, batch_size=32)
    model, card = vitrail.load(tuned.run)
    assert isinstance(model, vitrail.ViT)
    assert rows.shape == (90, model.config.hidden_size)
    with torch.inference_mode():
        scores = model.head(torch.from_numpy(rows)).softmax(1)
    for row, found in zip(scores, vitrail.predict((model, card), photos), strict=True):
        assert float(row.max()) == pytest.approx(found.probability, abs=1e-5)
    everything = vitrail.load_data(photos, ("all",), card=card)["all"]
    names = [str(photos / name) for name in everything.names]
    by_name = dict(zip(map(str, sorted(photos.rglob("*.png"))), rows, strict=True))
    of_set = vitrail.features(vitrail.Predictor(tuned.run), everything)
    assert np.allclose(of_set, [by_name[name] for name in names], atol=1e-5)


def test_features_of_a_model_without_a_classifier() -> None:
    headless = random_vit(num_labels=0)
    card = vitrail.Card(
        geometry=headless.config,
        classes=(),
        preprocessing=vitrail.Preprocessing(image_size=(16, 16), decode_size=(16, 16)),
    )
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert vitrail.features((headless, card), image).shape == (1, 32)
    assert vitrail.features((headless, card), [image, image], image_size=32).shape == (2, 32)


# ---- data, models, errors ----------------------------------------------------------------------------------------


def test_load_data(photos: Path) -> None:
    digits = vitrail.load_data(DIGITS)
    assert {name: len(split) for name, split in digits.items()} == {"train": 1438, "test": 359}
    assert isinstance(digits["test"], vitrail.ImageSet)
    assert digits["test"].images.shape == (359, 1, 8, 8)
    assert list(vitrail.load_data(vitrail.DataConfig(spec=str(photos), image_size=32))) == ["train"]
    held = vitrail.load_data(str(photos), ("train", "val"), card=vitrail.load("builtin:cifar100", num_labels=0)[1])
    assert {name: len(split) for name, split in held.items()} == {"train": 81, "val": 9}
    with pytest.raises(vitrail.DataError, match="is not a data set"):
        vitrail.load_data(photos / "nowhere")


def test_check_data(photos: Path, tmp_path: Path) -> None:
    assert vitrail.check_data(photos)["is_clean"] and "near" not in vitrail.check_data(photos)
    with pytest.raises(vitrail.DataError, match=r"\.csv"):
        vitrail.check_data(photos, manifest=tmp_path / "clean.txt")
    headless = random_vit(num_labels=0)
    preprocessing = vitrail.Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    card = vitrail.Card(geometry=headless.config, classes=(), preprocessing=preprocessing)
    found = vitrail.check_data(photos, model=(headless, card), manifest=tmp_path / "clean.csv")["near"]
    assert found["kinds"]["near leaks"] == 0 and found["num_kept"] <= 90
    assert sum(map(len, vitrail.load_data(tmp_path / "clean.csv").values())) == found["num_kept"]


def test_batch_predictor(run: vitrail.RunResult, photos: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.png")))[:5]
    answers = vitrail.BatchPredictor(run.run)({"path": paths})
    assert list(answers["label"]) == [one.label for one in vitrail.predict(run.run, paths)]


def test_save_and_load(tmp_path: Path) -> None:
    config = vitrail.ViTConfig.named("Ti/16", image_size=32, num_labels=2, num_hidden_layers=1)
    model = vitrail.ViT(config).eval()
    preprocessing = vitrail.Preprocessing(image_size=(32, 32), decode_size=(32, 32))
    path = tmp_path / "model.safetensors"
    vitrail.save(path, model, vitrail.Card(geometry=config, classes=("cat", "dog"), preprocessing=preprocessing))
    again, card = vitrail.load(path)
    assert card.classes == ("cat", "dog")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode(), vitrail.record_attention(again) as maps:
        assert torch.equal(again(images)["logits"], model(images)["logits"])
    assert [tuple(one.shape) for one in maps] == [(2, 3, 5, 5)]
    assert vitrail.recipes.get("digits").recipe == "digits"


def test_every_error_is_one_of_ours_and_says_how_a_command_ends() -> None:
    told = {
        vitrail.ConfigError("x"): 2,
        vitrail.DataError("x"): 2,
        vitrail.ImageError("x", "name"): 2,
        vitrail.InputError("x"): 2,
        vitrail.WeightsError("x"): 2,
        vitrail.RunError("x"): 2,
        vitrail.SaveError("x"): 74,
        vitrail.RankLost("x"): 75,
        vitrail.Interrupted("x", signal_number=2, do="y"): 130,
    }
    assert all(isinstance(error, vitrail.VitrailError) for error in told)
    assert {error: error.exit_status for error in told} == told
    named = {name for name in vitrail.__all__ if isinstance(getattr(vitrail, name), type)}
    kinds = {name for name in named if issubclass(getattr(vitrail, name), Exception)}
    assert kinds - {"VitrailError"} == {type(error).__name__ for error in told}


# ---- looking into a model ----------------------------------------------------------------------------------------


def test_calibrate_report_and_compare(run: vitrail.RunResult, tmp_path: Path) -> None:
    found = vitrail.calibrate(run.model, split="test", out=tmp_path / "calibrated.safetensors")
    assert found.num_images == 359
    assert vitrail.Predictor(tmp_path / "calibrated.safetensors").temperature == found.temperature
    report = vitrail.report(run.run, out=tmp_path / "page.html")
    assert report.measured
    assert report.measured.num_correct == run.evaluation["num_correct"]
    same = vitrail.compare(run.run, run.run)
    assert same.answer == "unclear"
    assert same.paired.p_mid == 1.0


def test_export(run: vitrail.RunResult, tmp_path: Path) -> None:
    images = vitrail.load_data("digits", ("test",))["test"].images[:3, 0]
    options = vitrail.ExportOptions(precision="int8", min_agreement=0.5, max_drop=1.0)
    found: vitrail.Exported = vitrail.export(run.run, tmp_path / "x.onnx", data="digits", samples=40, options=options)
    assert found.parity["top1"][1] == 40
    assert found.accuracy is not None
    predictor = vitrail.ExportedPredictor(found.path)
    expected = [one.label for one in vitrail.predict(run.model, list(images))]
    assert sum(a.label == b for a, b in zip(predictor(list(images)), expected, strict=True)) >= 2
    assert vitrail.predict(found.path, images[0])[0].top == predictor(images[0])[0].top


def test_explain(run: vitrail.RunResult) -> None:
    images = vitrail.load_data("digits", ("test",))["test"].images[:2, 0]
    found = vitrail.explain(run.model, list(images), faithfulness=False)
    assert len(found.items) == 2
    assert found.items[0].map.ndim == 2
