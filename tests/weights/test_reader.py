"""Any pretrained ViT through `vitrail.load`: every tensor explained, or nothing loaded and the tensor named."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import tests.support.torchvision_operators  # noqa: F401  (before transformers)
from tests.support.random_vit import randomise
from vitrail import weights
from vitrail.errors import WeightsError

transformers = pytest.importorskip("transformers")

NAMES = {0: "cat", 1: "dog", 2: "eel", 3: "fox"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def their_model(folder: Path) -> torch.nn.Module:
    """A small random ViT of transformers, saved as it saves."""
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        id2label=NAMES,
        label2id={name: i for i, name in NAMES.items()},
    )
    model = transformers.ViTForImageClassification(config)
    randomise(model, 0, 0.05)
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    their_model(tmp_path / "hf")
    return tmp_path / "hf"


def stored(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(
        {n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


@torch.no_grad()
def test_a_file_of_another_library_gives_its_logits_names_and_audit(tmp_path: Path) -> None:
    theirs = their_model(tmp_path)
    model, card = weights.load(tmp_path)
    torch.testing.assert_close(model(IMAGES)["logits"], theirs(IMAGES).logits, atol=1e-5, rtol=0)
    assert card.classes == tuple(NAMES.values())
    audit = card.provenance["audit"]
    assert {entry["name"] for entry in audit["mapped"]} == stored(tmp_path).keys()
    assert audit["unknown"] == audit["reinitialised"] == audit["dropped"] == audit["adapted"] == []
    assert len(card.provenance["audit_lines"]) == 5
    weights.save(tmp_path / "ours.safetensors", model, card)
    again, same_card = weights.load(tmp_path / "ours.safetensors")
    assert same_card == card
    assert torch.equal(again(IMAGES)["logits"], model(IMAGES)["logits"])


def test_reading_draws_no_random_number_unless_a_head_is_new(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_removing_any_tensor_is_an_error_that_names_it(folder: Path) -> None:
    tensors = stored(folder)
    for name in tensors:
        rewrite(folder, {n: t for n, t in tensors.items() if n != name})
        with pytest.raises(WeightsError) as caught:
            weights.load(folder)
        assert any(part in str(caught.value) for part in (name, _canonical(name))), (name, str(caught.value))


def test_renaming_any_tensor_is_an_error_that_names_it(folder: Path) -> None:
    tensors = stored(folder)
    for name in tensors:
        rewrite(folder, {n + "_x" if n == name else n: t for n, t in tensors.items()})
        with pytest.raises(WeightsError) as caught:
            weights.load(folder)
        assert any(part in str(caught.value) for part in (name, _canonical(name))), (name, str(caught.value))


def test_reshaping_or_transposing_any_tensor_is_an_error_that_names_it(folder: Path) -> None:
    tensors = stored(folder)
    tried = 0
    for name, tensor in tensors.items():
        for wrong in (tensor.flatten()[:-1], tensor.mT if tensor.ndim >= 2 else tensor[None], tensor[..., None]):
            if wrong.shape == tensor.shape:
                continue  # a square matrix transposed has the right shape: no file can tell (docs/weights)
            rewrite(folder, {**tensors, name: wrong})
            with pytest.raises(WeightsError) as caught:
                weights.load(folder)
            assert any(part in str(caught.value) for part in (name, _canonical(name))), (name, str(caught.value))
            tried += 1
    assert tried > 2 * len(tensors)


def test_a_tensor_that_nobody_knows_is_an_error(folder: Path) -> None:
    rewrite(folder, {**stored(folder), "vit.extra.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"unknown: vit\.extra\.weight"):
        weights.load(folder)


def test_positions_are_resampled_never_started_anew(folder: Path) -> None:
    model, card = weights.load(folder, image_size=64)
    original = stored(folder)["vit.embeddings.position_embeddings"]
    grid = original[:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic").flatten(2).mT
    torch.testing.assert_close(model.pos_embed[:, 1:], expected)
    assert torch.equal(model.pos_embed[:, :1], original[:, :1])
    assert card.preprocessing.image_size == (64, 64)
    adapted = card.provenance["audit"]["adapted"]
    assert [entry["name"] for entry in adapted] == ["vit.embeddings.position_embeddings"]


def test_the_head_follows_the_names_of_the_classes(folder: Path) -> None:
    head = stored(folder)["classifier.weight"]
    model, card = weights.load(folder, classes=("fox", "owl", "cat"))
    assert torch.equal(model.head.weight[0], head[3])
    assert torch.equal(model.head.weight[2], head[0])
    assert card.classes == ("fox", "owl", "cat")
    ten, ten_card = weights.load(folder, num_labels=10)
    assert ten(IMAGES)["logits"].shape == (2, 10)
    assert ten_card.classes == ()
    assert [e["name"] for e in ten_card.provenance["audit"]["reinitialised"]] == ["head.weight", "head.bias"]
    features, _ = weights.load(folder, num_labels=0)
    assert features(IMAGES)["logits"].shape == (2, 32)


def test_a_contradicting_configuration_is_an_error_with_both_values(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError) as caught:
        weights.load(folder)
    assert "2" in str(caught.value)
    assert "3" in str(caught.value)


@torch.no_grad()
def test_half_precision_files_are_read_into_fp32(folder: Path) -> None:
    rewrite(folder, {n: t.half() for n, t in stored(folder).items()})
    model, card = weights.load(folder, image_size=64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert card.provenance["dtype"] == "float16"


def _canonical(name: str) -> str:
    """What the error may call a tensor instead of its name in the file."""
    return {
        "vit.embeddings.cls_token": "pos_embed",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "vit.encoder.layer.0.intermediate.dense.weight": "blocks.0.mlp.fc1.weight",
    }.get(name, name)
