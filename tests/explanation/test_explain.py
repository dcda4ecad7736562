"""`vitrail explain` and `vitrail.explain`: what they take, what they say, what they leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.random_vit import random_vit
from vitrail.cli import main
from vitrail.cli.explain import METHODS as OFFERED
from vitrail.explanation import METHODS
from vitrail.runtime import EngineOptions

CLASSES = ("cat", "dog", "猫", "owl", "<b>")


def model(**changes: Any) -> tuple[vitrail.ViT, vitrail.Card]:
    made = random_vit(**{"image_size": (16, 24), **changes})
    preprocessing = vitrail.Preprocessing(image_size=(16, 24), decode_size=(16, 24))
    classes = CLASSES[: made.config.num_labels]
    return made, vitrail.Card(geometry=made.config, classes=classes, preprocessing=preprocessing)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, two images, and a file that is none."""
    folder = tmp_path_factory.mktemp("explain")
    vitrail.save(folder / "m.safetensors", *model())
    (folder / "images").mkdir()
    for i in range(2):
        Image.fromarray(picture(i)).save(folder / "images" / f"{i}.png")
    (folder / "images" / "broken.png").write_text("no image")
    return folder


def test_the_command_offers_what_there_is() -> None:
    assert set(OFFERED) == {*METHODS, "best"}


def test_the_command_leaves_a_sheet_maps_and_last_the_json(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "here"
    words = ["explain", str(place / "m.safetensors"), str(place / "images"), "--out", str(out)]
    assert main([*words, "--class", "猫", "--class", "owl", "--against", "dog", "--smooth", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = json.loads((out / "explain.json").read_text())
    assert stored["classes"] == list(CLASSES)
    assert {key: stored[key] for key in told if key not in ("out", "errors")} == {
        key: value for key, value in told.items() if key not in ("out", "errors")
    }
    assert [Path(error["path"]).name for error in told["errors"]] == ["broken.png"]
    assert [(Path(e["path"]).name, e["label"]) for e in told["explanations"]] == [
        (name, label) for name in ("0.png", "1.png") for label in ("猫", "owl")
    ]
    assert {e["against"] for e in told["explanations"]} == {"dog"}
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size[0] > 600
    assert set(stored["sha256"]) == {path.name for path in out.iterdir()} - {"explain.json"}
    for e in told["explanations"]:
        values = np.load(out / e["map"])
        assert values.shape == (4, 6)
        assert values.dtype == np.float32
        assert e["grid"] == [4, 6]
        assert e["image_size"] == [16, 24]
        assert e["faithfulness"]["tokens"]["srg"] == pytest.approx(
            e["faithfulness"]["tokens"]["lerf"] - e["faithfulness"]["tokens"]["morf"]
        )
    low, high = told["faithfulness"]["tokens"]["interval"]
    assert low <= told["faithfulness"]["tokens"]["srg"] <= high
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_tells_people(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", str(place / "m.safetensors"), str(place / "images")]
    assert main([*words, "--out", str(tmp_path / "a"), "--method", "rollout", "--no-faithfulness"]) == 0
    printed = capsys.readouterr().out
    assert "the same map for every class" in printed
    assert "rollout on torch fp32" in printed
    assert "unreadable:" in printed
    assert main([*words, "--out", str(tmp_path / "b"), "--method", "best"]) == 0
    printed = capsys.readouterr().out
    assert "a random order has 0.00 +- " in printed
    assert "SRG of each method: " in printed
    assert "flatters" in printed
    assert main([*words, "--class", "cta"]) == 2
    assert "Perhaps you meant cat" in capsys.readouterr().err
    assert main([*words, "--class", "cat", "--against", "cat"]) == 2
    assert "compared with itself" in capsys.readouterr().err
    assert not Path("explained").exists()


def test_the_function_explains_what_was_predicted_and_what_is_true() -> None:
    predictor = vitrail.Predictor(model())
    pictures = [picture(i) for i in range(4)]
    predicted = [p.label for p in predictor(pictures)]
    truth = [predicted[0], *("owl" if label != "owl" else "cat" for label in predicted[1:])]
    found = vitrail.explain(predictor, pictures, truth=truth, faithfulness=False)
    expected = [(0, predicted[0])]
    expected += [pair for i in range(1, 4) for pair in ((i, predicted[i]), (i, truth[i]))]
    assert [one.label for one in found.items] == [label for _, label in expected]
    assert found.items[0].probability == found.items[0].top[0].probability
    assert found.srg == {}
    for one, (number, _) in zip(found.items, expected, strict=True):
        assert one.map.shape == (4, 6)
        assert one.image.shape == (16, 24, 3)
        assert np.array_equal(one.image, found.items[[n for n, _ in expected].index(number)].image)
    alone = vitrail.explain(predictor, pictures[3], classes=[truth[3]], faithfulness=False)
    torch.testing.assert_close(alone.items[0].map, found.items[-1].map, rtol=0, atol=1e-5)


def test_against_the_predicted_class_the_next_one_is_compared() -> None:
    predictor = vitrail.Predictor(model())
    first, second = (r.label for r in predictor(picture(0))[0].top[:2])
    found = vitrail.explain(predictor, picture(0), against=first)
    assert (found.items[0].label, found.items[0].against) == (first, second)


def test_what_is_said_of_other_engines_and_stems() -> None:
    merged = vitrail.Predictor(model(), options=EngineOptions(engine="torch", merge=4))
    pictures = [picture(i) for i in range(6)]
    plain = [p.label for p in vitrail.Predictor(model())(pictures)]
    found = vitrail.explain(merged, pictures, faithfulness=False)
    assert found.engine == "torch fp32"
    assert found.disagreements == sum(a.label != b for a, b in zip(merged(pictures), plain, strict=True))
    assert [one.label for one in found.items] == plain
    stem = model(pooling="mean", stem_channels=(8,), stem_strides=(2,), patch_size=2)
    both = vitrail.explain(stem, pictures[:2])
    assert set(both.srg) == {"tokens", "mean colour"}
    assert "mean colour" in both.notes[0]
    half, card = model()
    half.half()
    halved = vitrail.explain((half, card), picture(0), faithfulness=False)
    assert halved.items[0].map.dtype == np.float32
    assert half.head.weight.dtype == torch.float16


def test_yes_or_no_models_and_a_model_of_one_patch() -> None:
    made, card = model(num_labels=1)
    answers = replace(card, problem_type="multi_label_classification")
    found = vitrail.explain((made, answers), picture(0))
    assert found.items[0].top[0].probability == pytest.approx(found.items[0].probability)
    one, card = model(image_size=4)
    single = vitrail.explain((one, card), picture(0), image_size=(4, 4))
    assert single.items[0].map.shape == (1, 1)
    assert single.srg["tokens"] == 0.0


@torch.no_grad()
def test_evidence_outside_the_picture_and_outliers_are_told() -> None:
    made, card = model(num_registers=3)
    found = vitrail.explain((made, card), picture(0), method="gradient-rollout", faithfulness=False)
    assert 0 < found.items[0].outside < 1
    assert found.items[0].outliers == ()
    made.pos_embed[:, 1 + 9] *= 1000  # the patch in row 1, column 3
    found = vitrail.explain((made, card), picture(0), faithfulness=False)
    assert found.items[0].outliers == ((1, 3),)


def test_refused() -> None:
    for words, told in (
        ({"method": "legard"}, "Perhaps you meant legrad"),
        ({"truth": ["cat", "dog"]}, "one class for each image"),
        ({"truth": ["cat"], "classes": ["cat"]}, "without `classes`"),
    ):
        with pytest.raises(vitrail.VitrailError, match=told):
            vitrail.explain(model(), picture(0), **words)  # type: ignore[arg-type]
    with pytest.raises(vitrail.ImageError):
        vitrail.explain(model(), b"nothing")
