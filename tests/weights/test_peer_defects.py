"""Six defects of other libraries, reproduced where they are installed (docs/defects.md), and what happens here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
from tests.support.random_vit import randomise
from vitrail import data, weights
from vitrail.config import DataConfig
from vitrail.errors import WeightsError
from vitrail.model.attention_maps import record_attention

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def huggingface(folder: Path, attention: str = "sdpa") -> torch.nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=4, attn_implementation=attention,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    randomise(model, 0, 0.05)
    model.eval().save_pretrained(folder)
    return model


def timm_folder(folder: Path) -> torch.nn.Module:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 4}
    model = timm.create_model("vit_base_patch16_224", **arguments)
    randomise(model, 0, 0.05)
    timm.models.save_for_hf(model.eval(), folder, model_args=arguments, safe_serialization=True)
    return model


def timm_from(file: Path, **arguments: Any) -> dict[str, torch.Tensor]:
    """What timm makes of a pretrained file, as its train.py --pretrained-path does."""
    model = timm.create_model(
        "vit_base_patch16_224", pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **arguments
    )
    return model.state_dict()


def test_r1_there_a_file_of_another_library_is_ignored_without_an_error(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path).state_dict().values()
    found = timm_from(tmp_path / "model.safetensors", num_classes=4, **SMALL)
    weights_there = [tensor for name, tensor in found.items() if name.endswith("weight") and tensor.ndim > 1]
    assert len(weights_there) == 10
    assert not any(torch.equal(ours, t) for ours in weights_there for t in theirs if t.shape == ours.shape)


def test_r2_there_the_final_norm_is_lost_without_an_error(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path).state_dict()
    geometry = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    found = timm_from(tmp_path / "model.safetensors", num_classes=10, global_pool="avg", **geometry)
    assert torch.equal(found["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert "norm.weight" in theirs.keys() - found.keys()
    assert found["fc_norm.weight"].eq(1).all()
    assert not found["fc_norm.bias"].any()


def test_r3_there_positions_are_made_anew(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path).state_dict()["vit.embeddings.position_embeddings"]
    model = transformers.ViTForImageClassification.from_pretrained(
        tmp_path, image_size=64, ignore_mismatched_sizes=True
    )
    found = model.state_dict()["vit.embeddings.position_embeddings"]
    back = torch.nn.functional.avg_pool2d(found[:, 1:].mT.unflatten(2, (8, 8)), 2).flatten(2).mT
    assert torch.corrcoef(torch.stack((back.flatten(), theirs[:, 1:].flatten())))[0, 1].abs() < 0.3
    assert not torch.equal(found[:, :1], theirs[:, :1])


@torch.no_grad()
def test_r4_there_no_attention_comes_out(tmp_path: Path) -> None:
    huggingface(tmp_path)
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert model(IMAGES, output_attentions=True).attentions == ()


def test_r5_there_no_attention_comes_out_of_fused_kernels() -> None:
    model = timm.create_model("vit_base_patch16_224", num_classes=4, **SMALL).eval()
    if not model.blocks[0].attn.fused_attn:
        pytest.skip("timm does not use fused attention here")
    extract = timm.utils.AttentionExtract
    with pytest.raises(RuntimeError, match="No node names found"):
        extract(model, method="fx")
    assert extract(model, method="hook")(IMAGES) == {}


def test_r6_there_each_split_numbers_its_own_classes(tmp_path: Path) -> None:
    splits_with_a_class_less(tmp_path)
    train, val = (timm.data.create_dataset("", root=str(tmp_path), split=split) for split in ("train", "val"))
    assert train.reader.class_to_idx == {"a": 0, "b": 1, "c": 2}
    assert [label for _, label in val.reader.samples] == [0, 0, 1, 1], "b and c, one less than in training"


@torch.no_grad()
def test_r1_a_file_of_another_library_is_read_not_ignored(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path)
    model, _ = weights.load(tmp_path)
    torch.testing.assert_close(model(IMAGES)["logits"], theirs(IMAGES).logits, atol=1e-5, rtol=0)
    with pytest.raises(WeightsError, match="no weights of a ViT"):
        torch.save({"conv1.weight": torch.ones(8, 3, 3, 3)}, tmp_path / "resnet.pth")
        weights.load(tmp_path / "resnet.pth")


def test_r2_another_number_of_classes_starts_the_head_anew_and_nothing_else(tmp_path: Path) -> None:
    theirs = timm_folder(tmp_path).state_dict()
    model, card = weights.load(tmp_path, num_labels=10)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    assert kept.keys() == {name for name in theirs if not name.startswith("head.")}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in kept.items())
    assert {e["name"] for e in card.provenance["audit"]["reinitialised"]} == {"head.weight", "head.bias"}


def test_r3_positions_are_resampled_for_another_size(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path).state_dict()["vit.embeddings.position_embeddings"]
    model, card = weights.load(tmp_path, image_size=64)
    back = torch.nn.functional.avg_pool2d(model.pos_embed[:, 1:].mT.unflatten(2, (8, 8)), 2).flatten(2).mT
    alike = torch.corrcoef(torch.stack((back.flatten(), theirs[:, 1:].flatten())))[0, 1]
    assert alike > 0.9
    assert torch.equal(model.pos_embed[:, :1], theirs[:, :1])
    assert card.provenance["audit"]["adapted"][0]["name"] == "vit.embeddings.position_embeddings"


@torch.no_grad()
def test_r4_attention_beside_the_fused_kernels(tmp_path: Path) -> None:
    expected = huggingface(tmp_path, "eager")(IMAGES, output_attentions=True).attentions
    model, _ = weights.load(tmp_path)
    plain = model(IMAGES)["logits"]
    with record_attention(model) as maps:
        recorded = model(IMAGES)["logits"]
    assert torch.equal(recorded, plain)
    assert len(maps) == 2
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@torch.no_grad()
def test_r5_attention_of_a_timm_model(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    model, _ = weights.load(tmp_path)
    with record_attention(model) as maps:
        model(IMAGES)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 17, 17)] * 2
    assert all(torch.allclose(m.sum(-1), torch.ones(2, 4, 17), atol=1e-5) for m in maps)


def splits_with_a_class_less(folder: Path) -> None:
    """Classes a, b and c for training, b and c for validation."""
    for split, names in (("train", "abc"), ("val", "bc")):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8), (40 * i, 0, ord(name))).save(folder / split / name / f"{i}.png")


def test_r6_the_training_set_decides_the_classes(tmp_path: Path) -> None:
    splits_with_a_class_less(tmp_path)
    splits = data.load(DataConfig(spec=str(tmp_path), image_size=8), ("train", "val"))
    assert splits["train"].classes == splits["val"].classes == ("a", "b", "c")
    assert splits["val"].labels.tolist() == [1, 1, 2, 2]
