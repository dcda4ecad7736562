"""Models that answer with several classes, a yes or no, or numbers: kept in the card, never read with a softmax."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.folders import image_folder
from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.cli import main
from vitrail.config import Preprocessing
from vitrail.errors import InputError, WeightsError
from vitrail.predictor import Predictor
from vitrail.weights import Card

GEOMETRY: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-6}
CLASSES = ("ant", "bee", "cat", "dog", "eel")
IMAGE = Image.new("RGB", (16, 16), (200, 30, 90))


def folder(path: Path, changes: dict[str, Any] | None = None, num_labels: int = 5, to: str = "huggingface") -> Path:
    """Weights of another library, `changes` in their config.json."""
    model = random_vit(**{**GEOMETRY, "num_labels": num_labels})
    card = Card(
        geometry=model.config,
        classes=CLASSES[:num_labels],
        preprocessing=Preprocessing(image_size=(16, 16), decode_size=(16, 16)),
    )
    weights.write(path, model, card, to)  # type: ignore[arg-type]
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **(changes or {})}))
    return path


@torch.no_grad()
def test_several_classes_take_a_sigmoid_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "hf", {"problem_type": "multi_label_classification"})
    model, card = weights.load(source)
    assert card.problem_type == "multi_label_classification"
    weights.save(tmp_path / "ours.safetensors", model, card)
    weights.write(tmp_path / "again", model, card, "huggingface")
    assert weights.load_card(tmp_path / "again").problem_type == card.problem_type
    told = [Predictor(str(where), device="cpu")(IMAGE)[0] for where in (source, tmp_path / "ours.safetensors")]
    assert told[0].top == told[1].top
    assert abs(sum(ranked.probability for ranked in told[0].top) - 1) > 0.1
    data = image_folder(tmp_path / "data", dict.fromkeys(CLASSES, 2))
    assert main(["eval", str(source), "--data", str(data), "--split", "all"]) == 2
    assert "yes or no for each class" in capsys.readouterr().err
    assert main(["inspect", str(source)]) == 0
    assert "yes or no for each class" in capsys.readouterr().out
    assert weights.load(source, classes=CLASSES)[1].problem_type == card.problem_type  # the same rows
    assert weights.load(source, classes=("x", "y"))[1].problem_type == "single_label_classification"


@torch.no_grad()
def test_a_single_logit_is_a_yes_or_no(tmp_path: Path) -> None:
    source = folder(tmp_path / "timm", num_labels=1, to="timm")
    model, card = weights.load(source)
    [answer] = Predictor((model, card), device="cpu")(IMAGE)
    assert len(answer.top) == 1
    assert 0.001 < answer.probability < 0.999


def test_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "hf", {"problem_type": "regression"})
    with pytest.raises(InputError, match="regression"):
        Predictor(str(source), device="cpu")
    assert main(["inspect", str(source)]) == 0
    assert "numbers (regression)" in capsys.readouterr().out


def test_an_unknown_problem_type_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="unknown problem_type"):
        weights.load(folder(tmp_path / "hf", {"problem_type": "ranking"}))


def test_a_head_that_was_left_out_is_named_when_classes_are_asked_for(tmp_path: Path) -> None:
    tensors = {**random_vit(**{**GEOMETRY, "num_labels": 0}).state_dict()}
    tensors |= {f"head.0.{n}": t for n, t in torch.nn.Linear(64, 8).state_dict().items()}
    tensors |= {f"head.2.{n}": t for n, t in torch.nn.Linear(8, 5).state_dict().items()}
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"head\.0\.weight, head\.0\.bias"):
        Predictor(str(tmp_path / "m.pth"), device="cpu")


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    names = {"0": "crane", "1": "bee", "2": "crane", "3": "dog", "4": "Crane (2)"}
    source = folder(tmp_path / "hf", {"id2label": names})
    model, card = weights.load(source)
    assert card.classes == ("crane", "bee", "crane (2)", "dog", "Crane (2)")
    tuned, _ = weights.load(source, classes=("crane", "bee", "owl"))
    assert torch.equal(tuned.head.weight[1], model.head.weight[1])
    assert not (tuned.head.weight[0] == model.head.weight).all(1).any()  # which of the two is meant, nobody knows
    timm_folder = folder(tmp_path / "timm", {"label_names": ["a", "b", "a", "c", "d"]}, to="timm")
    assert weights.load_card(timm_folder).classes == ("a", "b", "a (2)", "c", "d")


@pytest.mark.parametrize(
    ("names", "classes", "said"),
    [
        ({"1": "a", "2": "b", "3": "c", "4": "d", "5": "e"}, (), "id2label does not have the numbers 0 to 4"),
        ({"00": "a", "1": "b", "2": "c", "3": "d", "4": "e"}, ("a", "b", "c", "d", "e"), ""),
        ({str(i): f"LABEL_{i}" for i in range(5)}, (), ""),
    ],
)
def test_numbers_of_classes(tmp_path: Path, names: dict[str, str], classes: tuple[str, ...], said: str) -> None:
    card = weights.load_card(folder(tmp_path / "hf", {"id2label": names}))
    assert card.classes == classes
    assert said in " ".join(card.provenance["defaulted"])


def test_a_key_that_is_no_number_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "hf", {"id2label": dict(zip(CLASSES, CLASSES, strict=True))})
    assert main(["inspect", str(source)]) == 2
    assert "'ant'" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["vitrail", "huggingface", "timm"])
def test_a_failed_comparison_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    source = folder(tmp_path / "hf")
    target = tmp_path / "out" / ("m.safetensors" if to == "vitrail" else "m")
    target.parent.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("vitrail.weights.verify.TOLERANCE", -1.0)
        assert main(["convert", str(source), str(target), "--to", to, "--verify"]) == 2
    assert "computes other logits" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []
    assert main(["convert", str(source), str(target), "--to", to, "--verify"]) == 0
    assert [path.name for path in target.parent.iterdir()] == [target.name]
