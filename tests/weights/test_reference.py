"""The checkpoint of the reference system: trained here in a few steps, saved as its training saves it, and used."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import tests.support.torchvision_operators  # noqa: F401  (before transformers)
from tests.support.folders import image_folder
from tests.support.random_vit import randomise
from tests.support.reference_vit import ReferenceViT
from vitrail import weights
from vitrail.cli import main


def trained(**changes: object) -> tuple[ReferenceViT, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = ReferenceViT(**changes)  # type: ignore[arg-type]
    randomise(model, 1, 0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 224, 224)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), optimizer


def checkpoint(path: Path, model: ReferenceViT, optimizer: torch.optim.Optimizer) -> Path:
    torch.save(
        {
            "epoch": 4,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "accuracy": 51.66,
        },
        path,
    )
    return path


@pytest.mark.parametrize("mask_token", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_plain_implementation(tmp_path: Path, mask_token: bool) -> None:
    with torch.enable_grad():
        theirs, optimizer = trained(mask_token=mask_token)
    path = checkpoint(tmp_path / "best.pth", theirs, optimizer)
    for size in (224, 448, (168, 280)):
        model, card = weights.load(path, image_size=size)
        height, width = (size, size) if isinstance(size, int) else size
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
        expected = theirs(images)
        assert expected.std() > 0.05
        torch.testing.assert_close(model(images)["logits"], expected, rtol=0, atol=1e-5)
        assert card.provenance["training"] == {"epoch": 4, "accuracy": 51.66}
        assert card.geometry.use_mask_token == mask_token


def test_training_and_fine_tuning_have_different_constants(tmp_path: Path) -> None:
    theirs, optimizer = trained()
    scratch = weights.load(checkpoint(tmp_path / "a.pth", theirs, optimizer))[1]
    torch.save(theirs.state_dict(), tmp_path / "b.pth")
    tuned = weights.load(tmp_path / "b.pth")[1]
    assert scratch.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    assert tuned.preprocessing.mean == (0.5, 0.5, 0.5)
    assert any("mean and std" in line for line in scratch.provenance["defaulted"])
    assert any("2 attention heads" in line for line in tuned.provenance["defaulted"])


@pytest.mark.parametrize(("prefix", "head"), [("module.", "classifier"), ("", "head"), ("module.", "fc")])
def test_names_of_the_classifier_and_wrappers_change_nothing(tmp_path: Path, prefix: str, head: str) -> None:
    theirs, optimizer = trained()
    card = weights.load(checkpoint(tmp_path / "a.pth", theirs, optimizer))[1]
    state = {prefix + name.replace("classifier.", f"{head}."): tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 4, "model_state_dict": state, "accuracy": 51.66}, tmp_path / "b.pth")
    other = weights.load(tmp_path / "b.pth")[1]
    assert (other.preprocessing, other.geometry) == (card.preprocessing, card.geometry)


def test_the_number_of_heads_is_taken_from_config_json(tmp_path: Path) -> None:
    theirs, optimizer = trained()
    checkpoint(tmp_path / "a.pth", theirs, optimizer)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    card = weights.load(tmp_path)[1]
    assert card.geometry.num_attention_heads == 4
    assert not any("attention heads" in line for line in card.provenance["defaulted"])


def test_every_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, optimizer = trained(depth=1)
    path = checkpoint(tmp_path / "best.pth", theirs, optimizer)

    def told(*args: str) -> dict[str, object]:
        capsys.readouterr()
        assert main([*args, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    inspected = told("inspect", str(path))
    assert inspected["family"] == "reference"
    assert inspected["audit"]["dropped"] == [  # type: ignore[index]
        {"name": "optimizer_state_dict.* (60 tensors)", "reason": "stands beside the model in a training file"}
    ]
    assert main(["inspect", str(path)]) == 0
    assert "epoch 4, accuracy 51.66" in capsys.readouterr().out
    told("convert", str(path), str(tmp_path / "ours.safetensors"), "--to", "vitrail", "--verify")
    told("convert", str(path), str(tmp_path / "hf"), "--to", "huggingface", "--verify")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    answers = [
        told("predict", str(model), str(tmp_path / "a.png"), "--engine", "torch")
        for model in (path, tmp_path / "ours.safetensors")
    ]
    # Weights at another place in memory may give other last bits.
    first, second = ([(r["label"], r["probability"]) for p in a["predictions"] for r in p["top"]] for a in answers)
    assert [label for label, _ in first] == [label for label, _ in second]
    assert [p for _, p in first] == pytest.approx([p for _, p in second], abs=1e-6)
    data = image_folder(tmp_path / "data", {f"{split}/{name}": 2 for split in ("train", "val") for name in ("a", "b")})
    run = str(tmp_path / "run")
    told(
        "finetune", str(path), "--data", str(data), "--run", run, "--recipe", "reference-finetune",
        "--schedule.epochs", "1", "--data.batch-size", "2",
    )  # fmt: skip
    assert weights.load_card(run).classes == ("a", "b")
